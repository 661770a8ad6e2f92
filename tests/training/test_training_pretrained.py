"""Fine-tuning from a checkpoint: what is kept, what is new, and language on its way into the step."""

import contextlib
import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from gap_vla.training.preflight import fields_of, require_fields
from huggingface_hub.errors import LocalEntryNotFoundError
from made_up_demos import made_up_episodes

from gap_vla.adjustment.jax import match_group
from gap_vla.cli.configured import load_config
from gap_vla.core.foreign import CheckpointError
from gap_vla.core.typed_config import ConfigError
from gap_vla.octo.model import OctoModel
from gap_vla.octo.presets import example_batch, small_config
from gap_vla.octo.spec import ModuleSpec
from gap_vla.octo.tokenizers import LanguageTokenizer
from gap_vla.rlds import EpisodeStore
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_model import adapted_config, build, dry_run, planned, planned_parameters
from gap_vla.training.octo_trainer import OctoTrainer
from gap_vla.training.stages import require_data_of
from gap_vla.training.step import model_inputs

SMALL = {"token_embedding_size": 32, "num_layers": 1, "stem_features": (32, 32), "image_size": 32}


def batch_with(proprio: int | None = 9, cameras: tuple[str, ...] = ("image_primary",)) -> dict:
    batch = example_batch(cameras, 32, proprio, window_size=2, action_horizon=3, batch_size=2)
    return batch | {"rho": np.zeros((2, 2), np.float32)}


def flat(params) -> dict:
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def config_for(pretrained: str, method: str = "vp_gap") -> FinetuneConfig:
    model = {"pretrained": pretrained, "window_size": 2, "action_horizon": 3}
    return FinetuneConfig.from_dict({"task": "threading", "method": method, "model": model, "eval": {"execute": 1}})


@pytest.fixture(scope="module")
def vision_checkpoint(tmp_path_factory):
    """A vision-only model with two cameras and another action width."""
    cameras = ("image_primary", "image_wrist")
    config = small_config(cameras, proprio_dim=None, action_dim=4, action_horizon=2, **SMALL)
    example = example_batch(cameras, 32, None, action_dim=4, action_horizon=2)
    path = tmp_path_factory.mktemp("pretrained") / "octo"
    OctoModel.from_config(config, example, rng=jax.random.PRNGKey(5), dataset_statistics={}).save_pretrained(0, path)
    return path


def changed_copy(checkpoint, folder, **config) -> str:
    """Of a checkpoint, with other values in its description."""
    copied = shutil.copytree(checkpoint, folder / "copy")
    file = copied / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    (copied / "checksums.json").unlink()
    return str(copied)


def test_proprioception_is_added_and_everything_else_is_kept(vision_checkpoint, capsys):
    before = flat(OctoModel.load_pretrained(vision_checkpoint).params)
    trainer = build(config_for(str(vision_checkpoint)), batch_with(), {})
    after = flat(trainer.model.params)
    assert set(trainer.parameters.group) == set(match_group(trainer.model.params))
    new = {name for name in after if name not in before}
    assert new and all("obs_proprio" in name for name in new)
    dropped = {name for name in before if name not in after}
    assert dropped and all("wrist" in name for name in dropped)
    changed = [name for name in after if name in before and after[name].shape != before[name].shape]
    assert all("mean_proj" in name for name in changed)  # another action width and horizon
    for name in set(after) & set(before) - set(changed):
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    account = capsys.readouterr().out
    assert "re-initialised heads_action/mean_proj/kernel" in account and "new octo_transformer/obs_proprio" in account


