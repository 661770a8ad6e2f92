"""annotate_files: ρ is added, everything else stays byte for byte, and nothing half-done is left behind."""

import base64
import contextlib
import errno
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from annotating_demos import demos, read_episode, write_hdf5, write_npz
from PIL import Image

import gap_vla.cli.annotate
from gap_vla.core import outputs, whole
from gap_vla.core.errors import EpisodeError, UserError
from gap_vla.core.outputs import OutputError
from gap_vla.phases import annotate, load_annotator
from gap_vla.rlds import build_dataset
from gap_vla.rlds.annotating import AnnotationError, AnnotationJob, annotate_files, hdf5_files
from gap_vla.rlds.annotating.files import show_episode, write_report


@pytest.fixture
def hdf5(tmp_path):
    return write_hdf5(tmp_path / "demos.hdf5", demos(5))


@pytest.fixture
def npz(tmp_path):
    return write_npz(tmp_path / "npz", demos(4))


def everything(file):
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            values = item[()]
            found[name] = values.tolist() if values.dtype == object else values.tobytes()

    file.visititems(take)
    return found


def test_hdf5_keeps_every_dataset_and_gains_rho_and_change_points(hdf5, tmp_path):
    before = hdf5.read_bytes()
    done = annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    assert hdf5.read_bytes() == before
    with h5py.File(hdf5) as old, h5py.File(done.path) as new:
        old_data, new_data = everything(old), everything(new)
        assert {k: new_data[k] for k in old_data} == old_data
        added = sorted(set(new_data) - set(old_data))
        labels = sorted(f"data/demo_{i}/{k}" for i in range(5) for k in ("change_point", "rho"))
        assert added == [*labels, "made_by_check"]
        assert new["data/demo_3/rho"].dtype == np.float32 and new["data/demo_3/change_point"].dtype == bool
        assert np.flatnonzero(new["data/demo_3/change_point"]).tolist() == [20, 40, 60]
        assert json.loads(new["data"].attrs["annotator"])["hash"] == done.annotation.identity["hash"]
    shown = read_episode(done.path, 3)
    assert shown.rho.tobytes() == done.annotation.rho[3].tobytes()


def test_an_annotated_hdf5_copy_that_was_edited_is_not_replaced(hdf5, tmp_path):
    out = tmp_path / "out.hdf5"
    for sigma in (3, 4):
        annotate_files(hdf5, out, method="gaussian", options={"sigma": sigma}, overwrite=True)
    with h5py.File(out, "r+") as edited:
        edited["data/demo_0/rho"][0] = 0.123
    before = out.read_bytes()
    with pytest.raises(
        OutputError, match=r"out\.hdf5 was changed since it was written; name another place, or move it"
    ):
        annotate_files(hdf5, out, method="gaussian", overwrite=True)
    assert out.read_bytes() == before


def test_compressed_and_linked_hdf5_keeps_filters_attributes_and_stored_bytes(hdf5, tmp_path):
    source = tmp_path / "packed.hdf5"
    with h5py.File(hdf5) as old, h5py.File(source, "w") as new:
        old.copy("data", new)
        for name, demo in new["data"].items():
            pictures = demo["obs/image_primary"][()]
            del demo["obs/image_primary"]
            kept = demo["obs"].create_dataset(
                "image_primary", data=pictures, chunks=(8, 16, 16, 3), compression="gzip", shuffle=True, fletcher32=True
            )
            kept.attrs["camera"] = name
        new["data"].attrs["env_args"] = '{"env_name": "corners"}'
        new["mask/train"] = np.array([b"demo_0", b"demo_2"])
        new["first"] = h5py.SoftLink("/data/demo_0")
    done = annotate_files(source, tmp_path / "out.hdf5", method="gaussian")
    with h5py.File(source) as old, h5py.File(done.path) as new:
        before, after = everything(old), everything(new)
        assert {k: after[k] for k in before} == before
        assert new.get("first", getlink=True).path == "/data/demo_0"
        assert new["data"].attrs["env_args"] == '{"env_name": "corners"}'
        for name in old["data"]:
            a, b = (file[f"data/{name}/obs/image_primary"] for file in (old, new))
            assert (b.compression, b.shuffle, b.fletcher32, b.chunks, b.attrs["camera"]) == (
                "gzip",
                1,
                1,
                a.chunks,
                name,
            )
            assert a.id.get_num_chunks() == b.id.get_num_chunks() == 10
            for k in range(10):
                place = (8 * k, 0, 0, 0)
                assert a.id.read_direct_chunk(place) == b.id.read_direct_chunk(place)


