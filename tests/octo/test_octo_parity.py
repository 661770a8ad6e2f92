"""Our Octo computes what upstream's computes: embeddings, losses, gradients, actions and optimizer steps."""

from __future__ import annotations

import copy
import json
from typing import Any

import jax
import numpy as np
import optax
import pytest

from gap_vla.octo.module import OctoModule
from gap_vla.octo.normalization import unnormalize
from gap_vla.octo.optimizer import create_optimizer, join_frozen, split_frozen
from tests.helpers import octo_golden as golden

PER_CASE = pytest.mark.parametrize("name", golden.CASES)


@PER_CASE
def test_every_token_group_matches(name: str) -> None:
    case = golden.load(name)
    outputs = golden.evaluated(name)[0][1][1]
    expected = {key.split("/")[1] for key in case.outputs if key.startswith("transformer/")}
    assert set(outputs) == expected
    for group, found in outputs.items():
        np.testing.assert_allclose(found.tokens, case.outputs[f"transformer/{group}/tokens"], atol=1e-4)
        np.testing.assert_array_equal(found.mask, case.outputs[f"transformer/{group}/mask"].astype(bool))


@PER_CASE
def test_loss_and_metrics_match(name: str) -> None:
    case = golden.load(name)
    (loss, (metrics, _)), _ = golden.evaluated(name)
    np.testing.assert_allclose(loss, case.outputs["loss/value"], rtol=1e-5)
    for key, value in metrics.items():
        np.testing.assert_allclose(value, case.outputs[f"loss/metrics/{key}"], rtol=1e-5)


@PER_CASE
def test_parameter_gradients_match(name: str) -> None:
    case = golden.load(name)
    grads = golden.flat(golden.evaluated(name)[1])
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in case.grads.values()))
    for key, leaf in grads.items():
        if "hf_model" in key:
            assert not leaf.any(), key
            continue
        # Keys' biases have no gradient in exact arithmetic, so theirs is rounding, judged by the whole gradient.
        scale = max(np.linalg.norm(case.grads[key]), 1e-4 * total)
        assert np.linalg.norm(leaf - case.grads[key]) <= 1e-3 * scale, key


@pytest.mark.parametrize("name", ["b", "c"])
def test_sampled_actions_match(name: str) -> None:
    case, tolerance = golden.load(name), 1e-5 if name == "b" else 2e-3

    def sample(statistics: dict[str, Any]) -> jax.Array:
        with golden.upstream_randomness(case):
            return case.model.sample_actions(
                case.batch["observation"],
                case.batch["task"],
                unnormalization_statistics=statistics,
                rng=case.outputs["sample/rng"],
            )

    statistics = case.model.dataset_statistics["action"]
    actions = sample({"mean": np.zeros(7), "std": np.ones(7)})
    np.testing.assert_allclose(actions, case.outputs["sample/default"], atol=tolerance)
    for kind in ("normal", "bounds"):
        expected = case.outputs[f"sample/unnorm_{kind}"]
        np.testing.assert_allclose(unnormalize(actions, statistics, kind), expected, atol=2 * tolerance)

    five = {key: value[:5] for key, value in statistics.items()}
    np.testing.assert_allclose(sample(five), case.outputs["sample/unnorm_normal_5dims"], atol=2 * tolerance)


@pytest.mark.parametrize("argmax", [False, True])
def test_sampled_actions_of_normal_bins_match(argmax: bool) -> None:
    case = golden.load("d")
    inputs = (case.batch["observation"], case.batch["task"])
    with golden.upstream_randomness(case):
        actions = case.model.sample_actions(*inputs, argmax=argmax, rng=case.outputs["sample/rng"])
    np.testing.assert_allclose(actions, case.outputs["sample/argmax" if argmax else "sample/default"], atol=1e-5)
    scaled = unnormalize(actions, case.model.dataset_statistics["action"], "normal")
    if argmax:
        np.testing.assert_allclose(scaled, case.outputs["sample/unnorm_normal"], atol=2e-5)


