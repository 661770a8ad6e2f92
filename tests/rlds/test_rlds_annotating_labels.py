"""Labels of some episodes only, or of others, and options without effect: none is drawn or written in silence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from annotating_demos import demos, write_hdf5, write_npz

from gap_vla.core.errors import UserError
from gap_vla.rlds import build_dataset
from gap_vla.rlds.annotating import annotate_files
from gap_vla.rlds.annotating.files import show_episode

LOST = [
    pytest.param("hdf5", ("rho",), marks=pytest.mark.slow),
    ("hdf5", ("rho", "change_point")),
    ("npz", ("change_point",)),
]


def labelled(kind: str, folder: Path, change: Callable[[Any], Any]) -> Path:
    """Three episodes, of which the second has other labels."""
    if kind == "npz":
        out = annotate_files(write_npz(folder / "npz", demos(3)), folder / "out", method="gaussian").path
        with np.load(out / "episode_1.npz") as file:
            arrays = dict(file)
        change(arrays)
        np.savez(out / "episode_1.npz", **arrays)
        return out
    out = annotate_files(write_hdf5(folder / "d.hdf5", demos(3)), folder / "out.hdf5", method="gaussian").path
    with h5py.File(out, "r+") as file:
        change(file["data/demo_1"])
    return out


@pytest.mark.parametrize(("kind", "lost"), LOST)
@pytest.mark.usefixtures("blank_charts")
def test_an_episode_without_a_label_that_others_have_is_not_shown(
    kind: str, lost: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = labelled(kind, tmp_path, lambda group: [group.pop(name) for name in lost])
    with pytest.raises(
        UserError, match=rf"(demo|episode)_1(.npz)?: no {min(lost)}, which other episodes have; annotate"
    ):
        show_episode(source, tmp_path / "e.png", episode=1)
    assert show_episode(source, tmp_path / "e.png", episode=0).is_file()
    made_by = source / "annotator" if kind == "npz" else Path(f"{source}.annotator")
    assert "rho" not in capsys.readouterr().out
    for given in ({"method": "gaussian"}, {"annotator": made_by}):  # which replace what is stored
        assert show_episode(source, tmp_path / "e.png", episode=1, **given).is_file()
    assert re.search(r"not taken: .*\brho\b", said := capsys.readouterr().out)
    changed = f"{source} was changed after it was annotated"
    if kind == "npz":
        changed = f"{source / 'episode_1.npz'} was changed since it was written"
    assert f"note: {changed}; where its states were, annotate again" in said
    again = annotate_files(source, tmp_path / "again" / source.name, method="gaussian").path
    assert f"note: {changed}; where its states were, annotate again" in capsys.readouterr().out
    assert show_episode(again, tmp_path / "e.png", episode=1).is_file()
    assert "was changed" not in (out := capsys.readouterr().out) and "not taken: rho" not in out


def test_phases_of_some_recordings_are_needed_only_where_points_are_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [demos(2)[0].replace(phase=None), demos(2)[1]]
    (tmp_path / "npz").mkdir()
    for index, episode in enumerate(some):
        arrays = {name: value for name, value in episode.arrays.items() if name != "image_primary"}
        np.savez(tmp_path / "npz" / f"{index}.npz", **arrays)
    assert len(annotate_files(tmp_path / "npz", tmp_path / "out", method="gaussian").episodes) == 2
    with pytest.raises(UserError, match="episode 0: method 'column' needs the phase of every step, and there is none"):
        annotate_files(tmp_path / "npz", tmp_path / "points", method="column")
    with pytest.raises(UserError, match="episode 1: phase is True, the first episode has False; a dataset has one lay"):
        build_dataset(tmp_path / "npz", tmp_path, "toy", kind="npz", method="gaussian")
    assert "change points" not in capsys.readouterr().out  # before they are looked for


def test_a_change_at_the_first_step_is_no_change(tmp_path: Path) -> None:
    source = labelled("hdf5", tmp_path, lambda group: group["change_point"].__setitem__(0, True))
    with pytest.raises(UserError, match="demo_1: change_point is true at the first step"):
        show_episode(source, tmp_path / "e.png", episode=1)


def test_half_of_the_labels_in_every_episode_is_half_of_them(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "d.hdf5", demos(2))
    with h5py.File(source, "r+") as file:
        for demo in file["data"].values():
            demo["change_point"] = np.zeros(80, bool)
    with pytest.raises(UserError, match="demo_0: change_point without rho; annotate again"):
        show_episode(source, tmp_path / "e.png")


def test_an_attribute_cannot_send_labels_to_another_demonstration(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "d.hdf5", demos(2))
    with h5py.File(source, "r+") as file:
        file["data/demo_0"].attrs.update({"episode_id": "demo_1", "file_path": "/elsewhere", "seed": 7})
    done = annotate_files(source, tmp_path / "out.hdf5", method="gaussian")
    about = done.read(0).metadata
    assert (about["episode_id"], about["file_path"], about["seed"]) == ("demo_0", str(done.path), 7)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"extra": "note+note"}, r"extra is 'note\+note'; name each column once"),
        ({"extra": "note+"}, r"extra is 'note\+'; name each column once"),
        ({"state": "a+a"}, r"state is 'a\+a'; name each column once"),
        ({"layout": "bridge"}, r"episode_0\.npz: no 'proprio' that the layout could name the columns of; leave"),
        ({"extra": "nothing"}, r"episode_0\.npz: 'nothing' is float64\[80, 0\], not T×E numbers"),
        ({"extra": "huge"}, r"episode_0\.npz, .*: extra is 1e\+300 at step 1, column 0; repair"),
    ],
)
def test_what_is_named_twice_or_in_vain_or_too_large_is_refused(asked: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    state = demos(1)[0].proprio
    parts = {"position": state[:, :3], "quaternion": state[:, 3:7], "gripper": state[:, 7:]}
    huge = np.array([0.0, 1e300] * 40)
    np.savez(tmp_path / "in" / "episode_0.npz", **parts, huge=huge, nothing=np.zeros((80, 0)))
    assert annotate_files(tmp_path / "in", tmp_path / "out", method="gaussian").path.is_dir()
    with pytest.raises(UserError, match=said):
        annotate_files(tmp_path / "in", tmp_path / "refused", method="gaussian", **asked)


def test_an_annotator_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "d.hdf5", demos(2))
    made = annotate_files(source, tmp_path / "out.hdf5", method="gaussian").annotator
    other = Path(shutil.copytree(made, tmp_path / "other")) / "annotator.json"
    record = json.loads(other.read_text())
    record["options"]["sigma"] = 50.0
    other.write_text(json.dumps({**record, "version": "labels 99"}))
    with pytest.raises(UserError, match=r"annotator.json: version is 'labels 99' .*it must be one of 0\.1\.0"):
        annotate_files(source, tmp_path / "again.hdf5", annotator=other.parent)
