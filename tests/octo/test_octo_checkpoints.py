"""Checkpoints are upstream's to the byte, and a bad one is refused by name before anything is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import serialization

from gap_vla.core.errors import UserError
from gap_vla.octo import checkpoint
from gap_vla.octo.language import HFTokenizer
from gap_vla.octo.model import OctoModel
from tests.helpers import octo_golden as golden


@pytest.mark.parametrize("name", golden.CASES)
def test_saving_what_was_loaded_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    case = golden.load(name)
    case.model.save_pretrained(5, tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [str(file) for file in files] == [
        "5/default/checkpoint",
        "config.json",
        "dataset_statistics.json",
        "example_batch.msgpack",
    ]
    for file in files:
        assert (tmp_path / file).read_bytes() == (case.directory / "checkpoint" / file).read_bytes(), file


def test_the_latest_whole_step_is_loaded_and_other_directories_are_ignored(tmp_path: Path) -> None:
    root = shutil.copytree(golden.DATA / "a" / "checkpoint", tmp_path / "copy")
    for name in ("state", "12", "13.orbax-checkpoint-tmp-1700000000"):
        (root / name).mkdir()
    assert checkpoint.available_steps(root) == [5, 9]
    latest, step = checkpoint.read_params(root)
    assert step == 9
    loaded = OctoModel.load_pretrained(root).params
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(latest), jax.tree.leaves(loaded)))
    with pytest.raises(UserError, match="12"):
        OctoModel.load_pretrained(root, step=12)


def test_a_step_is_never_overwritten_and_a_folder_holds_one_model(tmp_path: Path) -> None:
    model = golden.load("a").model
    model.save_pretrained(1, tmp_path)
    (tmp_path / "checksums.json").write_text('{"1": "of the file"}')  # as version 0.2 wrote
    before = (tmp_path / "1" / "default" / "checkpoint").read_bytes()
    with pytest.raises(UserError, match="exists"):
        model.replace(params=jax.tree.map(np.zeros_like, model.params)).save_pretrained(1, tmp_path)
    assert (tmp_path / "1" / "default" / "checkpoint").read_bytes() == before
    with pytest.raises(UserError, match="another model"):
        golden.load("b").model.save_pretrained(2, tmp_path)
    OctoModel.load_pretrained(tmp_path).save_pretrained(2, tmp_path)
    assert checkpoint.available_steps(tmp_path) == [1, 2]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(golden.DATA / "b" / "checkpoint", tmp_path / "copy")


@pytest.mark.parametrize("file", ["config.json", "5/default/checkpoint"])
def test_a_missing_or_truncated_file_is_named(copied: Path, file: str) -> None:
    content = (copied / file).read_bytes()
    (copied / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=file):
        OctoModel.load_pretrained(copied)
    (copied / file).unlink()
    with pytest.raises((UserError, FileNotFoundError), match=file if "/" not in file else "no parameters"):
        OctoModel.load_pretrained(copied)


def test_parameters_of_another_architecture_are_named(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["model"]["max_horizon"] = 7
    config["model"]["observation_tokenizers"].pop("wrist")
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="obs_wrist_pos_embedding"):
        OctoModel.load_pretrained(copied)


def test_a_config_cannot_name_code_to_run(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_processor"] = {"module": "os", "name": "system", "args": ["true"], "kwargs": {}}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="os:system"):
        OctoModel.load_pretrained(copied)


def test_names_of_older_releases_are_understood(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    head = config["model"]["heads"]["action"]["kwargs"]
    head["pred_horizon"] = head.pop("action_horizon")
    (copied / "config.json").write_text(json.dumps(config))
    batch: dict[str, Any] = serialization.msgpack_restore((copied / "example_batch.msgpack").read_bytes())
    batch["tasks"] = batch.pop("task")
    batch["observation"]["pad_mask"] = batch["observation"].pop("timestep_pad_mask")
    (copied / "example_batch.msgpack").write_bytes(serialization.msgpack_serialize(batch))
    model = OctoModel.load_pretrained(copied)
    assert model.module.heads["action"].action_horizon == 4
    assert "timestep_pad_mask" in model.example_batch["observation"]
    model.save_pretrained(10**6, copied)
    assert OctoModel.load_pretrained(copied, step=10**6).module.heads["action"].action_horizon == 4


def test_what_upstreams_fine_tuning_says_of_its_data_replaces_what_the_pretraining_said(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["dataset_kwargs"] = {"action_proprio_normalization_type": "normal"}
    (copied / "config.json").write_text(json.dumps(config))
    data = {"dataset_kwargs": {"name": "mine", "action_proprio_normalization_type": "bounds"}}
    (copied / "finetune_config.json").write_text(json.dumps(data))
    assert checkpoint.read_config(copied)["dataset_kwargs"] == data["dataset_kwargs"]


def write_words(folder: Path, **words: int) -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 2, "</s>": 1, **words}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return (folder / "tokenizer.json").read_bytes()


def test_the_tokenizer_that_a_checkpoint_carries_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden.DATA / "c")  # where its encoder is
    shutil.copytree("checkpoint", tmp_path / "a")
    carried = write_words(tmp_path / "a", cup=7)
    model = OctoModel.load_pretrained(tmp_path / "a")
    assert model.create_tasks(texts=["cup"])["language_instruction"]["input_ids"][0, 0] == 7
    model.save_pretrained(1, tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == carried
    write_words(tmp_path / "b", cup=8)
    for folder, piece in (("a", 7), ("b", 8)):  # that of its own folder, wherever the program stands
        monkeypatch.chdir(tmp_path / folder)
        assert HFTokenizer("t5-base", directory=".").encode(["cup"])["input_ids"][0, 0] == piece
