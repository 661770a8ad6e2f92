"""Collections: robomimic's layout, complete or absent, resumable, equal for any number of workers."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

import gap_vla.sim as sim
from gap_vla.cli.collect_demos import main
from gap_vla.core.errors import USER_ERROR, UserError
from gap_vla.core.identity import digest
from gap_vla.core.resources import ResourceError
from gap_vla.drawing.video import packets, pictures_in
from gap_vla.sim.attempts import CollectionError, _alive, _work, play
from gap_vla.sim.collection import _parts, collect_demos
from gap_vla.sim.contact_sheet import claim_pictures, contact_sheet, video
from gap_vla.sim.recording import assemble, require_of
from gap_vla.sim.specs import UnknownNameError

SETTINGS = dict(image_size=32, cameras=("primary",), seed=3, progress=False)
NOISY = dict(action_noise=0.1, **SETTINGS)
MADE = digest({"seed": 0})
COMMAND = "--task assembly --episodes 3 --image-size 32 --seed 3 --action-noise 0.1".split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A collection, and a copy of its folder of finished attempts."""
    folder = tmp_path_factory.mktemp("demos")
    parts = folder / "a.hdf5.parts", folder / "finished"
    return collect_demos("assembly", 3, folder / "a.hdf5", shown=lambda _: shutil.copytree(*parts), **NOISY), parts[1]


@pytest.fixture(scope="module")
def collection(finished):
    return finished[0]


def test_the_file_has_robomimics_layout(collection):
    with h5py.File(collection) as file:
        data = file["data"]
        env_args = json.loads(data.attrs["env_args"])
        assert env_args["env_name"] == "gap_vla/Assembly-v0" and env_args["env_kwargs"]["image_size"] == 32
        assert list(data) == ["demo_0", "demo_1", "demo_2"]
        assert data.attrs["total"] == sum(demo.attrs["num_samples"] for demo in data.values())
        demo = data["demo_0"]
        steps = demo.attrs["num_samples"]
        assert demo["obs/image_primary"].shape == (steps, 32, 32, 3) and demo["obs/image_primary"].dtype == np.uint8
        assert demo["obs/robot0_eef_pos"].shape == (steps, 3) and demo["obs/robot0_gripper_qpos"].shape == (steps, 2)
        np.testing.assert_allclose(np.linalg.norm(demo["obs/robot0_eef_quat"][:], axis=1), 1, atol=1e-5)
        assert demo["actions"].shape == demo["executed_actions"].shape == (steps, 7)
        assert demo["dones"][-1] == 1 and demo["dones"][:-1].sum() == 0
        assert demo["phase"].asstr()[0] == "reach" and demo["phase_switch"][0]
        assert len(demo["states"]) == steps
        assert demo["obs/object"].shape == (steps, 9) and list(demo["obs/object"].attrs["names"])[-1] == "peg"


def test_the_positions_of_objects_are_recorded_before_each_action(collection):
    with h5py.File(collection) as file:
        demo = file["data/demo_0"]
        objects, names = demo["obs/object"][:].reshape(-1, 3, 3), list(demo["obs/object"].attrs["names"])
        hand, seed = demo["obs/robot0_eef_pos"][:], int(demo.attrs["seed"])
    env = sim.make("assembly", cameras=())
    env.reset(seed=seed)
    np.testing.assert_allclose(objects[0], list(env.world.objects().values()), atol=1e-6)
    ring, peg = (objects[:, names.index(name)] for name in ("ring", "peg"))
    assert np.ptp(peg, axis=0).max() < 1e-6 and np.linalg.norm((ring - peg)[-1, :2]) < 0.02
    moves = np.abs(np.diff(ring, axis=0)).max(1) > 1e-3
    assert moves[-40:].any() and not moves[:20].any()  # it lies still until the hand has grasped it
    assert np.linalg.norm(ring[-30:] - hand[-30:], axis=1).max() < 0.3


def test_demonstrations_are_not_copies_of_each_other(collection):
    with h5py.File(collection) as file:
        firsts = [file[f"data/demo_{i}/obs/image_primary"][0] for i in range(3)]
    assert all((firsts[0] != other).any() for other in firsts[1:])


