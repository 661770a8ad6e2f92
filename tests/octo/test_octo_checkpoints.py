"""Checkpoints are upstream's to the byte, and a bad one is refused with its reason, before anything is used."""

from __future__ import annotations

import functools
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np
import octo_golden as golden
import pytest
from flax import serialization
from flax.core import FrozenDict
from leftovers import leave

from gap_vla.core.marks import file_mark
from gap_vla.octo import CheckpointError, OctoModel, checkpoint, merge_params
from gap_vla.octo.text import HFTokenizer


@pytest.mark.parametrize("name", ["a", "c", *(pytest.param(name, marks=pytest.mark.slow) for name in "bd")])
def test_saving_what_was_loaded_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    case = golden.load(name)
    case.model.save_pretrained(5, tmp_path)
    checksums = json.loads((tmp_path / "checksums.json").read_bytes())
    (tmp_path / "checksums.json").unlink()
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert checksums == {str(file).split("/")[0]: file_mark(tmp_path / file) for file in files}
    assert [str(file) for file in files] == [
        "5/default/checkpoint",
        "config.json",
        "dataset_statistics.json",
        "example_batch.msgpack",
    ]
    for file in files:
        assert (tmp_path / file).read_bytes() == (case.directory / "checkpoint" / file).read_bytes(), file


