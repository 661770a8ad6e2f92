"""A writer that is killed: the old dataset stays whole, and the same command then finishes the work."""

import json
import shutil
from pathlib import Path

import h5py
import pytest
from annotating_demos import demos, write_hdf5, write_npz

from gap_vla.core.errors import UserError
from gap_vla.core.whole import put
from gap_vla.phases import load_annotator
from gap_vla.rlds.annotating import annotate_files

KILLS = {"hdf5": 2, "npz": 3, "rlds": 3}
LEG = 5
"""Steps; how long a demonstration is has nothing to do with how it is written."""


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("hdf5", []),
        pytest.param("npz", [], marks=pytest.mark.slow),
        pytest.param("npz", ["no-exchange"], marks=pytest.mark.slow),
        pytest.param("rlds", [], marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment_the_old_is_whole_and_the_same_command_completes_the_new(kind, option, runner, tmp_path):
    place = tmp_path / "labelled"
    place.mkdir()
    if kind == "hdf5":
        source, out = write_hdf5(tmp_path / "demos.hdf5", demos(3, leg=LEG)), place / "out.hdf5"
    elif kind == "npz":
        source, out = write_npz(tmp_path / "npz", demos(3, leg=LEG)), place / "out"
    else:
        from gap_vla.rlds import write_rlds

        source, out = write_rlds(demos(3, leg=LEG), tmp_path, "corners", val_fraction=0.34), place / "1.1.0"
    script = Path(__file__).with_name("annotating_killed.py")
    arguments = [str(source), str(out), "gaussian", str(KILLS[kind]), "1", *option]
    run = runner.run(script, arguments, tmp_path, limit=900)
    assert run.status == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["old"] != found["new"]
    expected = ["out.hdf5", "out.hdf5.annotator"] if kind == "hdf5" else [out.name]
    assert len({k["line"] for k in found["kills"]}) >= KILLS[kind]
    for kill in found["kills"]:
        if not option:  # without exchange a folder's place may be empty until the next writer puts the old one back
            assert kill["killed"] in (found["old"], found["new"]), kill
        assert kill["again"] == found["new"] and kill["beside"] == expected and kill["annotator"] == "gaussian", kill
    assert found["kills"][0]["killed"] == found["old"] and found["kills"][-1]["killed"] == found["new"]


@pytest.mark.parametrize(("renames", "kept"), [(0, "change_points"), (1, "change_points"), (2, "gaussian")])
@pytest.mark.parametrize("exchanged", [True, False])
def test_ctrl_c_leaves_an_old_file_and_its_annotator_or_a_new_one_and_its_own(
    renames, kept, exchanged, tmp_path, monkeypatch
):
    source, out = write_hdf5(tmp_path / "demos.hdf5", demos(3, leg=LEG)), tmp_path / "out" / "labelled.hdf5"
    annotate_files(source, out, method="change_points")
    done: list[Path] = []

    def interrupted(new: Path, path: Path) -> None:
        if len(done) < renames:
            put(new, path)
        done.append(path)
        if len(done) >= renames:
            raise KeyboardInterrupt

    monkeypatch.setattr("gap_vla.core.outputs.put", interrupted)
    if not exchanged:
        monkeypatch.setattr("gap_vla.core.whole._exchange", lambda one, other: False)
    with pytest.raises(KeyboardInterrupt):
        annotate_files(source, out, method="gaussian", overwrite=True)
    annotator = load_annotator(saved := out.with_name("labelled.hdf5.annotator"))
    with h5py.File(out) as file:
        assert json.loads(file["data"].attrs["annotator"])["hash"] == annotator.identity["hash"]
    assert annotator.method == kept
    assert sorted(out.parent.iterdir()) == [out, saved]
    if renames == 1:  # an old file whose annotator was moved away
        shutil.rmtree(saved)
        done.clear()
        with pytest.raises(KeyboardInterrupt):
            annotate_files(source, out, method="gaussian", overwrite=True)
        assert sorted(out.parent.iterdir()) == [out]
    shutil.rmtree(saved, ignore_errors=True)
    out.unlink()
    done.clear()
    with pytest.raises(KeyboardInterrupt):
        annotate_files(source, out, method="gaussian")
    assert sorted(out.parent.iterdir()) == ([out, saved] if renames == 2 else [])


def test_an_annotator_is_made_beside_its_place_also_where_the_file_is_a_link_to_another_disk(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    source, far = write_hdf5(tmp_path / "demos.hdf5", demos(3, leg=LEG)), tmp_path / "disk" / "far.hdf5"
    annotate_files(source, far, method="gaussian")
    (out := tmp_path / "out.hdf5").symlink_to(far)
    moved: list[tuple[Path, Path]] = []
    monkeypatch.setattr("gap_vla.core.outputs.put", lambda new, path: moved.append((new, path)) or put(new, path))
    annotate_files(source, out, method="change_points", overwrite=True)
    assert [new.parent.parent for new, _ in moved] == [tmp_path, tmp_path / "disk"]
    assert [path.name for _, path in moved] == ["out.hdf5.annotator", "out.hdf5"]


def test_what_comes_into_the_place_of_an_annotator_meanwhile_is_named_and_stays(tmp_path, monkeypatch):
    source, out = write_hdf5(tmp_path / "demos.hdf5", demos(3, leg=LEG)), tmp_path / "out.hdf5"
    theirs = tmp_path / "out.hdf5.annotator" / "mine"

    def come(*_: object) -> None:
        theirs.parent.mkdir()
        theirs.touch()

    monkeypatch.setattr("gap_vla.rlds.annotating.hdf5_files._read_back", come)
    with pytest.raises(UserError, match=r"out\.hdf5\.annotator exists without a mark of gap_vla .*; name another pla"):
        annotate_files(source, out, method="gaussian")
    assert theirs.exists() and not out.exists()


def test_an_empty_folder_is_a_place_for_an_annotator(tmp_path):
    source, out = write_hdf5(tmp_path / "demos.hdf5", demos(3, leg=LEG)), tmp_path / "out.hdf5"
    (saved := tmp_path / "out.hdf5.annotator").mkdir()
    annotate_files(source, out, method="gaussian")
    assert load_annotator(saved).method == "gaussian"
