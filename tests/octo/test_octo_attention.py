"""Attention over many tokens, and last layers that compute only what is read: the same results for less work."""

import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_vla.octo import attention as module
from gap_vla.octo import blocks
from gap_vla.octo.attention import attend, attention, key_spans
from gap_vla.octo.blocks import BlockTransformer, Transformer
from gap_vla.octo.token_groups import AttentionRule, TimestepGroup
from tests.helpers import octo_golden as golden

BATCH, TOKENS, HEADS, WIDTH = 2, 12, 3, 8
STOPS = [4, 8, 12]
CAUSAL = np.repeat(np.repeat(np.tril(np.ones((3, 3), bool)), 4, axis=0), 4, axis=1)


def inputs(seed: int = 0) -> tuple[list[jax.Array], np.ndarray]:
    """Query, key, value and a cotangent; a mask with padded keys, and queries that no key is allowed to."""
    rng = np.random.default_rng(seed)
    arrays = [jnp.asarray(rng.normal(size=(BATCH, TOKENS, HEADS, WIDTH)), jnp.float32) for _ in range(4)]
    mask = np.array(np.broadcast_to(CAUSAL & (rng.random((BATCH, 1, 1, TOKENS)) < 0.7), (BATCH, 1, TOKENS, TOKENS)))
    mask[0, 0, :3] = mask[1, 0, 5] = False
    return arrays, mask


def ours(query: jax.Array, key: jax.Array, value: jax.Array, mask: np.ndarray, **options: Any) -> jax.Array:
    settings = {"dropout_rate": 0.0, "broadcast_dropout": False, "deterministic": True, "force_fp32_for_softmax": True}
    settings |= {"dropout_rng": None, "dtype": jnp.float32} | options
    return attention(query, key, value, jnp.asarray(mask), **settings)


@pytest.mark.parametrize("spans", [(), key_spans(CAUSAL, STOPS)], ids=["whole", "in spans"])
def test_few_passes_give_flaxs_result_and_gradient(monkeypatch: pytest.MonkeyPatch, spans: Any) -> None:
    monkeypatch.setattr(module, "MANY", TOKENS)
    (*arrays, cotangent), mask = inputs()

    def value_and_gradients(attend: Any) -> Any:
        def run(*arrays: jax.Array) -> Any:
            value, back = jax.vjp(attend, *arrays)
            return value, back(cotangent)

        return golden.quick(run, *arrays)(*arrays)

    found, gradients = value_and_gradients(lambda *x: ours(*x, mask, spans=spans))
    expected, plain = value_and_gradients(lambda *x: nn.dot_product_attention(*x, mask=mask, deterministic=True))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for gradient, other in zip(gradients, plain, strict=True):
        np.testing.assert_allclose(gradient, other, atol=2e-6)


def test_dropout_is_flaxs(monkeypatch: pytest.MonkeyPatch) -> None:
    (*arrays, _), mask = inputs()
    options = {"dropout_rate": 0.5, "deterministic": False, "dropout_rng": jax.random.PRNGKey(0)}
    plain = ours(*arrays, mask, **options)
    monkeypatch.setattr(module, "MANY", TOKENS)
    np.testing.assert_array_equal(ours(*arrays, mask, **options), plain)
    assert not np.allclose(plain, ours(*arrays, mask))


def test_spans_end_at_the_last_key_that_a_layout_allows() -> None:
    assert key_spans(CAUSAL, STOPS) == ((4, 4), (8, 8), (12, 12))
    assert key_spans(CAUSAL.T, STOPS) == ((4, 12), (8, 12), (12, 12))
    assert key_spans(np.zeros((4, 4), bool), [2, 4]) == ((2, 4), (4, 4))  # blind queries average over everything