def test_what_a_killed_writer_left_beside_a_finished_step_goes_with_the_next(tmp_path: Path) -> None:
    model = golden.load("a").model
    model.save_pretrained(5, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    leave(tmp_path / "5")
    leave(tmp_path / "config.json", "config.json")
    leave(tmp_path / "5" / "default" / "checkpoint", "checkpoint")
    with pytest.raises(CheckpointError, match="exists already"):
        model.save_pretrained(5, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    leave(tmp_path / "x", "mine")  # is not in the way
    model.save_pretrained(6, tmp_path)
    assert (tmp_path / ".x.gap_vla-abcdefgh.partial" / "mine").exists()


def test_two_who_save_steps_into_one_folder_at_once_both_leave_their_checksums(tmp_path: Path) -> None:
    model = golden.load("a").model
    with ThreadPoolExecutor(4) as pool:
        for first in range(0, 20, 4):
            [*pool.map(lambda step: model.save_pretrained(step, tmp_path), range(first, first + 4))]
    known = json.loads((tmp_path / "checksums.json").read_bytes())
    assert {name for name in known if name.isdecimal()} == {str(step) for step in range(20)}
    assert not list(tmp_path.glob(".*"))


def test_of_two_who_save_the_same_step_at_once_one_is_told_that_it_is_there(tmp_path: Path) -> None:
    model = golden.load("a").model
    models = [
        model.replace(params=jax.tree.map(functools.partial(np.full_like, fill_value=k), model.params))
        for k in (1, 2, 3)
    ]

    def save(model: OctoModel) -> bool:
        try:
            model.save_pretrained(5, tmp_path)
        except CheckpointError as error:
            assert "exists already" in str(error)
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        saved = [*pool.map(save, models)]
    assert sorted(saved) == [False, False, True]
    found = jax.tree.leaves(checkpoint.read_params(tmp_path)[0])[0]
    np.testing.assert_array_equal(np.asarray(found), saved.index(True) + 1)


def test_a_step_is_never_there_without_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, put = golden.load("a").model, checkpoint.put

    def then_stop(new: Path, place: Path) -> None:
        put(new, place)
        raise KeyboardInterrupt

    def stop(new: Path, place: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "put", then_stop)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(5, tmp_path)
    known = json.loads((tmp_path / "checksums.json").read_bytes())
    assert known["5"] == file_mark(tmp_path / "5" / "default" / "checkpoint")
    monkeypatch.setattr(checkpoint, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(6, tmp_path)
    assert checkpoint.available_steps(tmp_path) == [5]
    monkeypatch.setattr(checkpoint, "put", put)
    model.save_pretrained(6, tmp_path)
    assert checkpoint.read_params(tmp_path)[1] == 6 and not [*tmp_path.glob(".*")]


def test_numbers_in_another_byte_order_are_saved_and_act_as_the_same(tmp_path: Path) -> None:
    case = golden.load("a")
    model, inputs = case.model, (case.batch["observation"], case.batch["task"])
    foreign = jax.tree.map(lambda leaf: np.asarray(leaf, np.asarray(leaf).dtype.newbyteorder(">")), model.params)
    merged, _ = merge_params(model.params, foreign, verbose=False)
    assert all(leaf.dtype.isnative for leaf in jax.tree.leaves(merged))
    example = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype.newbyteorder(">")), model.example_batch)
    other = model.replace(params=foreign, example_batch=example)
    for step in (5, 9):  # the second beside the first one's example batch
        other.save_pretrained(step, tmp_path)
    for file in ("5/default/checkpoint", "example_batch.msgpack"):
        assert (tmp_path / file).read_bytes() == (case.directory / "checkpoint" / file).read_bytes(), file
    np.testing.assert_array_equal(other.sample_actions(*inputs), model.sample_actions(*inputs))


def test_placeholders_of_arrays_that_lie_elsewhere_are_called_so(tmp_path: Path) -> None:
    shutil.copytree(golden.DATA / "a" / "checkpoint", tmp_path / "copy")
    path = max((tmp_path / "copy").glob("*/default/checkpoint"), key=lambda found: int(found.parts[-3]))
    path.write_bytes(serialization.msgpack_serialize({"head": {"kernel": "PLACEHOLDER://head.kernel"}}))
    with pytest.raises(CheckpointError, match=r"head/kernel is the text 'PLACEHOLDER.*save the parameters in one file"):
        OctoModel.load_pretrained(tmp_path / "copy")


def test_numbers_of_numpy_in_a_config_are_saved_and_what_json_does_not_hold_is_named(tmp_path: Path) -> None:
    model = golden.load("a").model
    own = {"seed": np.int64(3), "rates": np.arange(2.0), "more": FrozenDict({"a": np.float32(0.5)})}
    model.replace(config={**model.config, **own}).save_pretrained(1, tmp_path / "a")
    assert OctoModel.load_pretrained(tmp_path / "a").config == {
        **json.loads(json.dumps(model.config)),
        "seed": 3,
        "rates": [0.0, 1.0],
        "more": {"a": 0.5},
    }
    with pytest.raises(CheckpointError, match=r"the config holds PurePosixPath.*; give texts, numbers"):
        model.replace(config={**model.config, "made": PurePosixPath("x")}).save_pretrained(1, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_latest_step_is_loaded_and_other_directories_are_ignored(tmp_path: Path) -> None:
    shutil.copytree(golden.DATA / "a" / "checkpoint", tmp_path / "copy")
    (tmp_path / "copy" / "state").mkdir()
    assert checkpoint.available_steps(tmp_path / "copy") == [5, 9]
    latest, step = checkpoint.read_params(tmp_path / "copy")
    assert step == 9
    loaded = OctoModel.load_pretrained(tmp_path / "copy").params
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(latest), jax.tree.leaves(loaded)))