def test_further_columns_count_where_they_are_named(tmp_path, capsys):
    still = demos(1)[0]
    proprio = np.tile(still.proprio[:1], (80, 1))
    fold = np.concatenate([np.arange(40), np.arange(40)[::-1]])[:, None] * [[0.1, 0.1]]
    folder = tmp_path / "hands"
    folder.mkdir()
    np.savez(folder / "0.npz", proprio=proprio, joints=fold, hand=fold[:, 0])
    assert annotate_files(folder, tmp_path / "a", method="change_points").annotation.change_points[0].tolist() == []
    done = annotate_files(folder, tmp_path / "b", method="change_points", extra="joints+hand")
    assert done.annotation.change_points[0].tolist() == [39]
    assert "extra <- joints + hand\n  not taken: nothing\n" in capsys.readouterr().out
    with pytest.raises(AnnotationError, match=r"0\.npz: no array fingers \(found: proprio, joints, hand\)"):
        annotate_files(folder, tmp_path / "c", extra="fingers")
    hdf5 = write_hdf5(tmp_path / "demos.hdf5", [still.replace(proprio=proprio)])
    with h5py.File(hdf5, "r+") as file:
        file["data/demo_0/obs/robot0_joint_pos"] = fold
        file["data/demo_0/obs/other"] = fold
    done = annotate_files(hdf5, tmp_path / "out.hdf5", method="change_points", extra="robot0_joint_pos")
    assert done.annotation.change_points[0].tolist() == [39]
    assert "extra <- robot0_joint_pos\n  not taken: obs/other\n" in capsys.readouterr().out
    with h5py.File(hdf5, "r+") as file:
        file["data/demo_0/obs/robot0_joint_pos"][7, 1] = np.nan
    with pytest.raises(EpisodeError, match="demo_0: 'robot0_joint_pos' is NaN or infinite at step 7, column 1"):
        annotate_files(hdf5, tmp_path / "y.hdf5", extra="robot0_joint_pos")
    with pytest.raises(EpisodeError, match=r"episode demo_0: no 'hand' \(found: image_primary, other, robot0"):
        annotate_files(hdf5, tmp_path / "x.hdf5", extra="hand")
    np.savez(folder / "1.npz", proprio=proprio, joints=np.zeros((80, 3)), hand=fold[:, 0])
    with pytest.raises(EpisodeError, match=r"joints has 3 columns, the first episode's 2; drop the episode, or name"):
        annotate_files(folder, tmp_path / "g", method="gaussian", extra="joints")
    (folder / "1.npz").unlink()
    learnt = annotate_files(folder, tmp_path / "d", extra="joints", options={"epochs": 1})
    with pytest.raises(EpisodeError, match="the annotator was fitted on"):
        annotate_files(folder, tmp_path / "e", annotator=learnt.annotator)
    with pytest.raises(EpisodeError, match=r"1 arms, rotations 1, others 2; the annotator was fitted on .* others 4"):
        annotate_files(folder, tmp_path / "h", annotator=done.annotator)
    again = annotate_files(folder, tmp_path / "f", annotator=learnt.annotator, extra="joints")
    assert again.annotation.rho[0].tobytes() == learnt.annotation.rho[0].tobytes()