def test_a_gap_in_what_an_interrupted_collection_played_is_filled_before_fewer_are_asked_for(finished, tmp_path):
    """Of two workers, the one may have finished attempt 2 when attempt 1 was stopped."""
    out = tmp_path / "gap.hdf5"
    attempts = sorted(shutil.copytree(finished[1], tmp_path / "gap.hdf5.parts").glob("attempt_*"))
    attempts[1].unlink()
    collect_demos("assembly", 2, out, **NOISY)
    with h5py.File(out) as fewer, h5py.File(finished[0]) as whole:
        assert list(fewer["data"]) == ["demo_0", "demo_1"] and not fewer["data"].attrs["failures"]
        for demo in fewer["data"]:
            assert fewer["data"][demo].attrs["seed"] == whole["data"][demo].attrs["seed"]
            np.testing.assert_array_equal(fewer["data"][demo]["states"], whole["data"][demo]["states"])


def test_a_collection_that_the_disk_cannot_hold_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.core.resources.free_disk", lambda folder: 100)
    with pytest.raises(ResourceError, match="of disk in"):
        collect_demos("assembly", 3, tmp_path / "d.hdf5", workers=1, **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs deaf to it


def interrupted(out, workers, stop):
    """Starts the command as a terminal would, in a group of its own; calls `stop` after the first finished episode."""
    command = [sys.executable, "scripts/collect_demos.py", *COMMAND, "--out", str(out), "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, "--show", "0"], stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    )
    parts = out.with_name(out.name + ".parts")
    deadline = time.monotonic() + 300
    while not list(parts.glob("attempt_*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    stop(process)
    said = process.communicate(timeout=240)[1]
    assert not out.exists() and list(parts.glob("attempt_*"))
    return parts, process.returncode, said


def test_a_killed_collection_leaves_no_file_and_one_worker_writes_what_two_write(collection, tmp_path):
    out = tmp_path / "killed.hdf5"
    parts, _, _ = interrupted(out, 1, lambda process: process.kill())
    (parts / ".attempt_000009.hdf5.gap_vla-abcd_123.partial").mkdir()
    (parts / ".attempt_000009.hdf5.gap_vla-abcd_123.partial" / "attempt_000009.hdf5").write_text("half written")
    (tmp_path / ".killed.hdf5.gap_vla-abcd_123.partial").mkdir()
    (tmp_path / ".killed.hdf5.gap_vla-abcd_123.partial" / "killed.hdf5").write_text("half assembled")
    numbers = {key: np.int64(SETTINGS[key]) for key in ("image_size", "seed")}  # numpy's are taken as Python's
    collect_demos("assembly", 3, out, workers=1, **NOISY | numbers)
    assert out.read_bytes() == collection.read_bytes() and [*tmp_path.iterdir()] == [out]


def test_the_pictures_of_a_collection_are_there_when_it_is(finished, tmp_path):
    """A command that is killed before the file is there continues; one whose file is there has ended."""
    out, (collection, parts) = tmp_path / "d.hdf5", finished
    shutil.copytree(parts, tmp_path / "d.hdf5.parts")

    def killed(whole):
        assert whole.read_bytes() == collection.read_bytes() and not out.exists()
        raise KeyboardInterrupt

    for shown in (killed, lambda whole: contact_sheet(whole, out, 2)):
        with contextlib.suppress(KeyboardInterrupt):
            collect_demos("assembly", 3, out, shown=shown, **NOISY)
    assert out.read_bytes() == collection.read_bytes()
    sheet = contact_sheet(collection, collection, 2)
    assert out.with_suffix(".png").read_bytes() == sheet.read_bytes() and Image.open(sheet).size == (8 * 64, 2 * 64)
    assert video(collection, collection, 1).stat().st_size > 1000


def test_large_pictures_are_thinned_out_in_a_sheet_and_not_enlarged_in_a_video(tmp_path):
    """Else a sheet of four episodes of 1024 pixels and two cameras is more than PIL reads."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_group("data").attrs["control_hz"] = 20
        for camera in ("primary", "wrist"):
            file.create_dataset(f"data/demo_0/obs/image_{camera}", (3, 600, 600, 3), np.uint8, chunks=True)
    assert Image.open(contact_sheet(tmp_path / "a.hdf5", tmp_path / "a.hdf5", 1)).size == (8 * 200, 2 * 200)
    assert "#dimensions 0: 1200x600" in packets(film := video(tmp_path / "a.hdf5", tmp_path / "a.hdf5", 1))
    assert pictures_in(film) == 3


@pytest.mark.parametrize(("length", "said"), [(600, ".*"), (None, "of another episode or collection")])
def test_a_finished_piece_that_is_cut_off_or_of_another_seed_is_named(tmp_path, length, said):
    out, piece = tmp_path / "all.hdf5", tmp_path / "attempt_000000.hdf5"
    with h5py.File(piece, "w") as file:
        file.create_group("demo").attrs["seed"] = 5
    os.truncate(piece, length or piece.stat().st_size)
    with pytest.raises(UserError, match=rf"^{piece}: {said}; remove it: the same command plays its episode again$"):
        assemble({piece: 6}, out, env_name="gap_vla/assembly", settings={"env_kwargs": {}}, counts={})
    assert not out.exists()


OTHER = r"of other settings \(then give those [^;]*\), of an older gap_vla, or changed since it was played"


@pytest.mark.parametrize(
    ("names", "told", "said"),
    [
        (["000000.hdf5"], None, OTHER),
        (["000000.hdf5"], "0123abcd", OTHER),
        (["000000.failed"], "", OTHER),
        (["000000.failed"], f"{MADE} attempt_000002", "of another attempt, attempt_000002"),
        (["000000.hdf5", "000000.failed"], MADE, "failed, but attempt_000000.hdf5 beside it succeeded"),
    ],
)
def test_a_piece_of_other_settings_is_named_before_anything_is_played(tmp_path, names, told, said):
    parts = tmp_path / "x.parts"
    with _parts(parts, MADE):
        (parts / "attempt_000008.failed").write_text(MADE)  # as earlier versions wrote it
        (parts / "attempt_000009.failed").write_text(f"{MADE} attempt_000009")
    for name in names:
        if name.endswith("failed"):
            (parts / f"attempt_{name}").write_text(told)
        else:
            with h5py.File(parts / f"attempt_{name}", "w") as file:
                file.attrs.update({} if told is None else {"made_by": told})
    with pytest.raises(UserError, match=rf"^{parts}/attempt_{names[-1]}: {said}; remove it: the same command plays"):
        _parts(parts, MADE).__enter__()


def test_a_failed_attempt_tells_which_one_it_was(tmp_path, monkeypatch):
    class Lost(list):
        success = False

    orders, answers = iter([(3, 5), None]), []
    monkeypatch.setattr("gap_vla.sim.attempts.make", lambda task: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr("gap_vla.sim.attempts.demonstrate", lambda *_: Lost())
    connection = SimpleNamespace(recv=lambda: next(orders), send=answers.append)
    _work(connection, "assembly", {}, 0.0, tmp_path, MADE)
    assert answers == [(3, "failed", 0)]
    require_of(played := tmp_path / "attempt_000003.failed", MADE)
    with pytest.raises(UserError, match=r"attempt_000004\.failed: of another attempt, attempt_000003; remove it"):
        require_of(played.rename(tmp_path / "attempt_000004.failed"), MADE)


def test_a_finished_piece_in_which_a_bit_flipped_since_is_named(finished, tmp_path):
    parts = shutil.copytree(finished[1], tmp_path / "d.hdf5.parts")
    piece = sorted(parts.glob("attempt_*.hdf5"))[1]
    with h5py.File(piece) as file:
        place = file["demo/actions"].id.get_offset() + 3
    content = bytearray(piece.read_bytes())
    content[place] ^= 8
    piece.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{piece}: {OTHER}; remove it: the same command plays"):
        collect_demos("assembly", 3, tmp_path / "d.hdf5", **NOISY)


def test_a_collection_that_was_stopped_for_an_hour_waits_for_its_workers_again(tmp_path, monkeypatch):
    class Worker:
        send = staticmethod(lambda order: None)
        recv = staticmethod(lambda: (0, "kept", 9))

    answers = iter([[], [Worker]])
    monkeypatch.setattr("gap_vla.sim.attempts._workers", lambda *_: contextlib.nullcontext([Worker]))
    monkeypatch.setattr("gap_vla.sim.attempts.wait", lambda *_: next(answers))
    done = {}
    play(1, 0, 1, ("assembly", {}, 0.0, tmp_path, ""), done, False)
    assert done == {0: "kept"}


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset"), BrokenPipeError(32, "broken")])
def test_a_worker_that_died_is_a_line_whatever_its_pipe_says(error):
    with pytest.raises(CollectionError, match=r"a worker died during attempt 3 .* make the same call again"), _alive(3):
        raise error


def test_ctrl_c_ends_all_processes_and_the_same_call_continues(collection, tmp_path, capsys):
    out = tmp_path / "stopped.hdf5"
    parts, code, said = interrupted(out, 2, lambda process: os.killpg(process.pid, signal.SIGINT))
    assert code == 130 and "the same command continues" in said and "Traceback" not in said
    for part in parts.glob("attempt_*.hdf5"):
        with h5py.File(part) as file:
            assert file["demo"].attrs["success"]  # whole, not half written
    collect_demos("assembly", 3, out, **NOISY | {"progress": True})
    assert "continuing after" in capsys.readouterr().err
    assert out.read_bytes() == collection.read_bytes() and not parts.exists()


@pytest.mark.slow
def test_workers_of_a_terminated_collection_end_without_a_word(tmp_path):
    parts, code, said = interrupted(tmp_path / "ended.hdf5", 2, lambda process: process.terminate())
    assert code == -signal.SIGTERM and "Traceback" not in said and "Error" not in said, said
    assert not list(parts.glob(".attempt_*"))


@pytest.mark.parametrize("most", [pytest.param(8_000, marks=pytest.mark.slow), 200_000])
def test_a_full_disk_is_said_on_one_line_and_the_same_command_continues(finished, tmp_path, monkeypatch, capsys, most):
    """It is reached by the first demonstration, or by all of them together."""
    out, (collection, parts) = tmp_path / "full.hdf5", finished
    if most > 8_000:
        shutil.copytree(parts, tmp_path / "full.hdf5.parts")
    words = [*COMMAND, "--out", str(out), "--quiet"]
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # Python 3.11 would keep what it could not write whole
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        assert main(words) == USER_ERROR
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    kept = "finished episodes are kept in" if most > 8_000 else "the same command continues"
    assert said.count("\n") == 1 and f"; raise the limit of file sizes (ulimit -f); {kept}" in said and not out.exists()
    assert ".partial" not in said
    assert main([*words, "--show", "0"]) == 0
    assert out.read_bytes() == collection.read_bytes()


def test_a_file_that_comes_into_the_place_of_a_collection_meanwhile_stays(finished, tmp_path, monkeypatch):
    out = tmp_path / "out.hdf5"
    parts = shutil.copytree(finished[1], tmp_path / "out.hdf5.parts")
    monkeypatch.setattr("gap_vla.sim.collection.play", lambda *_: out.write_bytes(b"a colleague's"))
    with pytest.raises(UserError, match="exists; choose another name"):
        collect_demos("assembly", 3, out, **NOISY)
    assert out.read_bytes() == b"a colleague's" and list(parts.glob("attempt_*"))


@pytest.mark.parametrize("left", [None, "lock"])
def test_a_collection_is_whole_also_where_its_pieces_cannot_be_removed(finished, tmp_path, monkeypatch, capsys, left):
    """A network file system removes the open lock, and its folder, when that is closed; another user's piece stays."""
    out, parts, remove = tmp_path / "out.hdf5", tmp_path / "out.hdf5.parts", shutil.rmtree

    def removed(folder, **how):
        remove(folder, **how)
        if folder == parts:
            parts.mkdir()
            if left:
                (parts / left).touch()

    shutil.copytree(finished[1], parts)
    monkeypatch.setattr(shutil, "rmtree", removed)
    assert collect_demos("assembly", 3, out, **NOISY).read_bytes() == finished[0].read_bytes()
    assert parts.exists() == (f"note: {parts} cannot be removed" in capsys.readouterr().out) == (left is not None)


def test_ctrl_c_while_the_pieces_are_removed_says_that_the_collection_is_whole(finished, tmp_path, monkeypatch):
    out = tmp_path / "out.hdf5"
    shutil.copytree(finished[1], tmp_path / "out.hdf5.parts")

    def interrupted(folder, **how):
        if folder.suffix == ".parts":
            raise KeyboardInterrupt
        remove(folder, **how)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt, match=rf"{out} is whole, and what is left of {out}\.parts may be deleted"):
        collect_demos("assembly", 3, out, **NOISY)
    assert out.read_bytes() == finished[0].read_bytes()


def test_an_existing_file_is_refused(collection):
    with pytest.raises(UserError, match="exists; choose another name"):
        collect_demos("assembly", 1, collection, **SETTINGS)


@pytest.mark.parametrize("name", ["mine.txt", "attempt_000003.hdf5.bak", ".attempt_000003.x", "attempt_000003.d/x"])
def test_what_somebody_puts_beside_finished_demonstrations_is_named_and_stays(tmp_path, name):
    theirs = tmp_path / "x.parts" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("the only copy")
    with pytest.raises(CollectionError, match=f"{name} was not written by a collection; move it away"):
        _parts(tmp_path / "x.parts", MADE).__enter__()
    assert theirs.read_text() == "the only copy"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"task": "assembli"}, "task 'assembli' is unknown"),
        ({"variant": "night"}, "variant 'night' is unknown"),
        ({"cameras": ("left",)}, "camera 'left' is unknown"),
        ({"camera": "corner9"}, r"view 'corner9' is unknown .did you mean 'corner'"),
        ({"camera": "corner", "variant": "camera_shift"}, "camera_shift moves the task's own view, not 'corner'; take"),
        ({"cameras": (), "variant": "light"}, "variant light is one of looks, not seen without"),
        ({"cameras": ("wrist",), "variant": "camera_shift"}, "camera_shift is one of looks, not seen without"),
    ],
)
def test_names_that_no_task_has_or_no_picture_would_show_are_refused_before_anything_is_made(tmp_path, wrong, said):
    with pytest.raises(UnknownNameError, match=said):
        collect_demos(**{"task": "assembly", "n": 1, "out": tmp_path / "y.hdf5", **wrong})
    assert not list(tmp_path.iterdir())