def test_orbax_reads_what_we_write(tmp_path: Path) -> None:
    import orbax.checkpoint as orbax

    case = golden.load("a")
    case.model.save_pretrained(7, tmp_path)
    target = jax.tree.map(np.zeros_like, case.model.params)
    restored = orbax.CheckpointManager(tmp_path, orbax.PyTreeCheckpointer()).restore(7, items=target)
    for ours, theirs in zip(jax.tree.leaves(case.model.params), jax.tree.leaves(restored)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*names step 8, which is not there")
def test_a_step_that_is_being_saved_is_not_there_until_it_is_whole(tmp_path, monkeypatch) -> None:
    model, replace, seen = golden.load("a").model, os.replace, []
    model.save_pretrained(7, tmp_path)

    def looking(made: Path, folder: Path) -> None:
        if folder == tmp_path / "8":
            seen.append((checkpoint.read_params(tmp_path)[1], folder.exists()))
        replace(made, folder)

    monkeypatch.setattr(os, "replace", looking)
    model.save_pretrained(8, tmp_path)
    assert seen == [(7, False)] and checkpoint.read_params(tmp_path)[1] == 8
    assert not [*tmp_path.glob(".*")]


def test_a_step_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = golden.load("a")
    monkeypatch.setenv("HOME", str(tmp_path))
    case.model.save_pretrained(1, "~")  # the home folder, as `load_pretrained` reads it
    with pytest.raises(CheckpointError, match="exists already"):
        case.model.save_pretrained(1, tmp_path)


def test_steps_of_another_model_do_not_go_into_a_models_folder(tmp_path: Path) -> None:
    model = golden.load("a").model
    model.save_pretrained(1, tmp_path)
    for other, file in (
        (golden.load("b").model, "config.json"),
        (model.replace(dataset_statistics={"action": {"mean": np.ones(7)}}), "dataset_statistics.json"),
    ):
        with pytest.raises(CheckpointError, match=rf"{file} is of another model; choose another directory"):
            other.save_pretrained(2, tmp_path)
    OctoModel.load_pretrained(tmp_path).save_pretrained(2, tmp_path)
    whole = (tmp_path / "config.json").read_bytes()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not valid JSON"):
        model.save_pretrained(3, tmp_path)
    (tmp_path / "config.json").write_bytes(whole)
    assert checkpoint.available_steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("change", [{"proprio": np.zeros((1, 2, 4), np.float32)}, {"timestep": np.zeros((1, 2))}, {}])
def test_steps_for_other_inputs_do_not_go_into_a_models_folder(tmp_path: Path, change: dict[str, Any]) -> None:
    model = golden.load("b").model
    model.save_pretrained(1, tmp_path)
    observation = {**model.example_batch["observation"], **change}
    if not change:
        del observation["proprio"]
    other = model.replace(example_batch={**model.example_batch, "observation": observation})
    key = next(iter(change), "proprio")
    with pytest.raises(
        CheckpointError, match=rf"example_batch.msgpack is of another model \(observation/{key} is .* there"
    ):
        other.save_pretrained(2, tmp_path)
    assert checkpoint.available_steps(tmp_path) == [1]
    more = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf), 2, 0), model.example_batch)
    model.replace(example_batch=more).save_pretrained(2, tmp_path)


def test_a_numbered_folder_without_parameters_is_no_step_and_nobody_takes_an_earlier_one_in_its_place(
    tmp_path: Path,
) -> None:
    shutil.copytree(golden.DATA / "a" / "checkpoint", tmp_path / "copy")
    (tmp_path / "copy" / "12" / "default").mkdir(parents=True)
    assert checkpoint.available_steps(tmp_path / "copy") == [5, 9]
    with pytest.raises(CheckpointError, match=r"12/default/checkpoint: the latest step lacks .*is whole \(5, 9\)"):
        OctoModel.load_pretrained(tmp_path / "copy")
    assert checkpoint.read_params(tmp_path / "copy", step=9)[1] == 9
    with pytest.raises(CheckpointError, match=r"12/default/checkpoint: no such file; steps in .*: \[5, 9\]"):
        checkpoint.read_params(tmp_path / "copy", step=12)


def test_a_step_that_upstream_was_stopped_while_saving_is_named(tmp_path: Path) -> None:
    shutil.copytree(golden.DATA / "a" / "checkpoint", tmp_path / "copy")
    for name in ("12.orbax-checkpoint-tmp-1700000000", "7.orbax-checkpoint-tmp-1600000000", "12.notes"):
        (tmp_path / "copy" / name).mkdir()
    with pytest.warns(UserWarning, match=r"/12\.orbax-checkpoint-tmp-1700000000 was not finished: 9 is taken") as told:
        assert checkpoint.read_params(tmp_path / "copy")[1] == 9
    assert len(told) == 1


