"""A saved state of Octo that a disk damaged is named, with what to do; orbax has many ways to say so."""

import json
import os
import re
import resource
import shutil
from functools import partial

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from gap_vla.training.checkpoints import StateCheckpoints

from gap_vla.core.errors import message_of
from gap_vla.core.typed_config import ConfigError
from gap_vla.training.octo import FinetuneConfig, require_plain
from gap_vla.training.run import Run


class Template:
    """Stands for a train state: `StateCheckpoints` takes what is in it by name."""

    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.mark.parametrize(
    ("files", "damage"),
    [
        ("*/state/**/d/*", lambda content: content[: len(content) // 2]),
        ("*/state/**/_METADATA", lambda content: b"text"),
        ("*/loader/metadata", lambda content: b'{"a":' * 100_000),
    ],
)
def test_a_damaged_state_is_named_with_what_to_do(files, damage, tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", Template)
    saved = StateCheckpoints(tmp_path)
    template = Template(params={"kernel": jnp.arange(1000.0)}, step=jnp.int32(3))
    saved.save(3, template, {"position": 7})
    saved.close()
    again = StateCheckpoints(tmp_path)
    state, position = again.restore(template)
    assert position == {"position": 7} and np.array_equal(state.params["kernel"], np.arange(1000.0))
    damaged = [path for path in tmp_path.glob(files) if path.is_file()]
    for path in damaged:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ConfigError, match=rf"{tmp_path}/3 cannot be read: .*; move it away: --resume goes on without it"
    ):
        StateCheckpoints(tmp_path).restore(template)
    again.close()


def turned_bit(values, bit):
    values.view(np.uint8)[1000 + bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize(
    ("dtype", "turn"),
    [
        ("float32", partial(turned_bit, bit=11)),
        ("int32", partial(turned_bit, bit=0)),
        ("bfloat16", partial(turned_bit, bit=7)),
        ("float32", lambda values: np.negative(values[-2:], out=values[-2:])),
        ("float32", lambda values: np.negative(values, out=values)),
        ("float32", lambda values: values[:2].sort()),
    ],
)
def test_bits_of_a_saved_state_that_changed_are_noticed(dtype, turn, tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", Template)
    values = np.arange(1000)[::-1].astype(jnp.dtype(dtype))
    turn(turned := values.copy())
    save = ocp.args.StandardSave
    for folder, kept in (("whole", values), ("turned", turned)):
        monkeypatch.setattr(
            "gap_vla.training.checkpoints.ocp.args.StandardSave",
            lambda state, kept=kept: save({**state, "params": jnp.asarray(kept)}),
        )
        states = StateCheckpoints(tmp_path / folder)
        states.save(3, Template(params=jnp.asarray(values), step=jnp.int32(3)), {"position": 7})
        states.close()
    template = Template(params=jnp.asarray(values), step=jnp.int32(3))
    assert np.array_equal(StateCheckpoints(tmp_path / "whole").restore(template)[0].params, values)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/turned/3 is damaged: its checksum differs; move it away: "):
        StateCheckpoints(tmp_path / "turned").restore(template)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: {**said, "state": said["state"].replace("7", "8")}, "is damaged: its checksum differs"),
        (lambda said: {k: v for k, v in said.items() if k != "checksum_2"}, "is of an earlier version"),
    ],
)
def test_another_position_in_the_data_and_a_state_without_a_checksum_are_refused(change, words, tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", Template)
    template = Template(step=jnp.int32(3))
    states = StateCheckpoints(tmp_path)
    states.save(3, template, {"position": 7})
    states.close()
    said = tmp_path / "3" / "loader" / "metadata"
    said.write_text(json.dumps(change(json.loads(said.read_text()))))
    with pytest.raises(ConfigError, match=words):
        StateCheckpoints(tmp_path).restore(template)


def test_a_state_of_a_run_with_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", Template)
    template = Template(step=jnp.int32(3))
    for settings in ("seed 0", "seed 1"):
        states = StateCheckpoints(tmp_path, settings=settings)
        states.save(3, template, {})
        states.close()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/3 is of a run with other settings; copy"):
        StateCheckpoints(tmp_path, settings="seed 1").restore(template)
    StateCheckpoints(tmp_path, settings="seed 0").restore(template)


def test_the_state_of_another_step_than_its_folder_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", Template)
    states = StateCheckpoints(tmp_path)
    states.save(3, Template(step=jnp.int32(3)), {})
    states.close()
    (tmp_path / "3").rename(tmp_path / "4")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/4 holds the state of step 3; copy it again, or move it away"):
        StateCheckpoints(tmp_path).restore(Template(step=jnp.int32(3)))


def test_a_mistake_of_ours_is_not_called_damage(tmp_path, monkeypatch):
    saved = StateCheckpoints(tmp_path)
    template = Template(step=jnp.int32(3))
    saved.save(3, template, {})
    saved.close()
    with pytest.raises(TypeError, match="unexpected keyword"):
        monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", lambda: None)
        StateCheckpoints(tmp_path).restore(template)


def test_a_file_where_states_go_is_refused_at_once(tmp_path):
    (tmp_path / "state").write_text("mine")
    with pytest.raises(FileExistsError, match="state"):
        StateCheckpoints(tmp_path / "state")


def save_too_large(folder):
    """Step 3, of which no file may become as large as it needs."""
    saved = StateCheckpoints(folder)
    noise = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, most))
    try:
        with pytest.raises(Exception, match="File too large") as failed:
            saved.save(3, Template(params={"kernel": jnp.asarray(noise)}, step=jnp.int32(3)), {"position": 7})
            saved.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
    return failed