def test_an_error_in_a_worker_reaches_the_caller_with_its_cause(tmp_path, monkeypatch):
    (tmp_path / "metaworld.py").write_text("raise RuntimeError('a broken simulator')")
    monkeypatch.syspath_prepend(tmp_path)  # workers inherit it
    with pytest.raises(CollectionError, match=r"a broken simulator"):
        collect_demos("assembly", 1, tmp_path / "z.hdf5", progress=False)


def test_the_pictures_of_a_file_of_the_same_name_with_another_suffix_stay(tmp_path):
    (tmp_path / "a.b.hdf5").touch()
    for name, there in (("a.h5", "a.hdf5"), ("a.hdf5", "a.HDF5")):
        claim_pictures(tmp_path / name)
        (tmp_path / there).touch()
        with pytest.raises(UserError, match=f"{there} is there, and a.png and a.mp4 would be of both; choose another"):
            claim_pictures(tmp_path / name)
        (tmp_path / there).unlink()


def test_and_so_do_those_of_one_that_comes_while_it_is_collected(collection, tmp_path, monkeypatch, capsys):
    def collected(shown, **_):
        (tmp_path / "a.h5").touch()
        shown(collection)

    monkeypatch.setattr("gap_vla.sim.collection.collect_demos", collected)
    assert main([*COMMAND, "--out", str(tmp_path / "a.hdf5")]) == USER_ERROR
    assert "a.png and a.mp4 would be of both" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0; it must be a whole number from 1 to 4096"),
        ({"image_size": 64.0}, r"image_size is 64\.0"),
        ({"image_size": True}, "image_size is True"),
        ({"cameras": ("primary", "primary")}, "camera primary is named twice"),
    ],
)
def test_pictures_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        sim.make("assembly", **options)