def test_neither_attentions_weights_nor_the_derivative_of_gelu_are_kept_for_the_gradient() -> None:
    tokens, mask = 512, jnp.ones((1, 1, 512, 512), bool)

    def floats_a_layer(layer: Any, x: jax.Array) -> float:
        """What the compiled gradient works in, for each layer more."""

        def loss(x: jax.Array, layers: int) -> jax.Array:
            for _ in range(layers):
                x = layer(x)
            return jnp.sum(x**2)

        memory = [
            jax.jit(jax.grad(lambda x, n=n: loss(x, n))).lower(x).compile().memory_analysis().temp_size_in_bytes
            for n in (2, 8)
        ]
        return (memory[1] - memory[0]) / 6 / 4

    x = jnp.ones((1, tokens, 1, 4))
    assert floats_a_layer(lambda x: nn.dot_product_attention(x, x, x, mask=mask), x) > 0.9 * tokens**2
    assert floats_a_layer(lambda x: attend(x, x, x, mask), x) < 0.2 * tokens**2
    grid = jnp.linspace(-3, 3, 50)
    for ours, plain in (
        (blocks.gelu, nn.gelu),
        (jax.grad(lambda x: blocks.gelu(x).sum()), jax.grad(lambda x: nn.gelu(x).sum())),
    ):
        np.testing.assert_allclose(ours(grid), plain(grid), atol=1e-6)
    into, back = np.ones((8, 256), np.float32), np.ones((256, 8), np.float32)
    assert floats_a_layer(lambda x: nn.gelu(x @ into) @ back, jnp.ones((1024, 8))) > 1.8 * 1024 * 256
    assert floats_a_layer(lambda x: blocks.gelu(x @ into) @ back, jnp.ones((1024, 8))) < 1.2 * 1024 * 256


def test_a_last_layer_for_few_rows_gives_the_rows_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 1)
    transformer = Transformer(num_layers=2, mlp_dim=16, num_attention_heads=2, dropout_rate=0.0)
    rng = np.random.default_rng(0)
    x, mask = jnp.asarray(rng.normal(size=(2, TOKENS, WIDTH)), jnp.float32), jnp.asarray(CAUSAL[None, None])
    shapes = jax.eval_shape(lambda key: transformer.init(key, x, mask, train=False), jax.random.PRNGKey(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)
    rows = np.array([3, 7, 11])

    def loss(params: Any, picked: np.ndarray | None) -> tuple[jax.Array, jax.Array]:
        out = transformer.apply(params, x, mask, train=False, rows=picked, spans=key_spans(CAUSAL, STOPS))
        out = out[:, rows] if picked is None else out
        return jnp.sum(out**3), out

    def run(picked: np.ndarray | None) -> Any:
        return golden.quick(jax.value_and_grad(lambda p: loss(p, picked), has_aux=True), params)(params)

    (_, found), gradients = run(rows)
    (_, expected), plain = run(None)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for gradient, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5)
    few, whole = (
        jax.jit(lambda p, picked=picked: loss(p, picked)[0]).lower(params).cost_analysis()["flops"]
        for picked in (rows, None)
    )
    assert few < 0.8 * whole


def test_only_the_groups_that_a_head_reads_are_returned() -> None:
    case = golden.load("c")
    model, observation = case.model, case.batch["observation"]

    def outputs(only: list[str] | None) -> Any:
        def transform(params: Any) -> Any:
            bound = model.module.bind({"params": params}, rngs={"dropout": jax.random.PRNGKey(0)})
            mask = observation["timestep_pad_mask"]
            return bound.octo_transformer(observation, case.batch["task"], mask, train=False, only=only)

        with contextlib.chdir(case.directory):
            return golden.quick(transform, model.params)(model.params)

    whole, part = outputs(None), outputs(["readout_action", "obs_proprio"])
    assert set(part) == {"readout_action", "obs_proprio"}
    for name, group in part.items():
        np.testing.assert_allclose(group.tokens, whole[name].tokens, atol=1e-5)
        np.testing.assert_array_equal(group.mask, whole[name].mask)


def test_layouts_with_later_timesteps_allowed_are_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 1)
    rules = {"obs_*": AttentionRule.ALL}
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4, WIDTH)), jnp.float32)
    group = TimestepGroup.create(tokens, name="obs_a", attention_rules=rules)
    options = {"num_layers": 1, "mlp_dim": 8, "num_attention_heads": 2}
    block = BlockTransformer(options, use_correct_attention=True)

    def difference(key: jax.Array, tokens: jax.Array) -> jax.Array:
        params = block.init(key, [], [group], False)

        def first_step(tokens: jax.Array) -> jax.Array:
            return block.apply(params, [], [group.replace(tokens=tokens)], False)[1][0].tokens[:, 0]

        return first_step(tokens) - first_step(tokens.at[:, 2, :, 0].add(1))

    key = jax.random.PRNGKey(0)
    assert np.abs(golden.quick(difference, key, tokens)(key, tokens)).max() > 1e-3
