"""Folders of npz and pickles of arrays become Episodes; no code of a pickle runs; formats are recognised."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gap_vla.core.errors import EpisodeError
from gap_vla.demos import Fields, open_source
from gap_vla.demos.source import kind_of
from tests.helpers.demonstrations import assert_equal, make_episode, png, write_robomimic


def arrays(index: int, state: str = "proprio") -> dict[str, Any]:
    e = make_episode(index, annotated=False)
    beside = {"phase": e.phase, "language_instruction": e.language_instruction, "success": e.success}
    return {state: e.proprio, "action": e.action, **e.images, **beside, "reward": np.zeros(len(e))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "npz").mkdir()
    for i in range(3):
        np.savez(tmp_path / f"npz/traj_{i}.npz", **arrays(i))
    return tmp_path / "npz"


def dump(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


GAP = Fields(layout="gap")


def test_npz_files_come_back_equal(folder: Path) -> None:
    for i, found in enumerate(open_source(folder, GAP)):
        assert_equal(found, make_episode(i, annotated=False))
        assert found.columns == make_episode(i).columns
        assert found.metadata["episode_id"] == f"traj_{i}"


def test_npz_files_are_undescribed_unless_they_say_what_their_columns_are(folder: Path) -> None:
    assert open_source(folder).columns is None
    for i in range(3):
        np.savez(folder / f"traj_{i}.npz", **arrays(i), columns="joints:7 gripper:2")
    assert str(open_source(folder).columns) == "joints:7 gripper:2"


def test_a_labelled_copy_of_npz_keeps_every_array(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder, GAP)
    labels = [{"rho": np.ones(len(e), np.float32), "change_point": np.arange(len(e)) == 2} for e in source]
    source.write_labels(tmp_path / "out", labels, {"method": "fixed"})
    for found, episode, own in zip(open_source(tmp_path / "out"), source, labels):  # it says what its columns are
        assert_equal(found, episode.replace(**own))
        assert found.columns == episode.columns
    with zipfile.ZipFile(folder / "traj_1.npz") as old, zipfile.ZipFile(tmp_path / "out/traj_1.npz") as new:
        kept = {member.filename: member.CRC for member in old.infolist()}
        assert kept.items() <= {member.filename: member.CRC for member in new.infolist()}.items()


def test_a_damaged_npz_is_named(folder: Path) -> None:
    (folder / "traj_1.npz").write_bytes((folder / "traj_1.npz").read_bytes()[:-200])
    source = open_source(folder, GAP)
    with pytest.raises(EpisodeError, match=r"traj_1\.npz"):
        source.read(1)


@pytest.mark.parametrize("protocol", [0, 5])
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    path = dump(tmp_path / "all.pkl", [arrays(i, "state") for i in range(3)], protocol)
    for i, found in enumerate(open_source(path, GAP)):
        assert_equal(found, make_episode(i, annotated=False))


@pytest.mark.parametrize("form", ["folder", "dictionary", "nested", "lists"])
def test_pickles_of_every_form_are_read(tmp_path: Path, form: str) -> None:
    demos = [arrays(i, "state") for i in range(2)]
    if form == "folder":
        for i, demo in enumerate(demos):
            dump(tmp_path / f"{i}.pkl", demo)
    elif form == "dictionary":
        dump(tmp_path / "a.pkl", {"b": demos[0], "c": demos[1], "task": "lift", "count": 2})
    elif form == "nested":
        nested = [{"observations": demo, "action": demo.pop("action"), "phase": demo.pop("phase")} for demo in demos]
        dump(tmp_path / "a.pkl", nested)
    else:
        dump(tmp_path / "a.pkl", [{**demo, "state": [*map(list, demo["state"])]} for demo in demos])
    images = {camera: camera for camera in ("image_primary", "image_wrist")}
    found = list(open_source(tmp_path if form == "folder" else tmp_path / "a.pkl", Fields(layout="gap", images=images)))
    for i, episode in enumerate(found):
        np.testing.assert_array_equal(episode.proprio, make_episode(i).proprio)
        np.testing.assert_array_equal(episode.images["image_wrist"], make_episode(i).images["image_wrist"])
    assert len(found) == 2


class Command:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    path = dump(tmp_path / "evil.pkl", {**arrays(0, "state"), "more": Command(tmp_path / "ran")})
    with pytest.raises(EpisodeError, match=r"evil\.pkl.*system"):
        open_source(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["numpy load", "builtins eval"])
def test_a_pickle_names_nothing_but_arrays(tmp_path: Path, name: str) -> None:
    module, function = name.split()
    (tmp_path / "a.pkl").write_bytes(b"c" + f"{module}\n{function}\n".encode() + b"(S'1'\ntR.")
    with pytest.raises(EpisodeError, match=function):
        open_source(tmp_path / "a.pkl")


def test_a_pickle_gets_its_labels_in_a_folder_of_npz(tmp_path: Path) -> None:
    source = open_source(dump(tmp_path / "all.pkl", [arrays(i, "state") for i in range(2)]), GAP)
    labels = [{"rho": np.ones(len(e), np.float32), "change_point": np.arange(len(e)) == 2} for e in source]
    source.write_labels(tmp_path / "out", labels, {})
    for found, episode, own in zip(open_source(tmp_path / "out"), source, labels):
        assert_equal(found, episode.replace(**own))


def test_encoded_pictures_are_decoded(tmp_path: Path) -> None:
    e = make_episode(0)
    demo = {"state": e.proprio, "action": e.action, "camera": [png(frame) for frame in e.images["image_primary"]]}
    source = open_source(dump(tmp_path / "a.pkl", demo), Fields(images={"image_primary": "camera"}))
    np.testing.assert_array_equal(source[0].images["image_primary"], e.images["image_primary"])


def test_files_are_read_in_numeric_order(tmp_path: Path) -> None:
    for i in (10, 9, 1):
        np.savez(tmp_path / f"traj_{i}.npz", **arrays(i))
    assert [e.metadata["episode_id"] for e in open_source(tmp_path, GAP)] == ["traj_1", "traj_9", "traj_10"]


def test_a_preset_of_another_width_describes_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "aloha.npz", state=np.ones((9, 14)), action=np.ones((9, 14)))
    source = open_source(tmp_path, Fields(layout="bridge"))
    assert source.columns is None and source.action_columns is None
    assert "--columns" in source.account() and "bridge" in source.account()
    with pytest.raises(EpisodeError, match="--columns"):
        _ = source[0].arms


def test_formats_are_recognised(tmp_path: Path, folder: Path) -> None:
    assert kind_of(folder) == "npz"
    assert kind_of(write_robomimic(tmp_path / "d.h5", [make_episode(0)])) == "robomimic_hdf5"
    assert kind_of(dump(tmp_path / "a.pickle", {})) == "pickle"
    assert kind_of(Path(__file__).parent / "lerobot/v30_image") == "lerobot"
    (tmp_path / "rlds/1.0.0").mkdir(parents=True)
    (tmp_path / "rlds/1.0.0/features.json").touch()
    assert kind_of(tmp_path / "rlds/1.0.0") == "rlds"
    (tmp_path / "notes.txt").touch()
    for path, word in (("rlds", "1.0.0"), ("notes.txt", "notes.txt"), ("nowhere", "nowhere")):
        with pytest.raises(EpisodeError, match=word):
            kind_of(tmp_path / path)


def test_an_identity_is_of_content_and_fields_and_not_of_place(folder: Path, tmp_path: Path) -> None:
    identity = open_source(folder, GAP).identity()
    assert identity == open_source(folder.rename(tmp_path / "moved"), GAP).identity()
    assert identity != open_source(tmp_path / "moved", Fields(layout="gap", action="action")).identity()
    np.savez(tmp_path / "moved/traj_0.npz", **arrays(7))
    assert identity != open_source(tmp_path / "moved", GAP).identity()


def test_a_source_is_a_sequence_that_travels_to_another_process(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(folder, GAP)))
    assert len(source[1:]) == 2 and len(list(source)) == 3
    assert_equal(source[-1], make_episode(2, annotated=False))
    with pytest.raises(IndexError):
        source[3]
