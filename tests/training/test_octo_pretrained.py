"""Fine-tuning from a checkpoint: what is kept, what is new, and language on its way into the step."""

from pathlib import Path

import jax
import numpy as np
import pytest

from gap_vla.adjustment.jax import match_group
from gap_vla.core.errors import ConfigError
from gap_vla.octo.model import OctoModel, parameter_shapes
from gap_vla.octo.module import OctoModule
from gap_vla.octo.presets import example_batch, small_config
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_model import Parameters, adapted_config, build, planned
from gap_vla.training.step import model_inputs

SMALL = {"token_embedding_size": 32, "num_layers": 1, "stem_features": (32, 32), "image_size": 32}
BOTH = ("image_primary", "image_wrist")
SHAPES = {"proprio": (9,), "action": (7,), "image_primary": (256, 256, 3)}


def batch_with(proprio=9, cameras=("image_primary",)):
    batch = example_batch(cameras, 32, proprio, window_size=2, action_horizon=3, batch_size=2)
    return batch | {"rho": np.zeros((2, 2), np.float32)}


def flat(params):
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def config_for(pretrained, method="vp_gap", **sections):
    model = {"pretrained": str(pretrained), "window_size": 2, "action_horizon": 3}
    values = {"task": "threading", "method": method, "model": model, "eval": {"execute": 1}}
    return FinetuneConfig.from_dict({**values, **sections})


@pytest.fixture(scope="module")
def vision_checkpoint(tmp_path_factory):
    """A vision-only model with two cameras and another action width."""
    config = small_config(BOTH, proprio_dim=None, action_dim=4, action_horizon=2, **SMALL)
    example = example_batch(BOTH, 32, None, action_dim=4, action_horizon=2)
    path = tmp_path_factory.mktemp("pretrained") / "octo"
    OctoModel.from_config(config, example, rng=jax.random.PRNGKey(5), dataset_statistics={}).save_pretrained(0, path)
    return path


def test_proprioception_is_added_and_everything_else_is_kept(vision_checkpoint):
    before = flat(OctoModel.load_pretrained(vision_checkpoint).params)
    built = build(config_for(vision_checkpoint), batch_with(), {})
    after = flat(built.model.params)
    assert set(built.parameters.group) == set(match_group(built.model.params))
    new, dropped = after.keys() - before.keys(), before.keys() - after.keys()
    assert new and all("obs_proprio" in name for name in new)
    assert dropped and all("wrist" in name for name in dropped)
    changed = {name for name in after.keys() & before.keys() if after[name].shape != before[name].shape}
    assert all("mean_proj" in name for name in changed)  # another action width and horizon
    for name in after.keys() & before.keys() - changed:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_a_vision_only_run_drops_the_proprioceptive_tokenizer(vision_checkpoint, tmp_path):
    build(config_for(vision_checkpoint), batch_with(), {}).model.save_pretrained(0, tmp_path / "vp")
    vision = build(config_for(tmp_path / "vp", method="v"), batch_with(proprio=None), {})
    assert not vision.parameters.group and not [name for name in flat(vision.model.params) if "proprio" in name]


def test_published_models_get_proprio_after_the_cameras_that_the_data_have():
    config = config_for("octo-small-1.5", demos={"image_size": 256})
    batch, layout = planned(config, SHAPES)
    assert list(layout["model"]["observation_tokenizers"]) == ["primary", "proprio"]
    assert batch["task"]["language_instruction"]["input_ids"].shape == (64, 16)


def test_a_language_encoder_that_no_gradient_is_let_into_is_not_decayed_either(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1] / "data" / "octo" / "c")  # where its T5 lies
    config = config_for("checkpoint")
    batch, layout = planned(config, {**SHAPES, "image_primary": (64, 64, 3)})
    module = OctoModule.create(**layout["model"])
    parameters = Parameters.of(config, parameter_shapes(module, batch), module)
    trained, kept = (
        jax.tree_util.tree_flatten_with_path(part)[0] for part in (parameters.trainable, parameters.frozen)
    )
    assert kept and all("hf_model" in jax.tree_util.keystr(path) for path, _ in kept)
    assert trained and not any("hf_model" in jax.tree_util.keystr(path) for path, _ in trained)


@pytest.mark.parametrize(("unseen", "seen"), [("primary", "wrist"), ("wrist", "primary")])
def test_a_camera_that_a_pretrained_model_has_no_tokenizer_for_is_refused(unseen, seen):
    config = FinetuneConfig.from_dict({"task": "threading", "demos": {"cameras": ["primary", "wrist"]}})
    with pytest.raises(ConfigError, match=f"image_{unseen}"):
        adapted_config(small_config((f"image_{seen}",), **SMALL), config, batch_with(cameras=BOTH))
    layout = adapted_config(small_config(BOTH, **SMALL), config, batch_with(cameras=BOTH))
    assert {"primary", "wrist"} <= layout["model"]["observation_tokenizers"].keys()


@pytest.mark.parametrize("patterns", [["image_.*"], None])  # None: the tokenizer's own
def test_a_tokenizer_of_patterns_sees_every_camera_that_they_match(patterns):
    source = small_config(("image_primary",), **SMALL)
    config = FinetuneConfig.from_dict({"task": "threading", "demos": {"cameras": ["primary", "wrist"]}})
    camera = source["model"]["observation_tokenizers"]["primary"]["kwargs"]
    camera["obs_stack_keys"] = patterns
    if patterns is None:
        del camera["obs_stack_keys"]
    layout = adapted_config(source, config, batch_with(cameras=BOTH))
    assert list(layout["model"]["observation_tokenizers"]) == ["primary", "proprio"]


class Words:
    """A text processor that counts letters."""

    def encode(self, texts):
        return {"input_ids": np.array([[len(text)] for text in texts])}


def test_instructions_become_word_pieces_or_are_left_out():
    batch = batch_with()
    words = np.array([b"put", b"place"], object)
    batch["task"] = {"language_instruction": words, "pad_mask_dict": {"language_instruction": np.ones(2, bool)}}
    encoded = model_inputs(batch, Words())["task"]
    np.testing.assert_array_equal(encoded["language_instruction"]["input_ids"], [[3], [5]])
    assert model_inputs(batch)["task"] == {"pad_mask_dict": {}}