def test_a_dry_run_reads_the_layout_of_what_is_in_the_hubs_cache(vision_checkpoint, monkeypatch):
    def kept(name, local_files_only):
        if name != "lab/mine":
            raise LocalEntryNotFoundError(name)
        return str(vision_checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", kept)
    assert "pretrained weights: hf://lab/mine (not read in a dry run)" in dry_run(config_for("hf://lab/mine"))
    assert f"pretrained weights: {vision_checkpoint}\n" in dry_run(config_for(str(vision_checkpoint)))
    with pytest.raises(CheckpointError, match=r"the layout of 'other' is not known without its files"):
        dry_run(config_for("hf://lab/other"))


def test_what_is_frozen_as_it_was_drawn_is_named(vision_checkpoint, capsys):
    frozen = dataclasses.replace(config_for("").optimizer, frozen_keys=("octo_transformer.*",))
    config = dataclasses.replace(config_for(str(vision_checkpoint), "vp"), optimizer=frozen)
    build(config, batch_with(), {})
    noted = re.findall("freezes (.*), which .* stays as it was drawn", capsys.readouterr().err)
    own = ("projection/kernel", "projection/bias", "pos_embedding")
    assert sorted(noted) == sorted(f"octo_transformer/obs_proprio_{leaf}" for leaf in own)


def test_a_vision_only_run_drops_the_proprioceptive_tokenizer(vision_checkpoint, tmp_path):
    trainer = build(config_for(str(vision_checkpoint)), batch_with(), {})
    trainer.model.save_pretrained(0, tmp_path / "vp")
    vision = build(config_for(str(tmp_path / "vp"), method="v"), batch_with(proprio=None), {})
    assert not vision.parameters.group and not [name for name in flat(vision.model.params) if "proprio" in name]


@pytest.fixture
def published():
    return FinetuneConfig.from_dict(
        {
            "task": "threading",
            "demos": {"image_size": 256},
            "model": {"pretrained": "octo-small-1.5", "head": "diffusion", "window_size": 2, "action_horizon": 3},
            "train": {"batch_size": 2},
            "eval": {"execute": 1},
        }
    )


def test_published_models_get_proprio_after_the_cameras_that_the_data_have(published):
    batch, layout = planned(published)
    assert list(layout["model"]["observation_tokenizers"]) == ["primary", "proprio"]
    assert batch["task"]["language_instruction"]["input_ids"].shape == (2, 16)


def test_a_language_encoder_that_no_gradient_is_let_into_is_not_decayed_either(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1] / "data" / "octo" / "c")  # where its T5 lies
    config = config_for("checkpoint")
    parameters = planned_parameters(config)[1]
    trained, kept = flat(parameters.trainable), flat(parameters.frozen)
    assert kept and all("hf_model" in name for name in kept)
    assert trained and not any("hf_model" in name for name in trained)


@pytest.mark.slow
def test_a_dry_run_shows_the_inputs_and_the_new_leaves_of_a_published_model(published):
    account = dry_run(published)
    assert "octo_transformer/obs_proprio_pos_embedding [1, 10, 9, 384]" in account
    # its T5 gets no gradient, and is not decayed either
    assert re.search(r"model: Octo, 135,201,541 parameters .*, 109,\d{3},\d{3} frozen\n", account)
    assert "task/language_instruction/input_ids int64[2, 16]" in account


@pytest.mark.parametrize("length", [None, 5])
def test_a_dry_run_shows_the_word_pieces_that_the_checkpoint_reads(length, vision_checkpoint, tmp_path):
    kind = "octo.data.utils.text_processing:HFTokenizer"
    words = length and ModuleSpec.create(kind, tokenizer_name="t5-base", tokenizer_kwargs={"max_length": length})
    account = dry_run(config_for(changed_copy(vision_checkpoint, tmp_path, text_processor=words)))
    assert ("input_ids" in account) == bool(length) and (not length or "input_ids int64[64, 5]" in account)


def test_a_checkpoint_that_no_policy_can_be_made_of_is_refused_before_there_are_data(vision_checkpoint, tmp_path):
    one, example = small_config(("image_primary",), **SMALL), example_batch(("image_primary",), 32)
    OctoModel.from_config(one, example).save_pretrained(0, tmp_path)
    values = {"task": "threading", "demos": {"cameras": ["primary", "wrist"]}, "optimizer": {"frozen_keys": []}}
    FinetuneConfig.from_dict({**values, "model": {"pretrained": str(vision_checkpoint)}}).require_ready()
    with pytest.raises(CheckpointError, match=r"no policy for these settings.* has no tokenizer for image_wrist"):
        FinetuneConfig.from_dict({**values, "model": {"pretrained": str(tmp_path)}}).require_ready()


def test_memory_is_counted_by_the_checkpoints_own_size_and_not_by_its_name(vision_checkpoint, tmp_path):
    mine = shutil.copytree(vision_checkpoint, tmp_path / "baseline")
    count = sum(leaf.size for leaf in jax.tree.leaves(OctoModel.load_pretrained(mine).params))
    counted = config_for(str(mine)).memory()
    assert counted["parameters, gradients, optimizer"] == pytest.approx(14 * count, rel=0.05)
    assert config_for("hf://lab/octo-base").memory()["transformer"] > 100 * counted["transformer"]


def test_memory_counts_the_parameters_of_an_octo_from_scratch() -> None:
    config = FinetuneConfig.from_dict(load_config("finetune_configs/threading.py:debug"))
    count = sum(leaf.size for leaf in jax.tree.leaves(planned_parameters(config)[1].trainable))
    assert config.memory()["parameters, gradients, optimizer"] == pytest.approx(14 * count, rel=0.2)