def test_several_samples_match() -> None:
    case = golden.load("a")
    with golden.upstream_randomness(case):
        actions = case.model.sample_actions(
            case.batch["observation"],
            case.batch["task"],
            sample_shape=(2,),
            argmax=True,
            rng=case.outputs["sample/rng"],
        )
    np.testing.assert_allclose(actions, case.outputs["sample/sample_shape_2"], atol=2e-3)


VARIANTS = [
    ("b", "no_wrist"),
    ("b", "no_goal_image"),
    ("b", "window1"),
    ("b", "legacy_attention"),
    ("c", "no_language"),
    ("c", "no_obs_pad_mask_dict"),
]


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_reduced_inputs_and_legacy_attention_match(name: str, variant: str) -> None:
    case = golden.load(name)
    batch = copy.deepcopy(case.batch)
    observation, task = batch["observation"], batch["task"]
    module = case.model.module
    if variant == "no_wrist":
        del observation["image_wrist"], observation["pad_mask_dict"]["image_wrist"]
    elif variant == "no_goal_image":
        del task["image_primary"], task["pad_mask_dict"]["image_primary"]
    elif variant == "no_language":
        del task["language_instruction"], task["pad_mask_dict"]["language_instruction"]
    elif variant == "no_obs_pad_mask_dict":
        del observation["pad_mask_dict"]
    elif variant == "window1":
        observation = jax.tree.map(lambda leaf: leaf[:, -1:], observation)
    else:
        module = OctoModule.create(**{**case.model.config["model"], "use_correct_attention": False})

    def run(params: Any) -> Any:
        mask = observation["timestep_pad_mask"]
        return module.apply({"params": params}, observation, task, mask, train=False, method="octo_transformer")

    with golden.upstream_randomness(case):
        outputs = golden.quick(run, case.model.params)(case.model.params)
    for group, found in outputs.items():
        expected = case.outputs.get(f"{variant}/{group}/tokens")
        if expected is not None:
            np.testing.assert_allclose(found.tokens, expected, atol=1e-4, err_msg=group)


@PER_CASE
def test_four_optimizer_steps_match(name: str) -> None:
    case = golden.load(name)
    options = dict(case.model.config["optimizer"])
    frozen_keys = options.pop("frozen_keys", None) or ()
    tx, schedule = create_optimizer(**options)

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any, dict[str, jax.Array]]:
        updates, state = tx.update(grads, state, params)
        norm = optax.tree_utils.tree_norm
        norms = {"grad_norm": norm(grads), "update_norm": norm(updates), "param_norm": norm(params)}
        return optax.apply_updates(params, updates), state, norms

    key = jax.random.PRNGKey(99)
    params, frozen = split_frozen(case.model.params, frozen_keys)
    state = golden.quick(tx.init, params)(params)
    compiled = golden.quick(update, params, state, params)
    for step in range(4):
        with golden.upstream_randomness(case):
            key, dropout_key = jax.random.split(key)
        (loss, _), grads = golden.compiled_step(name)(join_frozen(params, frozen), dropout_key)
        params, state, metrics = compiled(split_frozen(grads, frozen_keys)[0], state, params)
        for metric, value in {"loss": loss, "learning_rate": schedule(step), **metrics}.items():
            expected = case.outputs[f"train_false/step{step}/{metric}"]
            np.testing.assert_allclose(value, expected, rtol=1e-3, err_msg=f"{metric}, step {step}")

    new, old = golden.flat(join_frozen(params, frozen)), golden.flat(case.model.params)
    change = {key: np.linalg.norm(new[key] - old[key]) for key in new}
    expected_change = json.loads((case.directory / "param_delta_l2.json").read_text())
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in case.grads.values()))
    for key, value in change.items():
        # Adam makes full steps of the rounding that keys' biases have for a gradient.
        if key in case.grads and np.linalg.norm(case.grads[key]) < 1e-4 * total:
            continue
        np.testing.assert_allclose(value, expected_change[key], rtol=2e-2, atol=1e-5, err_msg=key)
