"""What the transformer's blocks compute again in the backward pass instead of keeping it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_vla.octo import blocks

TOKENS, WIDTH = 12, 16


def loss_and_gradients(monkeypatch, recompute_from, deterministic=True):
    """Of one block on fixed inputs, with attention weights recomputed from so many tokens on."""
    monkeypatch.setattr(blocks, "RECOMPUTE_FROM", recompute_from)
    rng = np.random.default_rng(0)
    block = blocks.Encoder1DBlock(mlp_dim=32, num_heads=2)
    x = jnp.asarray(rng.normal(size=(2, TOKENS, WIDTH)), jnp.float32)
    mask = jnp.tril(jnp.ones((TOKENS, TOKENS), bool))[None, None]
    params = block.init(jax.random.PRNGKey(0), x, mask, True)

    def loss(params):
        out = block.apply(params, x, mask, deterministic, rngs={"dropout": jax.random.PRNGKey(1)})
        return jnp.sum(out**2)

    program = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
    return *program(params), str(jax.make_jaxpr(jax.grad(loss))(params))


@pytest.mark.parametrize("deterministic", [True, False])
def test_recomputed_attention_changes_neither_result_nor_gradient(monkeypatch, deterministic):
    kept = loss_and_gradients(monkeypatch, TOKENS + 1, deterministic)
    again = loss_and_gradients(monkeypatch, TOKENS, deterministic)
    np.testing.assert_allclose(again[0], kept[0], rtol=1e-6)
    for ours, plain in zip(jax.tree.leaves(again[1]), jax.tree.leaves(kept[1]), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    exponentials = [text.count(" exp ") for text in (kept[2], again[2])]
    assert exponentials[1] == exponentials[0] + 1  # the softmax is computed a second time


def test_attention_looks_only_where_the_mask_allows(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)
    block = blocks.Encoder1DBlock(mlp_dim=32, num_heads=2)
    mask = jnp.tril(jnp.ones((TOKENS, TOKENS), bool))[None, None]
    params = block.init(jax.random.PRNGKey(0), x, mask, True)
    for recompute_from in (TOKENS, TOKENS + 1):
        monkeypatch.setattr(blocks, "RECOMPUTE_FROM", recompute_from)
        other = x.copy()
        other[:, 5:] += 1
        before, after = (np.asarray(block.apply(params, value, mask, True)) for value in (x, other))
        np.testing.assert_array_equal(before[:, :5], after[:, :5])
        assert not np.allclose(before[:, 5:], after[:, 5:])