@pytest.mark.parametrize(("trained", "patterns", "bytes"), [(False, (), 4), (True, (), 14), (True, ("*hf_model*",), 4)])
def test_memory_counts_a_language_encoder_as_it_is_trained(trained, patterns, bytes, vision_checkpoint, tmp_path):
    model = json.loads((vision_checkpoint / "config.json").read_text())["model"]
    words = ModuleSpec.create(LanguageTokenizer, encoder="t5-base", finetune_encoder=trained)
    config = config_for(
        changed_copy(vision_checkpoint, tmp_path, model=model | {"task_tokenizers": {"language": words}})
    )
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, frozen_keys=patterns))
    size = (vision_checkpoint / "0" / "default" / "checkpoint").stat().st_size / 4
    assert config.memory()["parameters, gradients, optimizer"] == bytes * size


def test_a_run_goes_on_and_answers_for_the_weights_it_was_trained_from_alone(store, vision_checkpoint, tmp_path):
    weights = shutil.copytree(vision_checkpoint, tmp_path / "weights")
    config = config_for(str(weights))
    trainer = OctoTrainer.on(config, EpisodeStore.open(store))

    def restored(folder, save=False):
        with contextlib.closing(trainer):
            trainer.restore(tmp_path / folder)
            if save:
                trainer.save(0)

    restored("state", save=True)
    summary, stages = {"training": trainer.facts()}, SimpleNamespace(mixture={})
    restored("state")
    trainer._weights = {}
    restored("older", save=True)
    require_data_of(summary, config, stages)
    model = OctoModel.load_pretrained(weights)
    shutil.rmtree(weights)
    model.replace(params=jax.tree.map(lambda leaf: 2 * leaf, model.params)).save_pretrained(0, weights)
    with pytest.raises(ConfigError, match=r"holds other parameters \(CRC-32 \w{8}\) than this run was trained from"):
        restored("state")
    with pytest.raises(ConfigError, match="holds other parameters"):
        require_data_of(summary, config, stages)
    restored("older")  # which does not know its weights
    require_data_of({"training": {}}, config, stages)
    shutil.rmtree(weights)
    require_data_of(summary, config, stages)


@pytest.mark.parametrize(("unseen", "seen"), [("primary", "wrist"), ("wrist", "primary")])
def test_a_camera_that_a_pretrained_model_has_no_tokenizer_for_is_refused(unseen, seen):
    both = ("image_primary", "image_wrist")
    config = FinetuneConfig.from_dict({"task": "threading", "demos": {"cameras": ["primary", "wrist"]}})
    with pytest.raises(ConfigError, match=f"has no tokenizer for image_{unseen}; it has image_{seen}$"):
        adapted_config(small_config((f"image_{seen}",), **SMALL), config, batch_with(cameras=both))
    layout = adapted_config(small_config(both, **SMALL), config, batch_with(cameras=both))
    assert {"primary", "wrist"} <= layout["model"]["observation_tokenizers"].keys()


def test_a_tokenizer_of_patterns_sees_every_camera_that_they_match():
    source = small_config(("image_primary",), **SMALL)
    config = FinetuneConfig.from_dict({"task": "threading", "demos": {"cameras": ["primary", "wrist"]}})
    camera = source["model"]["observation_tokenizers"]["primary"]["kwargs"]
    for patterns in (["image_.*"], None):  # None: the tokenizer's own
        camera["obs_stack_keys"] = patterns
        if patterns is None:
            del camera["obs_stack_keys"]
        layout = adapted_config(source, config, batch_with(cameras=("image_primary", "image_wrist")))
        assert list(layout["model"]["observation_tokenizers"]) == ["primary", "proprio"]


def test_the_pretrained_models_steps_of_state_are_not_taken_over(vision_checkpoint, tmp_path):
    pretrained = changed_copy(vision_checkpoint, tmp_path, proprio_history=4)
    assert "proprio_history" not in build(config_for(pretrained), batch_with(), {}).model.config


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


def test_a_dataset_without_rho_trains_vp_but_is_refused_for_gap(tmp_path):
    from gap_vla.rlds import write_rlds
    from gap_vla.training.data import describe_store, make_loader

    bare = [episode.replace(rho=None, change_point=None) for episode in made_up_episodes()]
    store = EpisodeStore.build(write_rlds(bare, tmp_path, "dots", val_fraction=0.2, annotator={}, identity={}))
    gap, vp = config_for("", "vp_gap"), config_for("", "vp")
    with pytest.raises(ConfigError, match=r"no steps/rho.*gap-vla annotate"):
        require_fields(store.directory, fields_of(store), gap)
    batch = model_inputs(make_loader(vp, store, "train", train=True).peek())
    assert batch["rho"].shape == batch["observation"]["timestep_pad_mask"].shape and not batch["rho"].any()
    assert "ρ" not in describe_store(store)