@pytest.mark.parametrize("step", [-1, 1.0, True])
def test_a_step_that_counts_nothing_is_not_saved(tmp_path: Path, step: Any) -> None:
    with pytest.raises(CheckpointError, match=f"the step is {step}; it must be a whole number from 0"):
        golden.load("a").model.save_pretrained(step, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(golden.DATA / "b" / "checkpoint", tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "file", ["config.json", "dataset_statistics.json", "example_batch.msgpack", "5/default/checkpoint"]
)
def test_a_missing_file_is_named(copied: Path, file: str) -> None:
    (copied / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        OctoModel.load_pretrained(copied)


@pytest.mark.parametrize("file", ["config.json", "example_batch.msgpack", "5/default/checkpoint"])
def test_a_truncated_file_is_named(copied: Path, file: str) -> None:
    content = (copied / file).read_bytes()
    (copied / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=file):
        OctoModel.load_pretrained(copied)


def test_a_text_among_the_statistics_is_shown(copied: Path) -> None:
    statistics = json.loads((copied / "dataset_statistics.json").read_text())
    statistics["action"]["std"] = [*statistics["action"]["std"][:-1], "0.47"]
    (copied / "dataset_statistics.json").write_text(json.dumps(statistics))
    with pytest.raises(CheckpointError, match=r"action\.std holds '0\.47'; all must be numbers, or truth values"):
        checkpoint.read_statistics(copied)


def test_a_config_that_no_model_has_is_refused(copied: Path) -> None:
    whole = (copied / "config.json").read_text()
    for key, value, said in (
        ("text_processor", {}, "text_processor is dict; it must be a module spec"),
        ("text_processor", "t5", "text_processor is 't5'"),
        ("max_action", 0, "max_action is 0; it must be"),
        ("normalization_type", "foo", r"config\.json: model\.heads.*normalization_type is 'foo'; it must be uniform"),
    ):
        config = json.loads(whole)
        (config if key == "text_processor" else config["model"]["heads"]["action"]["kwargs"])[key] = value
        (copied / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=said):
            OctoModel.load_pretrained(copied)


def test_parameters_of_another_architecture_are_listed(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["model"]["max_horizon"] = 7
    config["model"]["observation_tokenizers"].pop("wrist")
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        OctoModel.load_pretrained(copied)
    message = str(caught.value)
    assert "obs_primary_pos_embedding is (1, 3, 16, 64), the config's model has (1, 7, 16, 64)" in message
    assert "unexpected octo_transformer/obs_wrist_pos_embedding" in message


def test_a_config_cannot_name_code_to_run(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_processor"] = {"module": "os", "name": "system", "args": ["true"], "kwargs": {}}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: text_processor: .*no class is registered for os:system"):
        OctoModel.load_pretrained(copied)


def test_names_of_older_releases_are_understood(copied: Path) -> None:
    from flax import serialization

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


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("observation/proprio", lambda leaf: leaf * np.nan, r"observation\['proprio'\] is NaN or infinite in places"),
        ("action", lambda leaf: leaf * np.nan, r"action is NaN or infinite in places"),
        ("action", lambda leaf: np.repeat(leaf, 2, 1), r"action is \(1, 4, 4, 7\); it must start with \(1, 2\)"),
        ("action_pad_mask", lambda leaf: np.repeat(leaf, 2, 0), r"action_pad_mask is \(2, 2, 4, 7\); it must start"),
        ("observation/image_primary", lambda leaf: leaf / np.float32(255), r"\['image_primary'\] is float32; models"),
        ("task/image_primary", lambda leaf: leaf.astype(np.int32), r"task\['image_primary'\] is int32; models take"),
        ("observation/timestep_pad_mask", lambda leaf: leaf * 7, r"observation: timestep_pad_mask holds 7; give True"),
        ("observation/timestep_pad_mask", lambda leaf: leaf & False, r"marks the present step of row 0 as padding"),
    ],
)
def test_an_example_batch_that_contradicts_itself_is_refused(copied: Path, key: str, change: Any, said: str) -> None:
    path = copied / "example_batch.msgpack"
    batch: dict[str, Any] = serialization.msgpack_restore(path.read_bytes())
    *part, name = key.split("/")
    entry = batch[part[0]] if part else batch
    entry[name] = change(entry[name])
    path.write_bytes(serialization.msgpack_serialize(batch))
    with pytest.raises(CheckpointError, match=rf"example_batch\.msgpack: .*{said}"):
        checkpoint.read_example_batch(copied)


def test_actions_of_older_releases_are_longer_than_the_window(copied: Path) -> None:
    path = copied / "example_batch.msgpack"
    batch: dict[str, Any] = serialization.msgpack_restore(path.read_bytes())
    del batch["action_pad_mask"]
    path.write_bytes(serialization.msgpack_serialize({**batch, "action": np.zeros((1, 5, 7), np.float32)}))
    assert checkpoint.read_example_batch(copied)["action"].shape == (1, 5, 7)


def test_files_that_the_checksums_name_and_that_are_not_there_are_said(tmp_path: Path) -> None:
    model = golden.load("a").model
    for step in (3, 6):
        model.save_pretrained(step, tmp_path)
    shutil.rmtree(tmp_path / "6")
    with pytest.warns(UserWarning, match=r"checksums\.json names step 6, which is not there: 3 is taken as the latest"):
        assert checkpoint.read_params(tmp_path)[1] == 3
    assert checkpoint.read_params(tmp_path, step=3)[1] == 3
    said = json.loads((tmp_path / "checksums.json").read_text())
    (tmp_path / "checksums.json").write_text(json.dumps({**said, "tokenizer.json": said["config.json"]}))
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json is missing, and checksums\.json names it; copy it again"
    ):
        checkpoint.read_params(tmp_path, step=3)
    (tmp_path / "checksums.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"checksums\.json says nothing of step 3: damage .* is not noticed"):
        checkpoint.read_params(tmp_path)


@pytest.mark.parametrize("path", ["hf://rail-berkeley", "hf://nobody/at-all", "/no/such/directory"])
def test_a_checkpoint_that_cannot_be_fetched_says_what_to_do(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"expected hf://|give the directory|no such checkpoint"):
        OctoModel.load_pretrained(path)


def test_a_download_that_fails_without_a_reason_is_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, name: str, **how: Any) -> str:
        raise OSError

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with pytest.raises(CheckpointError, match=r"could not be downloaded \(OSError\); without a network"):
        OctoModel.load_pretrained("hf://lab/mine")


