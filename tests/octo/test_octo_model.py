"""Tasks, batches that do not fit, options of the implementation, and small models from presets."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_vla.core.errors import ConfigError
from gap_vla.octo import language, presets
from gap_vla.octo.blocks import Compute
from gap_vla.octo.encoders import convolve
from gap_vla.octo.language import embed_language
from gap_vla.octo.model import OctoModel
from gap_vla.octo.module import OctoModule
from gap_vla.octo.normalization import stated_normalization, unnormalize
from gap_vla.octo.parameters import merge_params, parameter_shapes
from gap_vla.octo.tokenizers import matching_keys
from tests.helpers import octo_golden as golden


def test_texts_become_upstreams_word_pieces() -> None:
    case = golden.load("c")
    texts = [str(text) for text in golden.arrays(case.directory / "inputs.npz")["task/language_strings"]]
    with golden.upstream_randomness(case):
        task = golden.flat(case.model.create_tasks(texts=texts))
    expected = golden.arrays(case.directory / "create_tasks_texts.npz")
    assert set(task) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(task[key], value)
        assert task[key].dtype == value.dtype


def test_goals_are_marked_present_and_missing_texts_as_padding() -> None:
    case = golden.load("a")
    goal = case.batch["task"]["image_primary"]
    masks = case.model.create_tasks(goals={"image_primary": goal})["pad_mask_dict"]
    assert masks["image_primary"].all() and not masks["language_instruction"].any()
    with pytest.raises(ConfigError, match="text processor"):
        case.model.create_tasks(texts=["go"])


def test_inputs_that_do_not_fit_the_model_are_named() -> None:
    case = golden.load("b")
    observation, task = case.batch["observation"], case.batch["task"]
    for change, named in (
        ({"proprio": np.zeros((3, 2, 6), np.float32)}, r"proprio is \(3, 2, 6\).*\(B, W, 5\)"),
        ({"image_primary": observation["image_primary"] / 255}, "image_primary.*uint8"),
    ):
        with pytest.raises(ConfigError, match=named):
            case.model.sample_actions({**observation, **change}, task)
    with pytest.raises(ConfigError, match="found bridge"):
        case.model.sample_actions(observation, task, unnormalization_statistics={"bridge": {"action": {}}})
    with pytest.raises(ConfigError, match="cup"):
        golden.load("c").model.create_tasks(texts="cup")


def test_statistics_choose_the_dimensions_the_mask_and_the_units() -> None:
    actions = np.linspace(-1, 1, 28, dtype=np.float32).reshape(1, 4, 7)
    mean, std, mask = np.arange(5.0), np.full(5, 2.0), np.arange(5) != 2  # any column, not the last
    found = unnormalize(actions, {"mean": mean, "std": std, "mask": mask})
    np.testing.assert_allclose(found, np.where(mask, actions[..., :5] * 2 + mean, actions[..., :5]), rtol=1e-6)
    low, high = np.full(5, -3.0), np.full(5, 1.0)
    for names in (("p01", "p99"), ("q01", "q99")):  # Octo's and OpenVLA's
        found = unnormalize(actions, dict(zip(names, (low, high))), "bounds")
        np.testing.assert_allclose(found, 2 * actions[..., :5] - 1, atol=1e-6)


def test_actions_are_unnormalized_as_the_config_says() -> None:
    case = golden.load("b")
    statistics = {"mean": np.ones(3), "std": np.full(3, 2.0), "p01": np.full(3, -4.0), "p99": np.full(3, 4.0)}
    of = {"data_kwargs": {"action_proprio_normalization_type": "bounds"}}
    model = case.model.replace(config={**case.model.config, "dataset_kwargs": [of, of]})
    assert stated_normalization(model.config) == "bounds" and stated_normalization({"normalization": "normal"})
    inputs = case.batch["observation"], case.batch["task"]
    plain = model.sample_actions(*inputs, argmax=True)
    np.testing.assert_allclose(model.sample_actions(*inputs, statistics, argmax=True), 4 * plain[..., :3], atol=1e-5)
    as_asked = model.sample_actions(*inputs, statistics, "normal", argmax=True)
    np.testing.assert_allclose(as_asked, 2 * plain[..., :3] + 1, atol=1e-5)
    other = {"data_kwargs": {"action_proprio_normalization_type": "normal"}}
    with pytest.raises(ConfigError, match="bounds and normal"):
        stated_normalization({"dataset_kwargs": [of, other]})


def test_an_instruction_embedded_beforehand_gives_the_same_tokens() -> None:
    case = golden.load("c")
    with golden.upstream_randomness(case):
        task = embed_language(case.model.module, case.model.params, case.batch["task"])
        observation, params = case.batch["observation"], {"params": case.model.params}
        inputs = observation, task, observation["timestep_pad_mask"]
        outputs = jax.jit(functools.partial(case.model.module.apply, method="octo_transformer"))(params, *inputs)
    expected = case.outputs["intermediates/octo_transformer/task_tokenizers_language/hf_model/last_hidden_state"]
    np.testing.assert_allclose(task["language_instruction"], expected, atol=1e-4)
    np.testing.assert_allclose(
        outputs["readout_action"].tokens, case.outputs["transformer/readout_action/tokens"], atol=1e-4
    )


def test_sampling_encodes_an_instruction_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden.load("c")
    runs: list[int] = []
    encode = language.embed_language
    monkeypatch.setattr(language, "embed_language", lambda *args: runs.append(1) or encode(*args))
    monkeypatch.setattr(language, "_REMEMBERED", collections.OrderedDict())

    def sample(model: OctoModel, task: Any) -> np.ndarray:
        with golden.upstream_randomness(case):
            return np.asarray(model.sample_actions(case.batch["observation"], task, rng=jax.random.PRNGKey(0)))

    first = sample(case.model, case.batch["task"])
    np.testing.assert_array_equal(sample(case.model, copy.deepcopy(case.batch["task"])), first)
    assert len(runs) == 1
    changed = copy.deepcopy(case.batch["task"])
    changed["language_instruction"]["input_ids"][0, 0] += 1
    assert not np.allclose(sample(case.model, changed), first)
    assert len(runs) == 2
    weights = jax.tree.map(lambda leaf: leaf * 1.5, case.model.params)
    fresh = sample(case.model.replace(params=weights), case.batch["task"])
    assert len(runs) == 3 and not np.allclose(fresh, first)
    monkeypatch.setattr(language, "id", lambda leaf: 0, raising=False)  # as if new weights lay where old ones were
    np.testing.assert_array_equal(sample(case.model, case.batch["task"]), first)
    assert not np.allclose(sample(case.model.replace(params=weights), case.batch["task"]), first)


def test_bfloat16_arithmetic_keeps_float32_parameters_and_nearly_the_loss() -> None:
    case = golden.load("c")
    module = OctoModule.create(**case.model.config["model"], compute=Compute(dtype=jnp.bfloat16))
    changed = dataclasses.replace(case, model=case.model.replace(module=module))
    with golden.upstream_randomness(case):
        shapes = parameter_shapes(module, case.batch)
        arguments = (case.model.params, case.outputs["loss/rng"])
        loss, _ = golden.quick(functools.partial(golden.loss_and_outputs, changed), *arguments)(*arguments)
    assert golden.flat_shapes(shapes) == golden.flat_shapes(case.model.params)
    np.testing.assert_allclose(loss, case.outputs["loss/value"], rtol=2e-2)


def test_a_camera_is_not_stacked_onto_one_whose_name_its_own_begins_with() -> None:
    keys = ("image_wrist", "image_wrist_left")
    tokenizers = OctoModule.create(**presets.small_config(keys)["model"]).octo_transformer.observation_tokenizers
    read = [matching_keys(dict.fromkeys(keys), tokenizers[key.removeprefix("image_")].obs_stack_keys) for key in keys]
    assert read == [["image_wrist"], ["image_wrist_left"]]
    assert presets.small_config()["model"]["observation_tokenizers"]["primary"]["kwargs"]["obs_stack_keys"] == [
        "image_primary"
    ]


def test_a_stem_of_patches_is_the_convolution_that_upstream_would_compute() -> None:
    options: dict[str, Any] = {"image_size": 32, "window_size": 1}
    config = presets.small_config(**options, stem_features=(32, 32, 32), stem_patch=4)
    encoder = config["model"]["observation_tokenizers"]["primary"]["kwargs"]["encoder"]["kwargs"]
    assert (encoder["kernel_sizes"], encoder["strides"], encoder["padding"]) == ([4, 3, 3], [4, 2, 2], [0, 1, 1])
    tree = golden.flat_shapes(parameter_shapes(OctoModule.create(**config["model"]), presets.example_batch(**options)))
    assert tree["octo_transformer/obs_primary_pos_embedding"][0] == (1, 1, 2 * 2, 64)
    rng = np.random.default_rng(0)
    image, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 10, 8, 3), (4, 4, 3, 5)))
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(image, kernel, (4, 4), ((0, 0), (0, 0)), dimension_numbers=numbers)
    np.testing.assert_allclose(convolve(image, kernel, (4, 4), ((0, 0), (0, 0))), expected, rtol=1e-4, atol=1e-5)


def test_only_what_is_not_pretrained_is_initialised(capsys: pytest.CaptureFixture[str]) -> None:
    small: dict[str, Any] = {"image_size": 8, "window_size": 1}
    sizes = {"stem_features": (32,), "token_embedding_size": 8, "num_attention_heads": 2, "num_layers": 1}
    built = {
        horizon: (
            presets.small_config(**small, **sizes, action_horizon=horizon),
            presets.example_batch(**small, action_horizon=horizon),
        )
        for horizon in (2, 3)
    }
    shapes = parameter_shapes(OctoModule.create(**built[2][0]["model"]), built[2][1])
    pretrained = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    fresh = OctoModel.from_config(*built[3], rng=jax.random.PRNGKey(2)).params
    expected, account = merge_params(fresh, pretrained, verbose=False)
    found = OctoModel.from_config(*built[3], rng=jax.random.PRNGKey(2), pretrained=pretrained).params
    assert sorted(account.fresh) == ["heads_action/mean_proj/bias", "heads_action/mean_proj/kernel"]
    assert "re-initialised heads_action/mean_proj/kernel (8, 21): its shape was (8, 14)" in capsys.readouterr().out
    for key, leaf in golden.flat(expected).items():
        np.testing.assert_array_equal(golden.flat(found)[key], leaf)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), pretrained)
    trained, _ = merge_params(fresh, half, verbose=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {np.dtype("float32")}, "16 bits round steps away"
    kept, _ = merge_params(half, pretrained, verbose=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {np.dtype("float32")}, "as they were saved"


def test_initialisation_is_upstreams() -> None:
    case = golden.load("b")
    model = OctoModel.from_config(case.model.config, case.batch)
    for key, leaf in golden.flat(model.params).items():
        expected = case.tree[key]
        error = 6 * expected["init_std"] / np.sqrt(leaf.size)
        assert abs(leaf.mean() - expected["init_mean"]) <= 2 * error, key
        assert abs(leaf.std() - expected["init_std"]) <= 2 * error, key


def test_an_embedding_among_the_goals_is_the_instruction() -> None:
    model, embedded = golden.load("c").model, np.ones((2, 16, 64), np.float32)
    task = model.create_tasks(goals={"language_instruction": embedded})
    assert task["language_instruction"] is embedded and task["pad_mask_dict"]["language_instruction"].all()