def test_a_state_that_may_not_be_that_large_is_one_error_without_orbaxs_tracebacks(tmp_path, caplog):
    failed = save_too_large(tmp_path)
    assert message_of(failed.value).endswith("; raise the limit of file sizes (ulimit -f)")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("name", "part"),
    [("mine [2]", "[2]"), ("[a\nb]", "[a\nb]"), ("my\\runs", "\\"), ("imgs:", "gs:"), ("\udcff", "\udcff")],
)
def test_a_folder_that_orbax_takes_for_another_is_refused_before_anything_is_made(name, part, tmp_path):
    run = tmp_path / name
    with pytest.raises(ConfigError, match=f"no training state can be kept where {re.escape(part)} is a part"):
        StateCheckpoints(run / "state")
    assert not run.exists()
    config = FinetuneConfig.from_dict({"task": "threading", "runs": str(run), "data": {"root": str(tmp_path)}})
    with pytest.raises(ConfigError, match=f"no training state can be kept where {re.escape(part)} is a part"):
        Run(config).to_the_end()
    assert not [*tmp_path.iterdir()]


def test_orbax_is_given_the_folder_that_a_link_and_two_dots_lead_to(tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    assert require_plain(tmp_path / "link" / ".." / "runs") == tmp_path / "elsewhere" / "runs"
    assert require_plain(tmp_path / "link" / "runs") == tmp_path / "link" / "runs"


def test_what_a_save_left_unfinished_goes_when_its_training_goes_on_and_nothing_else(tmp_path, monkeypatch):
    save_too_large(tmp_path)
    assert os.listdir(tmp_path) == ["3.orbax-checkpoint-tmp"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "4.orbax-checkpoint-tmp").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "5.orbax-checkpoint-tmp").write_text("mine")
    (tmp_path / "mine.orbax-checkpoint-tmp").mkdir()
    there = sorted(os.listdir(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("gap_vla.training.checkpoints.is_first_host", lambda: False)
        StateCheckpoints(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == there
    StateCheckpoints(tmp_path).close()
    assert sorted(os.listdir(tmp_path)) == there[1:] and (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("name", ["1", "6", "008"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_has_the_name_of_a_state_and_is_none_is_refused_and_stays(kind, name, tmp_path):
    saved = StateCheckpoints(tmp_path / "state")
    saved.save(3, Template(step=jnp.int32(3)), {})
    saved.close()
    place = tmp_path / "state" / name
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    else:
        (tmp_path / "state" / "3").rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    words = "is a link, and old states are removed; move its folder here" if kind == "link" else "is no training state"
    with pytest.raises(ConfigError, match=f"{place} {words}"):
        StateCheckpoints(tmp_path / "state")
    assert os.path.lexists(place) and (kind != "folder" or (place / "mine.txt").read_text() == "mine")


def test_a_state_whose_removal_a_kill_interrupted_stops_no_training(tmp_path):
    saved = StateCheckpoints(tmp_path)
    for step in (3, 6):
        saved.save(step, Template(step=jnp.int32(step)), {})
    saved.close()
    (tmp_path / "1").mkdir()  # all of it was removed but the folder
    (tmp_path / "3" / "_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(tmp_path / "3" / "loader")
    again = StateCheckpoints(tmp_path)
    again.save(9, Template(step=jnp.int32(9)), {})
    again.close()
    assert {*os.listdir(tmp_path)} == {"6", "9"}


def test_an_empty_folder_in_the_place_of_the_newest_state_is_named_with_what_to_do(tmp_path):
    saved = StateCheckpoints(tmp_path)
    saved.save(3, Template(step=jnp.int32(3)), {})
    saved.close()
    (tmp_path / "8").mkdir()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/8 cannot be read: .*; move it away: --resume goes on without"):
        StateCheckpoints(tmp_path).restore(Template(step=jnp.int32(3)))