@pytest.mark.parametrize(
    ("other", "write", "message"),
    [
        (demos(1, arms=2)[0], write_hdf5, "demo_1: proprio_dim is 18, the first episode has 9"),
        (
            demos(1)[0].replace(action=np.zeros((80, 14))),
            write_hdf5,
            "demo_1: action_dim is 14, the first .* has 7",
        ),
        (demos(1, arms=2)[0], write_npz, "episode episode_1: proprio_dim is 18, the first episode has 9"),
    ],
)
def test_episodes_of_several_widths_are_refused_before_they_are_annotated(other, write, message, tmp_path, monkeypatch):
    source = write(tmp_path / ("d.hdf5" if write is write_hdf5 else "npz"), [demos(1)[0], other])
    monkeypatch.setattr("gap_vla.phases.annotation.motions_of", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(EpisodeError, match=message):
        annotate_files(source, tmp_path / "out" / source.name, method="gaussian")
    if write is write_hdf5:
        with pytest.raises(EpisodeError, match=message):
            build_dataset(source, tmp_path / "data", "toy", method="gaussian")
    assert list(tmp_path.iterdir()) == [source]


def test_episodes_of_one_step_are_noted(tmp_path):
    short = [e.replace(proprio=e.proprio[:1], action=e.action[:1], phase=e.phase[:1], images={}) for e in demos(2)]
    noted = annotate(short, method="gaussian").report["notes"]
    assert noted == ["every episode has one step, in which nothing moves, so ρ says nothing"]


@pytest.mark.parametrize("channels", ["last", "first"])
def test_pictures_of_npz_are_shown_however_their_channels_lie_and_what_is_no_picture_is_kept(npz, tmp_path, channels):
    for file in npz.glob("*.npz"):
        with np.load(file) as arrays:
            held = dict(arrays)
        frames = np.zeros((80, 12, 16, 3), np.uint8) + np.arange(16, dtype=np.uint8)[:, None]
        film = frames if channels == "last" else frames.transpose(0, 3, 1, 2)
        np.savez(file, **held, image_primary=film, image_depth=np.ones((80, 12, 16), np.float32))
    done = annotate_files(npz, tmp_path / "out", method="gaussian")
    assert done.read(0).images.keys() == {"image_primary"} and np.array_equal(
        done.read(0).images["image_primary"], frames
    )
    with np.load(tmp_path / "out" / "episode_0.npz") as arrays:
        assert arrays["image_primary"].shape == film.shape and arrays["image_depth"].dtype == np.float32


def test_pictures_of_numbers_from_0_to_1_are_refused_before_anything_is_written(npz, tmp_path):
    file = npz / "episode_1.npz"
    with np.load(file) as arrays:
        np.savez(file, **dict(arrays), image_primary=np.zeros((80, 12, 16, 3), np.float32))
    with pytest.raises(UserError, match=r"episode_1\.npz: 'image_primary' is float32\[80, 12, 16, 3\], not uint8"):
        annotate_files(npz, tmp_path / "out", method="gaussian")
    assert not (tmp_path / "out").exists()


def test_extra_columns_have_no_effect_where_change_points_are_read(npz, tmp_path):
    with pytest.raises(AnnotationError, match="extra has no effect with method column, which reads change points"):
        annotate_files(npz, tmp_path / "out", method="column", extra="joint")


def test_npz_keeps_every_array_and_gains_rho(npz, tmp_path, capsys):
    (npz / "about.txt").write_text("recorded in May")
    done = annotate_files(npz, tmp_path / "out", AnnotationJob("gaussian"), method="change_points")
    assert done.annotation.identity["method"] == "change_points"
    assert f"note: about.txt of {npz} is not copied" in capsys.readouterr().out
    for old in sorted(npz.glob("*.npz")):
        with np.load(old) as a, np.load(done.path / old.name) as b:
            assert set(b) - set(a) == {"rho", "change_point"}
            assert all(a[k].tobytes() == b[k].tobytes() for k in a)
            assert np.flatnonzero(b["change_point"]).tolist() == [20, 40, 60]
    again = annotate_files(done.path, tmp_path / "again", annotator=done.annotator)
    assert [r.tobytes() for r in again.annotation.rho] == [r.tobytes() for r in done.annotation.rho]


def test_what_exists_is_replaced_only_when_asked_and_only_by_something_complete(hdf5, npz, tmp_path):
    out = tmp_path / "out.hdf5"
    annotate_files(hdf5, out, method="gaussian")
    first = out.read_bytes()
    with pytest.raises(OutputError, match=r"exists; name another place"):
        annotate_files(hdf5, out, method="gaussian")
    with pytest.raises(OutputError, match=r"is .*, which is read"):
        annotate_files(hdf5, hdf5, overwrite=True)
    with h5py.File(hdf5, "r+") as file:
        file["data/demo_2/obs/robot0_eef_pos"][7, 1] = np.nan
    with pytest.raises(ValueError, match=r"demos\.hdf5, episode demo_2: .* step 7"):
        annotate_files(hdf5, out, method="gaussian", overwrite=True)
    assert out.read_bytes() == first
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    folder = tmp_path / "labelled"
    annotate_files(npz, folder, method="gaussian")
    annotate_files(npz, folder, method="fixed", overwrite=True, options={"value": 0.25})
    with np.load(folder / "episode_0.npz") as arrays:
        assert set(arrays["rho"].tolist()) == {0.25}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_annotator_of_another_copy_is_not_replaced_through_a_link(hdf5, tmp_path):
    annotate_files(hdf5, tmp_path / "first.hdf5", method="gaussian")
    kept = {path: path.read_bytes() for path in (tmp_path / "first.hdf5.annotator").iterdir()}
    (tmp_path / "out.hdf5.annotator").symlink_to("first.hdf5.annotator")
    with pytest.raises(OutputError, match=r"out\.hdf5\.annotator is a link; what it leads to would be replaced"):
        annotate_files(hdf5, tmp_path / "out.hdf5", method="fixed", options={"value": 0.25}, overwrite=True)
    assert {path: path.read_bytes() for path in kept} == kept and not (tmp_path / "out.hdf5").exists()


@pytest.mark.parametrize("replaced", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_file_that_comes_into_the_place_of_the_copy_meanwhile_stays_and_so_does_its_annotator(
    replaced, hdf5, tmp_path, monkeypatch
):
    out, annotator = tmp_path / "out.hdf5", tmp_path / "out.hdf5.annotator"
    if replaced:
        annotate_files(hdf5, out, method="gaussian")
    before = {path: path.read_bytes() for path in annotator.glob("*")}

    def meanwhile(new, job, episodes, annotation):
        out.write_bytes(b"a colleague's")
        return read_back(new, job, episodes, annotation)

    read_back = hdf5_files._read_back
    monkeypatch.setattr(hdf5_files, "_read_back", meanwhile)
    with pytest.raises(OutputError, match=r"out\.hdf5 exists without a mark"):
        annotate_files(hdf5, out, method="fixed", options={"value": 0.25}, overwrite=True)
    assert out.read_bytes() == b"a colleague's"
    assert {path: path.read_bytes() for path in annotator.glob("*")} == before and annotator.exists() == replaced


def test_where_no_file_came_on_a_full_disk_no_annotator_stays(hdf5, tmp_path, monkeypatch):
    def full(new, kind):
        if new.name == "out.hdf5":
            raise OSError(errno.ENOSPC, "No space left on device")
        stamp(new, kind)

    stamp = outputs.stamp
    monkeypatch.setattr(outputs, "stamp", full)
    with pytest.raises(UserError, match=r"out\.hdf5 is as it was"):
        annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    assert [*tmp_path.iterdir()] == [hdf5]


@pytest.mark.parametrize("at_once", [True, False])
def test_where_the_file_cannot_be_replaced_its_annotator_stays_too(hdf5, tmp_path, monkeypatch, at_once):
    out, annotator = tmp_path / "out.hdf5", tmp_path / "out.hdf5.annotator"
    annotate_files(hdf5, out, method="gaussian")
    before = {path: path.read_bytes() for path in [out, *annotator.glob("*")]}
    if not at_once:
        monkeypatch.setattr(whole, "_exchange", lambda *_: False)
    replace = os.replace

    def mounted(old, new):
        if Path(new) == out:
            raise OSError(errno.EBUSY, "Device or resource busy", str(out))
        replace(old, new)

    monkeypatch.setattr(whole.os, "replace", mounted)
    with pytest.raises(OSError, match="busy"):
        annotate_files(hdf5, out, method="fixed", options={"value": 0.25}, overwrite=True)
    assert {path: path.read_bytes() for path in [out, *annotator.glob("*")]} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos.hdf5", "out.hdf5", "out.hdf5.annotator"]


def test_of_two_at_once_the_annotator_of_one_does_not_stay_beside_the_file_of_the_other(hdf5, tmp_path, monkeypatch):
    out, deliver, others = tmp_path / "out.hdf5", hdf5_files.deliver, []

    def between(new, path, *rest, **more):
        if path == out and not others:  # as long as it takes to read all of both files for their checksums
            others.append(pool.submit(annotate_files, hdf5, out, method="fixed", overwrite=True))
            with contextlib.suppress(TimeoutError):
                others[0].result(1)
        deliver(new, path, *rest, **more)

    monkeypatch.setattr(hdf5_files, "deliver", between)
    with ThreadPoolExecutor(1) as pool:
        annotate_files(hdf5, out, method="gaussian", overwrite=True)
        kept = others[0].result().annotator
    with h5py.File(out) as file:
        assert json.loads(file["data"].attrs["annotator"]) == load_annotator(kept).identity


def killed_between(hdf5, out, monkeypatch, **job):
    """Annotates up to the moment at which the annotator is there and the file is not."""

    def deliver(new, path, *rest, **more):
        if path == out:
            raise KeyboardInterrupt
        return deliver_one(new, path, *rest, **more)

    deliver_one = hdf5_files.deliver
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(hdf5_files, "deliver", deliver)
        patched.setattr(hdf5_files, "put", lambda *_: None)  # nor does it come to that
        annotate_files(hdf5, out, **job)
    assert (out.parent / f"{out.name}.annotator").exists()


def test_the_same_command_completes_what_lacks_its_file_and_another_does_not(hdf5, tmp_path, monkeypatch):
    out = tmp_path / "out.hdf5"
    killed_between(hdf5, out, monkeypatch, method="gaussian")
    with pytest.raises(OutputError, match=r"out\.hdf5\.annotator exists; name another place, or allow overwriting"):
        annotate_files(hdf5, out, method="fixed", options={"value": 0.25})
    assert annotate_files(hdf5, out, method="gaussian").path.exists()


def test_an_annotator_beside_the_labels_of_another_is_not_used(hdf5, tmp_path, monkeypatch):
    done = annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    AnnotationJob(annotator=done.annotator)
    killed_between(hdf5, done.path, monkeypatch, method="fixed", options={"value": 0.25}, overwrite=True)
    with pytest.raises(AnnotationError, match=r"out\.hdf5\.annotator is not what made the labels of .*out\.hdf5; ano"):
        AnnotationJob(annotator=done.annotator)
    with pytest.raises(AnnotationError, match="is not what made the labels"):
        build_dataset(hdf5, tmp_path / "data", "toy", annotator=done.annotator)
    moved = done.annotator.rename(tmp_path / "kept")
    assert AnnotationJob(annotator=moved).annotator == moved


def test_a_dataset_that_is_finished_is_returned_whatever_its_annotator_lies_beside_now(hdf5, tmp_path):
    done = annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    version = build_dataset(hdf5, tmp_path / "data", "toy", annotator=done.annotator)
    kept = shutil.copytree(done.annotator, tmp_path / "kept")
    again = annotate_files(hdf5, done.path, method="fixed", options={"value": 0.25}, overwrite=True)
    shutil.rmtree(again.annotator)
    shutil.copytree(kept, again.annotator)
    assert build_dataset(hdf5, tmp_path / "data", "toy", annotator=again.annotator) == version
    with pytest.raises(AnnotationError, match="is not what made the labels"):
        build_dataset(hdf5, tmp_path / "data", "other", annotator=again.annotator)


def test_an_annotator_that_was_not_written_with_its_folder_is_not_used(tmp_path):
    folder = write_npz(tmp_path / "npz", demos(3))
    done = annotate_files(folder, tmp_path / "out", method="gaussian")
    other = annotate_files(folder, tmp_path / "other", method="gaussian", options={"sigma": 5.0}).annotator
    AnnotationJob(annotator=done.annotator)
    kept = shutil.copytree(done.annotator, tmp_path / "free" / "annotator")
    shutil.rmtree(done.annotator)
    shutil.copytree(other, done.annotator)
    with pytest.raises(AnnotationError, match=r"out/annotator is not what was written with .*out; copy it"):
        AnnotationJob(annotator=done.annotator)
    assert AnnotationJob(annotator=kept).annotator == kept
    lstm = annotate_files(folder, tmp_path / "lstm", options={"epochs": 1, "hidden": 4}).annotator
    record = json.loads((lstm / "estimator.json").read_text())
    del record["record_hash"]
    (lstm / "estimator.json").write_text(json.dumps({**record, "report": {}}))
    with pytest.raises(AnnotationError, match=r"lstm/annotator is not what was written with .*lstm; copy it"):
        AnnotationJob(annotator=lstm)


@pytest.mark.parametrize("name", ["data/demo_1/obs/depth", "data/demo_1/datagen_info/eef/pose", "frames"])
def test_a_damaged_picture_is_not_copied(hdf5, tmp_path, name):
    with h5py.File(hdf5, "r+") as file:
        pictures = file["data/demo_1/obs/image_primary"][()]
        packed = file.create_dataset(name, data=pictures, chunks=(8, 16, 16, 3), compression="gzip")
        place = packed.id.get_chunk_info(3).byte_offset
    assert annotate_files(hdf5, tmp_path / "sound.hdf5", method="gaussian").path.exists()
    with hdf5.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"damaged")
    with pytest.raises(EpisodeError, match=rf"demos\.hdf5, {name}: cannot be read: .*; copy the file again"):
        annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")


def test_an_array_of_numbers_that_numpy_has_not_is_copied_and_named(hdf5, tmp_path, capsys):
    with h5py.File(hdf5, "r+") as file:
        of_24_bits = h5py.h5t.STD_I32LE.copy()
        of_24_bits.set_size(3)
        packed = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        packed.set_chunk((8,))
        packed.set_deflate(4)
        h5py.h5d.create(file.create_group("log").id, b"adc", of_24_bits, h5py.h5s.create_simple((8,)), packed)
    annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    assert "note: log/adc and its like are copied unread: numpy has no such numbers (" in capsys.readouterr().out


def test_an_array_behind_a_filter_that_is_not_installed_is_copied_and_named(hdf5, tmp_path, capsys):
    with h5py.File(hdf5, "r+") as file:
        steps = len(file["data/demo_1/actions"])
        by_zstd = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        by_zstd.set_chunk((steps, 7))
        by_zstd.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        where, space = file["data/demo_1/obs"].id, h5py.h5s.create_simple((steps, 7))
        made = h5py.h5d.create(where, b"force", h5py.h5t.NATIVE_DOUBLE, space, by_zstd)
        made.write_direct_chunk((0, 0), b"what only zstd could read")
    out = annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian").path
    assert (
        "note: data/demo_1/obs/force and its like are copied unread: HDF5 filter 32015 is not"
        in capsys.readouterr().out
    )
    with h5py.File(out) as file:
        assert file["data/demo_1/obs/force"].id.read_direct_chunk((0, 0))[1] == b"what only zstd could read"


def test_marks_of_lost_measurements_in_further_columns_are_refused(hdf5, tmp_path):
    with h5py.File(hdf5, "r+") as file:
        for name, demo in file["data"].items():
            joint = np.cumsum(np.full((80, 4), 0.01), axis=0)
            joint[[40, 41, 70], 1] = -9999 if name == "demo_3" else 1
            demo["obs/joint"] = joint
    with pytest.raises(
        EpisodeError, match=r"episode demo_3: joint is -9999 at step 40 \(and 2 more\), column 1, .*; if it"
    ):
        annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian", extra="joint")


def test_a_demonstration_that_is_there_twice_is_told(hdf5, tmp_path, capsys):
    annotate_files(hdf5, tmp_path / "one.hdf5", method="gaussian")
    assert "note" not in capsys.readouterr().out
    with h5py.File(hdf5, "r+") as file:
        file.copy("data/demo_1", "data/demo_7")
    annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    assert "note: episode[5] has the same actions and states as episode[1]; drop one\n" in capsys.readouterr().out


def test_an_attribute_of_another_unit_is_nothing_of_ours(hdf5, tmp_path):
    with h5py.File(hdf5, "r+") as file:
        for demo in file["data"].values():
            demo.attrs["opening_unit"] = "mm"
    done = annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    assert AnnotationJob(annotator=done.annotator).run(done.episodes).identity == done.annotation.identity


def test_files_that_are_none_of_ours_are_named(tmp_path):
    with pytest.raises(AnnotationError, match="no such file"):
        annotate_files(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(AnnotationError, match=r"neither an RLDS dataset version .* nor a folder of \.npz"):
        annotate_files(tmp_path, tmp_path / "out")
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", joints=np.zeros((3, 7)))
    with pytest.raises(AnnotationError, match=r"a\.npz: neither 'proprio' nor 'position', 'quaternion', 'gripper'"):
        annotate_files(tmp_path / "in", tmp_path / "out")


def test_labels_destroy_nothing(hdf5, npz, tmp_path):
    """Neither the source, whatever OUT has to do with it, nor what others put where labels go."""
    before = {path: path.read_bytes() for path in (hdf5, *npz.glob("*.npz"))}
    for out in (npz, npz.parent, npz / "deeper"):
        with pytest.raises(OutputError, match="which is read"):
            annotate_files(npz, out, method="gaussian", overwrite=True)
    out = tmp_path / "out.hdf5"
    beside = tmp_path / "out.hdf5.annotator"
    beside.mkdir()
    (beside / "thesis.tex").write_text("the only copy")
    with pytest.raises(OutputError, match=r"out\.hdf5\.annotator exists without a mark"):
        annotate_files(hdf5, out, method="gaussian", overwrite=True)
    assert [path.name for path in beside.iterdir()] == ["thesis.tex"] and not out.exists()
    with pytest.raises(OutputError, match=r"must end in \.hdf5 or \.h5"):
        annotate_files(hdf5, tmp_path / "out.npz", method="gaussian")
    with pytest.raises(OutputError, match="exists without a mark"):
        annotate_files(npz, beside, method="gaussian", overwrite=True)
    done = annotate_files(hdf5, tmp_path / "own.hdf5", method="gaussian")
    with pytest.raises(OutputError, match="which is read"):
        annotate_files(hdf5, done.path, annotator=done.annotator, overwrite=True)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda file: file.create_group("data/demo_1/rho"), ", episode demo_1: 'rho' is a group"),
        (
            lambda file: file.create_dataset("data/demo_1/rho", data=np.zeros((80, 3))),
            r", episode demo_1: 'rho' is float64\[80, 3\], no label of ours; rename it first",
        ),
        (
            lambda file: file.create_dataset("data/demo_1/change_point", data=np.arange(80) - 40),
            r", episode demo_1: 'change_point' is -40 at step 0, no label of ours; rename it first",
        ),
        (
            lambda file: file.create_dataset("data/demo_1/change_point", data=np.zeros(80, np.int8)),
            ": 'change_point' without 'rho', no label of ours; rename it first",
        ),
        (lambda file: file["data"].attrs.update(annotator="Alice"), ": its attribute 'annotator' is none of ours"),
    ],
)
def test_what_others_put_where_labels_go_is_not_lost_and_is_seen_before_any_label_is_made(
    put, message, hdf5, tmp_path, monkeypatch
):
    with h5py.File(hdf5, "a") as file:
        put(file)
    monkeypatch.setattr(AnnotationJob, "run", None)
    with pytest.raises(UserError, match=rf"demos\.hdf5{message}"):
        annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian")
    assert not (tmp_path / "out.hdf5").exists()