def test_the_tokenizer_that_a_checkpoint_carries_goes_along_and_is_that_of_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models

    def write(folder: Path, cup: int) -> bytes:
        words = {"[UNK]": 2, "</s>": 1, "cup": cup}
        Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
        return (folder / "tokenizer.json").read_bytes()

    monkeypatch.chdir(golden.DATA / "c")  # where its encoder is
    shutil.copytree("checkpoint", tmp_path / "a")
    carried = write(tmp_path / "a", 7)
    model = OctoModel.load_pretrained(tmp_path / "a")
    assert model.create_tasks(texts=["cup"])["language_instruction"]["input_ids"][0, 0] == 7
    model.save_pretrained(1, tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == carried
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == model.config
    (tmp_path / "b" / "tokenizer.json").write_bytes(carried.replace(b"cup", b"cap"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has .*checksums\.json says"):
        OctoModel.load_pretrained(tmp_path / "b")
    write(tmp_path / "b", 8)
    with pytest.warns(UserWarning, match=r"tokenizer\.json is not the one of this model, and is kept"):
        model.save_pretrained(2, tmp_path / "b")
    for folder, piece in (("a", 7), ("b", 8)):
        monkeypatch.chdir(tmp_path / folder)
        assert HFTokenizer("t5-base", directory=".").encode(["cup"])["input_ids"][0, 0] == piece