@pytest.mark.parametrize("theirs", [np.array(["of air"] * 80), np.zeros((80, 3)), np.full(80, 997), np.zeros(80)])
def test_an_array_of_the_name_of_a_label_that_is_none_is_not_replaced(theirs, npz, tmp_path):
    file = npz / "episode_1.npz"
    with np.load(file) as held:
        np.savez(file, **dict(held), rho=theirs)
    with pytest.raises(
        AnnotationError,
        match=r"(episode_1\.npz: 'rho' is .*|: 'rho' without 'change_point'), no label of ours; rename it first",
    ):
        annotate_files(npz, tmp_path / "out", method="gaussian")


@pytest.mark.parametrize("in_place", [False, True])  # with its time set back
@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_a_source_that_is_replaced_while_it_is_read_gives_no_copy(kind, in_place, hdf5, npz, tmp_path, monkeypatch):
    source, run = {"hdf5": hdf5, "npz": npz}[kind], AnnotationJob.run
    replaced = source if kind == "hdf5" else source / "episode_0.npz"

    def replacing(*arguments, **options):
        if in_place:
            before = replaced.stat()
            replaced.write_bytes(replaced.read_bytes())
            os.utime(replaced, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            (tmp_path / "new").write_bytes(replaced.read_bytes())
            (tmp_path / "new").replace(replaced)
        return run(*arguments, **options)

    monkeypatch.setattr(AnnotationJob, "run", replacing)
    with pytest.raises(EpisodeError, match=f"{replaced} changed while it was read; give the same command when it"):
        annotate_files(source, tmp_path / f"out{replaced.suffix if kind == 'hdf5' else ''}", method="gaussian")
    assert not [*tmp_path.glob("out*")]


def test_a_recording_that_comes_while_its_folder_is_labelled_is_not_left_out(npz, tmp_path, monkeypatch, capsys):
    run, came = AnnotationJob.run, iter(["notes.txt", "episode_9.npz"])

    def recording_on(*arguments, **options):
        shutil.copy(npz / "episode_0.npz", npz / next(came))
        return run(*arguments, **options)

    monkeypatch.setattr(AnnotationJob, "run", recording_on)
    annotate_files(npz, tmp_path / "out", method="gaussian")  # which copies no notes
    shutil.rmtree(tmp_path / "out")
    (npz / "notes.txt").unlink()
    with pytest.raises(EpisodeError, match=r"episode_9\.npz came while .*npz was read; give the same command when it"):
        annotate_files(npz, tmp_path / "out", method="gaussian")
    assert not (tmp_path / "out").exists() and "not copied" not in capsys.readouterr().out


def test_a_state_of_more_arms_than_actions_is_told(tmp_path, capsys):
    for columns in (14, 7):
        folder = tmp_path / f"{columns}"
        folder.mkdir()
        for index, episode in enumerate(demos(2, arms=2)):
            np.savez(folder / f"{index}.npz", proprio=episode.proprio, action=episode.action[:, :columns])
        annotate_files(folder, tmp_path / f"out_{columns}", method="gaussian")
        said = "0.npz, episode 0 is taken for that of 2 arms, its actions have 7 columns; if it is one arm, give a lay"
        assert (said in capsys.readouterr().out) == (columns == 7)


def test_the_wrong_columns_for_a_saved_annotator_are_refused(hdf5, tmp_path):
    one_arm = annotate_files(hdf5, tmp_path / "out.hdf5", options={"epochs": 1})
    two_arms = write_npz(tmp_path / "two", demos(2, arms=2))
    with pytest.raises(EpisodeError, match="the annotator was fitted on"):
        annotate_files(two_arms, tmp_path / "out2", annotator=one_arm.annotator)


def test_pages_pictures_and_videos_are_written_and_need_no_network(npz, tmp_path):
    source = write_hdf5(tmp_path / "short.hdf5", demos(3, leg=5))
    done = annotate_files(source, tmp_path / "out.hdf5", options={"epochs": 1})
    report = write_report(done, tmp_path / "report.html", 2).read_text()
    page = show_episode(done.path, tmp_path / "page.html", episode=1).read_text()
    for text in (report, page):
        assert (
            "http://" not in text
            and "https://" not in text
            and "src=" not in re.sub(r'image\.src|src="data:', "", text)
        )
        assert text.count("<svg") == text.count("</svg>") > 0
    assert all(page.count(f">leg {leg}<") == 1 for leg in range(4)) and ">ρ<" in page
    assert len(json.loads(page.split('application/json">')[1].split("</script>")[0])["frames"]) == 20
    assert "Calibration on held-out episodes" in report and report.count('class="chart"') == 2
    shown = [json.loads(part.split("</script>")[0]) for part in report.split('application/json">')[1:]]
    assert [len(data["frames"]) for data in shown] == [20, 20] and shown[0]["frames"] != shown[1]["frames"]
    assert show_episode(done.path, tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
    assert show_episode(done.path, tmp_path / "page.mp4").read_bytes()[4:8] == b"ftyp"
    annotate_files(source, tmp_path / "out.hdf5", method="gaussian", overwrite=True)
    with pytest.raises(AnnotationError, match=r"out\.hdf5 was replaced meanwhile, by labels of another command"):
        write_report(done, tmp_path / "report.html", 2)
    assert (tmp_path / "report.html").read_text() == report
    with pytest.raises(OutputError, match="must end in"):
        show_episode(done.path, tmp_path / "page.gif")
    with pytest.raises(AnnotationError, match="no episode 9; it has 3"):
        show_episode(done.path, tmp_path / "page.html", episode=9)
    held = dict(np.load(next(npz.glob("*.npz"))))
    np.savez(min(npz.glob("*.npz")), **held, num_steps=999)
    with pytest.raises(EpisodeError, match="'num_steps' says 999 steps, there are 80"):
        show_episode(npz, tmp_path / "page.html")


def test_members_of_an_npz_that_are_no_arrays_stay_as_they_are(npz, tmp_path):
    with zipfile.ZipFile(first := min(npz.glob("*.npz")), "a") as archive:
        archive.writestr("meta.json", '{"robot": "arm"}')
    done = annotate_files(npz, tmp_path / "out", method="gaussian")
    with zipfile.ZipFile(done.path / first.name) as archive:
        assert archive.read("meta.json") == b'{"robot": "arm"}' and "rho.npy" in archive.namelist()


@pytest.mark.usefixtures("blank_charts")
def test_reports_of_all_three_formats_show_their_frames(npz, hdf5, tmp_path, capsys):
    from gap_vla.rlds import write_rlds

    with_pictures = tmp_path / "pictures"
    with_pictures.mkdir()
    for number, episode in enumerate(demos(2)):
        large = np.repeat(np.repeat(episode.images["image_primary"], 16, axis=1), 20, axis=2)
        np.savez(with_pictures / f"{number}.npz", proprio=episode.proprio, image_primary=large)
    rlds = write_rlds(demos(2), tmp_path, "corners", val_fraction=0.5)
    for source, out in ((with_pictures, "out"), (hdf5, "out.hdf5"), (rlds, "1.1.0")):
        done = annotate_files(source, tmp_path / "done" / out, method="gaussian")
        last = done.read(len(done.episodes) - 1)
        assert last.images["image_primary"].shape[0] == 80 and last.rho.tobytes() == done.annotation.rho[-1].tobytes()
        page = write_report(done, tmp_path / f"{out}.html", 2).read_text()
        data = [json.loads(part.split("</script>")[0]) for part in page.split('application/json">')[1:]]
        assert [len(d["frames"]) for d in data] == [80, 80]
        assert capsys.readouterr().out.count("proprio <-") == 1  # what is read is told once, not for each episode shown
        assert _sizes(data[1]["frames"]) == {(160, 128) if out == "out" else (16, 16)}  # never above 160 pixels
    blind = write_report(
        annotate_files(npz, tmp_path / "blind", method="gaussian"), tmp_path / "blind.html"
    ).read_text()
    assert '"frames": null' in blind


def _sizes(frames):
    return {Image.open(io.BytesIO(base64.b64decode(frame))).size for frame in frames}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_in_a_browser_the_page_runs_and_shows_the_frame_of_its_step(hdf5, tmp_path):
    page = show_episode(hdf5, tmp_path / "page.html", method="gaussian")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{page}"]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert 'src="data:image/jpeg;base64,' in seen
    assert "step 20, ρ = 1.00, leg 1</output>" in seen


@pytest.mark.usefixtures("blank_charts")
def test_the_commands_say_where_the_result_is_or_what_is_wrong(hdf5, tmp_path, capsys, monkeypatch):
    run = _command("annotate")
    assert (
        run([str(hdf5), "--out", str(tmp_path / "out.hdf5"), "--method", "gaussian", "--option", "sigma=2", "--report"])
        == 0
    )
    said = capsys.readouterr().out
    assert "5 episodes, 400 steps, 15 change points" in said
    assert (tmp_path / "out.hdf5.report.html").exists()
    assert run([str(hdf5), "--out", str(tmp_path / "out.hdf5")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit, match="2"):
        run([str(hdf5), "--out", str(tmp_path / "x.hdf5"), "--option", "sigma"])
    assert "is not KEY=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "x.hdf5").exists()
    show = _command("show_episode")
    assert show([str(hdf5), "--method", "cotpc", "--out", str(tmp_path / "e.html")]) == 0
    assert "labels: cotpc" in (tmp_path / "e.html").read_text()
    assert show([str(hdf5), "--camera", "wrist", "--out", str(tmp_path / "e.html")]) == 2
    assert "no camera 'wrist' (cameras: image_primary)" in capsys.readouterr().err
    monkeypatch.setattr("gap_vla.rlds.annotating.hdf5_files.tell_changed", os.utime)
    assert show([str(hdf5), "--out", str(tmp_path / "e.html")]) == 2
    assert "demos.hdf5 changed while it was read" in capsys.readouterr().err


def _command(name):
    return importlib.import_module(f"gap_vla.cli.{name}").main


def test_a_file_that_lost_a_demonstration_while_it_was_copied_is_named(hdf5, tmp_path, monkeypatch):
    copied = shutil.copyfile

    def copy_less(source, out):
        copied(source, out)
        with h5py.File(out, "r+") as file:
            del file["data"][next(iter(file["data"]))]

    monkeypatch.setattr(shutil, "copyfile", copy_less)
    with pytest.raises(AnnotationError, match="changed while it was read"):
        annotate_files(hdf5, tmp_path / "labelled.hdf5", method="fixed")
    assert not (tmp_path / "labelled.hdf5").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_primary", np.zeros((7, 8, 8, 3), np.uint8), r"'image_primary' has 7 steps, the actions \d+"),
        ("timestamp", np.arange(7), r"'timestamp' has 7 steps"),
        ("timestamp", -np.arange(400.0), r"'timestamp' is -1 at step 1, not after -?0"),
    ],
)
def test_arrays_of_npz_that_are_copied_have_the_steps_of_the_state(npz, tmp_path, name, value, message):
    file = sorted(npz.glob("*.npz"))[1]
    with np.load(file) as held:
        arrays = dict(held)
    steps = len(arrays["proprio" if "proprio" in arrays else "position"])
    np.savez(file, **{**arrays, name: value[:steps]})
    with pytest.raises(EpisodeError, match=rf"{file.name}: {message}"):
        annotate_files(npz, tmp_path / "out", method="gaussian")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("blank_charts")
def test_an_older_report_is_replaced_only_if_that_is_allowed(hdf5, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["--method", "fixed", "--report", str(page), "--show", "1"]
    assert gap_vla.cli.annotate.main([str(hdf5), "--out", str(tmp_path / "a.hdf5"), *words]) == 0
    before = page.read_bytes()
    assert gap_vla.cli.annotate.main([str(hdf5), "--out", str(tmp_path / "b.hdf5"), *words]) == 2
    assert "page.html exists; name another place, or allow overwriting" in capsys.readouterr().err
    assert page.read_bytes() == before and not (tmp_path / "b.hdf5").exists()
    assert gap_vla.cli.annotate.main([str(hdf5), "--out", str(tmp_path / "b.hdf5"), *words, "--overwrite"]) == 0
    assert page.read_bytes() != before
    before = page.read_bytes()
    (tmp_path / "c.hdf5.report.html").symlink_to(page)  # beside the output, where nobody has named it
    words = ["--out", str(tmp_path / "c.hdf5"), "--method", "fixed", "--report", "--overwrite"]
    assert gap_vla.cli.annotate.main([str(hdf5), *words]) == 2
    assert "c.hdf5.report.html is a link; what it leads to would be replaced" in capsys.readouterr().err
    assert page.read_bytes() == before and not (tmp_path / "c.hdf5").exists()


def test_an_annotator_knows_what_its_extra_columns_are_called(tmp_path):
    folder = write_npz(tmp_path / "npz", demos(1))
    hands = {name: np.linspace(0, 1, 80) for name in ("joint_pos", "joint_vel", "robot0_joint_pos")}
    np.savez(folder / "episode_0.npz", proprio=demos(1)[0].proprio, **hands)
    made = annotate_files(folder, tmp_path / "a", method="gaussian", extra="joint_pos").annotator
    with pytest.raises(AnnotationError, match="was fitted with extra joint_pos, not joint_vel; name the same"):
        annotate_files(folder, tmp_path / "b", annotator=made, extra="joint_vel")
    again = annotate_files(folder, tmp_path / "c", annotator=made, extra="robot0_joint_pos").annotator
    assert json.loads((again / "annotator.json").read_text())["extra"] == ["joint_pos"]
    with pytest.raises(AnnotationError, match=r"extra joint_pos, which is not read here.* and show the copy"):
        show_episode(folder, tmp_path / "e.png", annotator=made)
    made = made.rename(tmp_path / "older")
    record = json.loads((made / "annotator.json").read_text())
    del record["extra"], record["beside_hash"]
    (made / "annotator.json").write_text(json.dumps(record))
    assert annotate_files(folder, tmp_path / "d", annotator=made, extra="joint_vel").path.is_dir()


def test_an_opening_beside_position_and_quaternion_has_no_unit(tmp_path, capsys):
    state = demos(1)[0].proprio
    folder = tmp_path / "npz"
    folder.mkdir()
    parts = {"position": state[:, :3], "quaternion": state[:, 3:7], "gripper": np.linspace(0, 1, 80)}
    np.savez(folder / "0.npz", **parts)
    assert read_episode(folder, 0).metadata["opening_unit"] == "1"
    np.savez(folder / "1.npz", proprio=state, image_primary_index=np.arange(80))
    capsys.readouterr()
    with pytest.raises(EpisodeError, match="gripper openings are in m"):
        annotate_files(folder, tmp_path / "out", method="gaussian")
    said = capsys.readouterr().out
    assert "or position, quaternion wxyz, gripper" in said and "not taken: image_primary_index\n" in said
    (folder / "1.npz").unlink()
    in_metres = annotate_files(write_npz(tmp_path / "m", demos(2)), tmp_path / "of_m", method="gaussian").annotator
    annotate_files(folder, tmp_path / "parts", annotator=in_metres)  # as those of before 0.2, which said so of parts
    assert "gripper (in m, as the annotator was fitted on)" in capsys.readouterr().out


def test_what_has_no_effect_is_refused(hdf5, tmp_path):
    made = annotate_files(hdf5, tmp_path / "out.hdf5", method="gaussian").annotator
    for idle in ({"method": "change_points"}, {"options": {"sigma": 2}}, {"seed": 1}):
        with pytest.raises(AnnotationError, match="method, options, seed: no effect with an annotator"):
            annotate_files(hdf5, tmp_path / "b.hdf5", annotator=made, **idle)
    with pytest.raises(AnnotationError, match="method: no effect with an annotator"):
        show_episode(hdf5, tmp_path / "e.png", method="lstm", annotator=made)
    with pytest.raises(AnnotationError, match="state has no effect, only of RLDS"):
        annotate_files(hdf5, tmp_path / "b.hdf5", state="observation/state")
    for idle, only in (({"split": "val"}, "of RLDS"), ({"state": "x"}, "of RLDS"), ({"fps": 3}, "of a video, .mp4")):
        with pytest.raises(AnnotationError, match=f"{next(iter(idle))} has no effect, only {only}; leave it out"):
            show_episode(hdf5, tmp_path / "e.png", **idle)


@pytest.mark.parametrize("name", ["rho", "obs/is_first", "Reward"])
def test_columns_that_are_no_joints_are_no_extra(name):
    with pytest.raises(AnnotationError, match=f"extra: '{name}' is no joint"):
        AnnotationJob(extra=name)


def test_the_state_itself_is_no_extra(hdf5, npz, tmp_path):
    for source, name in ((hdf5, "robot0_eef_pos"), (hdf5, "robot0_gripper_qpos"), (npz, "proprio")):
        with pytest.raises(AnnotationError, match=f"extra names '{name}', which is the state itself; leave it out"):
            annotate_files(source, tmp_path / f"out{source.suffix}", method="gaussian", extra=name)


@pytest.mark.usefixtures("blank_charts")
def test_paths_may_be_text(npz, tmp_path):
    assert show_episode(f"{npz}", f"{tmp_path / 'e.png'}").is_file()
