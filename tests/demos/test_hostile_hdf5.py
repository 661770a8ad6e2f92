"""What an HDF5 file can hold besides demonstrations: links, pointers, endless text, words for truth, wild numbers."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from synthetic_demos import make_episode, write_robomimic

from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source
from gap_vla.demos.arrays import read_arrays
from gap_vla.demos.hdf5_members import attributes_of_data, opened, require_sound
from gap_vla.demos.hdf5_storage import odd_chunk


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = [make_episode(i, steps=8, size=4, annotated=False) for i in range(2)]
    return write_robomimic(tmp_path_factory.mktemp("made") / "demos.hdf5", episodes)


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path))


def put(path: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if path in file:
            del file[path]
        file[path] = value

    return change


def _said_twice(file: h5py.File) -> None:
    file["data"].attrs.update(language_instruction="go", env_args='{"lang": "open it"}')


def _same(key: str) -> Callable[[h5py.File], None]:
    return lambda file: put(f"data/demo_1/obs/{key}", file[f"data/demo_0/obs/{key}"])(file)


def _rows(file: h5py.File) -> None:
    """Of HDF5's array type: one element per step, which h5py reads as one row."""
    actions = file["data/demo_1/actions"][()].astype(np.float64)
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", (len(actions),), np.dtype((np.float64, (7,))))[...] = actions


def _unit(path: str, **said: Any) -> Callable[[h5py.File], None]:
    return lambda file: file[path].attrs.update(said)


def _never_measured(path: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[path][3, 1] = file[path].attrs["missing_value"] = -1.0

    return change


def _filled(file: h5py.File) -> None:
    """Its recorder stopped at step 6; the file says what stands for nothing."""
    rows = file["data/demo_1/obs/robot0_eef_pos"][()]
    del file["data/demo_1/obs/robot0_eef_pos"]
    file.create_dataset("data/demo_1/obs/robot0_eef_pos", rows.shape, "f4", fillvalue=-1)[:6] = rows[:6]


def _chunk(path: str, size: float, **how: Any) -> Callable[[h5py.File], None]:
    """Its last chunk holds so many times what a chunk holds."""

    def change(file: h5py.File) -> None:
        values = file[path][()]
        del file[path]
        made = file.create_dataset(path, data=values, chunks=(4, *values.shape[1:]), **how)
        content = np.resize(values[4:], int(values[4:].size * size)).tobytes()
        where = (4, *(0 for _ in values.shape[1:]))
        made.id.write_direct_chunk(where, zlib.compress(content) if how else content)

    return change


def _short(path: str, *, packed: bool = True) -> Callable[[h5py.File], None]:
    """The last chunk holds half of what a chunk holds; the library itself never writes such a one."""

    def change(file: h5py.File) -> None:
        values = file[path][()]
        del file[path]
        half, where = values[4:6].tobytes(), (4, *(0 for _ in values.shape[1:]))
        made = file.create_dataset(path, data=values, compression="gzip", shuffle=True, chunks=(4, *values.shape[1:]))
        made.id.write_direct_chunk(where, zlib.compress(half) if packed else half, 0 if packed else 0b10)

    return change


def _elsewhere(file: h5py.File) -> None:
    other = Path(file.filename).with_name("other.hdf5")
    with h5py.File(other, "w") as stored:
        stored["actions"] = file["data/demo_1/actions"][()]
    put("data/demo_1/actions", h5py.ExternalLink(other.name, "/actions"))(file)


def _virtual(file: h5py.File) -> None:
    _elsewhere(file)
    del file["data/demo_1/actions"]
    layout = h5py.VirtualLayout((8, 7), "f8")
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", (8, 7))
    file.create_virtual_dataset("data/demo_1/actions", layout)


def _unused_elsewhere(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8, 7), "f8")
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", (8, 7))
    file.create_virtual_dataset("data/demo_1/extra", layout)


def _raw(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file.create_dataset("data/demo_1/actions", (8, 7), "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _pointers(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    kind = h5py.h5t.create(h5py.h5t.OPAQUE, 8)
    kind.set_tag(b"NUMPY:|O")  # h5py takes these bytes for addresses of objects
    made = h5py.h5d.create(file["data/demo_1"].id, b"actions", kind, h5py.h5s.create_simple((8, 7)))
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.full((8, 7), 0x41414141).view("V8"), mtype=kind)


def _compressed_elsewhere(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    by_zstd = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    by_zstd.set_chunk((8, 7))
    by_zstd.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space, where = h5py.h5s.create_simple((8, 7)), file["data/demo_1"].id
    made = h5py.h5d.create(where, b"actions", h5py.h5t.NATIVE_DOUBLE, space, by_zstd)
    made.write_direct_chunk((0, 0), np.zeros((8, 7)).tobytes())


def _huge(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file.create_dataset("data/demo_1/actions", (2**40, 7), "f8", chunks=(64, 7))


def _never_written(path: str, **storage: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        shape, dtype = file[path].shape, file[path].dtype
        del file[path]
        file.create_dataset(path, shape, dtype, **storage)

    return change


def _cell(value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file["data/demo_1/actions"][3, 6] = value

    return change


def _attribute(owner: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[owner].attrs[name] = value

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_elsewhere, "episode demo_1: 'actions' is a link to another file"),
        (_virtual, "episode demo_1: 'actions' is virtual or lies in other files"),
        (_raw, "episode demo_1: 'actions' is virtual or lies in other files"),
        (put("data/demo_1/extra", h5py.ExternalLink("o.hdf5", "/x")), "demo_1: 'extra' is a link to another file"),
        (put("data/demo_1/obs/extra", h5py.ExternalLink("o.hdf5", "/x")), "demo_1: 'extra' is a link to another file"),
        (_unused_elsewhere, "episode demo_1: 'extra' is virtual or lies in other files"),
        (put("data/demo_1/actions", h5py.SoftLink("/nowhere")), "episode demo_1: no '/nowhere'"),
        (put("data/demo_1/actions", h5py.SoftLink("/data/demo_1/actions")), "episode demo_1: .* in a circle"),
        (_pointers, "episode demo_1: 'actions' holds no numbers"),
        (_rows, r"episode demo_1: 'actions' holds float64\[7\]; write one row of numbers per step"),
        (_compressed_elsewhere, r"demo_1: this HDF5 library lacks its compression; .* h5repack -f GZIP=4"),
        (_huge, "episode demo_1: 'actions': declares .* bytes and stores 0"),
        (_short("data/demo_1/actions"), r"demo_1: 'actions': the chunk from \(4, 0\) on holds less than"),
        (_short("data/demo_1/obs/agentview_image"), r"agentview_image': the chunk from \(4, 0, 0, 0\) on holds less"),
        (_short("data/demo_1/obs/robot0_eef_pos", packed=False), r"_eef_pos': the chunk from \(4, 0\) on holds less"),
        (_unit("data/demo_1/obs/robot0_eef_pos", units="mm"), "eef_pos' says that it is in 'mm', it is read as m"),
        (_chunk("data/demo_1/obs/agentview_image", 0.25), r"image': the chunk from \(4, 0, 0, 0\) on holds less"),
        (_chunk("data/demo_1/actions", 3, compression="gzip"), r"'actions': the chunk from \(4, 0\) on holds less"),
        (put("data/demo_1/next_obs/robot0_eef_pos", np.full((8, 3), 0.5)), "next_obs of robot0_eef_pos at step 0 is"),
        (_unit("data/demo_1/obs/agentview_image", channels=["b", "g", "r"]), "'channels' says .*, it is read as RGB"),
        (_unit("data/demo_1/obs/agentview_image", color_order="BGR8"), "'color_order' says .*, it is read as RGB"),
        (_attribute("data", "num_episodes", 9), "2 demonstrations, 'num_episodes' of 'data' says 9; get all of it"),
        (_unit("data/demo_1/obs", color_order="BGR"), r"/demo_1/obs: the attribute 'color_order' says BGR, it is read"),
        (_unit("data/demo_1", ColourSpace="bgr"), "/data/demo_1: the attribute 'ColourSpace' says bgr, it is read"),
        (_unit("data", channels=["b", "g", "r"]), "/data: the attribute 'channels' says b, g, r, it is read as RGB"),
        (_unit("data", num_samples=100), "have 16 steps, the attribute 'num_samples' of 'data' says 100; get"),
        (_said_twice, "'env_args' says lang 'open it', the attribute 'language_instruction' 'go'; correct one"),
        (_unit("data/demo_1/obs/robot0_eef_quat", about=["unit", "quat, wxyz"]), "'about' says unit, .*, wxyz, it"),
        (_unit("data/demo_1/actions", valid_range=[20, -20]), "by its valid_range none; it was"),
        (put("data/demo_1/num_steps", 30), "demo_1: 'num_steps' says 30 steps, there are 8; correct it or drop"),
        (put("data/demo_1/obs/num_samples", 24), "demo_1: 'obs/num_samples' says 24 steps, there are 8; correct"),
        (_same("robot0_eef_pos"), "data/demo_1/obs/robot0_eef_pos is data/demo_0/obs/robot0_eef_pos by another name"),
        (_same("agentview_image"), "data/demo_1/obs/agentview_image is data/demo_0/obs/agentview_image by another"),
        (_filled, r"robot0_eef_pos': step 6 was never written \(fill value -1.0\); the recording was cut off"),
        (put("data/demo_1/truncated", np.arange(8) % 4 == 3), "'truncated' is true at step 3 of 8 and not after it"),
        (put("data/demo_1/obs/time", np.arange(8) % 5), "'obs/time' is 0 at step 5, not after 4; write it"),
        (put("data/demo_1/obs/wrist_timestamp", [0, 0, 1, 1, 2, 2, 1, 3]), "timestamp' is 1 at step 6, not after 2"),
        (put("data/demo_1/frame_index", [0, 1, 2, 3, 6, 7, 8, 9]), "'frame_index' is 3 at step 3 and 6 at the next"),
        (put("data/demo_1/frame_index", np.zeros(8)), "'frame_index' is 0 at step 0 and 0 at the next; steps are miss"),
        (put("data/demo_1/valid", np.arange(8) < 5), "'valid' is false at step 5; it was not measured there: cut"),
        (put("data/demo_1/obs/state_is_pad", np.arange(8) == 5), "is_pad' is true at step 5; it was not measured"),
        (_attribute("data/demo_1", "num_steps", 30), "demo_1: 8 actions, the attribute 'num_steps' says 30"),
        (_attribute("data/demo_1/obs", "Units", "mm"), "/data/demo_1/obs says that it is in 'mm', it is read as m"),
        (_attribute("data/demo_1/obs", "units", ["rad", "Millimetres"]), "/data/demo_1/obs says .* in 'millimetres'"),
        (_unit("data/demo_1/obs/robot0_eef_quat", Columns=[f"quaternion_{one}" for one in "wxyz"]), "is read as xyzw"),
        (put("data/demo_1/next_obs/robot0_eef_pos", np.zeros((8, 2))), "next_obs/robot0_eef_pos is"),
        (_attribute("data", "unit", "cm"), "/data says that it is in 'cm', it is read as m; convert it"),
        (_unit("data/demo_1/obs/robot0_eef_pos", names=["y", "x", "z"]), "'names' says .*, it is read as xyz"),
        (_unit("data/demo_1/obs/robot0_eef_quat", scalar_first=True), "'scalar_first' is true, it is read as xyzw"),
        (_attribute("data/demo_1", "ep_meta", "[1, 2]"), "demo_1: the attribute 'ep_meta' is no object of JSON; write"),
        (_attribute("data/demo_1", "ep_meta", '{"lang": "open it"}'), "'ep_meta' says lang 'open it', the attribute"),
        (_unit("data/demo_1/obs/robot0_gripper_qpos", units="mm"), "qpos' says that it is in 'mm', it is read as m"),
        (_unit("data/demo_1/obs/robot0_eef_quat", order="wxyz"), "the attribute 'order' says wxyz, it is read as xyzw"),
        (_never_measured("data/demo_1/obs/robot0_eef_pos"), r"is .* at \[3, 1\], by its missing_value none"),
        (_unit("data/demo_1/actions", valid_range=[-1.0, 0.25]), r"is 0\.\d+ at .*, by its valid_range none; it was"),
        (_unit("data/demo_1/actions", _Unsigned="true"), r"is packed \(_Unsigned true\)"),
        (_unit("data/demo_1/obs/robot0_eef_pos", scale_factor=0.001), r"is packed \(scale_factor 0.001\); write"),
        (_never_written("data/demo_1/actions", chunks=(4, 7)), "demo_1: parts of 'actions' were never written"),
        (_never_written("data/demo_1/obs/robot0_eef_pos"), "demo_1: parts of 'obs/robot0_eef_pos' were never written"),
        (_never_written("data/demo_1/obs/agentview_image"), "parts of 'obs/agentview_image' were never written"),
        (put("data/notes", np.zeros(3)), "data: 'notes' is a data set, not a group"),
        (put("data/demo_1/obs", np.zeros(3)), "episode demo_1: 'obs' is a data set, not a group"),
        (put("data/demo_1/obs/robot0_gripper_qpos", np.zeros(8)), r"demo_1: 'obs/robot0_gripper_qpos' is float64\[8\]"),
        (put("data/demo_1/actions", [b"a"] * 8), "episode demo_1: 'actions' holds no numbers"),
        (_cell(1e308), r"episode demo_1: 'actions' is NaN or infinite at step 3, column 6 \(1e\+308, in float32\)"),
        (_cell(1e30), "episode demo_1: 'actions' is 1e.30 at step 3, column 6; actions lie in .*--reader action_limit"),
        (_cell(-127), "episode demo_1: 'actions' is -127 at step 3, column 6; actions lie in .*--reader action_limit"),
        (_attribute("data/demo_1", "success", "perhaps"), "episode demo_1: the attribute 'success' is 'perhaps'"),
        (_attribute("data/demo_1", "success", ""), "the attribute 'success' is '', neither true nor false; store"),
        (_attribute("data/demo_1", "success", np.ones(8, bool)), "data/demo_1: the attribute 'success' is not one"),
        (_attribute("data/demo_1", "success", h5py.Empty("f")), "data/demo_1: the attribute 'success' is not one"),
        (_attribute("data", "env_args", np.zeros(2)), "/data: the attribute 'env_args' is not one number"),
        (_attribute("data", "total", [16, 1]), "/data: the attribute 'total' is not one number"),
        (_attribute("data/demo_1", "num_samples", [5]), "demo_1: 8 actions, the attribute 'num_samples' says 5; get"),
        (_attribute("data/demo_1", "num_samples", 2**63), "demo_1: 8 actions, .* 'num_samples' says 9223372036854"),
        (_attribute("data/demo_1", "num_samples", np.nan), "demo_1: 8 actions, .* 'num_samples' says nan; get"),
        (_attribute("data/demo_1", "num_samples", "eight"), "demo_1: 8 actions, .* 'num_samples' says 'eight'"),
        (_attribute("data/demo_1", "language_instruction", b"\xff\xfe"), "demo_1: the attribute .* cannot be read"),
        (_attribute("data/demo_1", b"\xff\xfe", 1), "demo_1: holds .* whose name is not UTF-8; rename it"),
        (lambda file: file.create_group(b"data/demo_\xff"), "holds .*, whose name is not UTF-8; rename it"),
        (put("data/demo_1/actions", np.zeros((7, 7))), "demo_1: 7 actions, the attribute 'num_samples' says 8"),
        (put("data/demo_1/obs/depth", h5py.Empty("f4")), "demo_1: obs/depth has 0 steps, the actions 8; cut them"),
        (lambda file: file["data"].__delitem__("demo_1"), "have 8 steps, the attribute 'total' of 'data' says 16"),
    ],
)  # fmt: skip
def test_what_is_no_demonstration_is_refused_in_one_line(
    file: Path, spoil: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(file, "r+") as stored:
        spoil(stored)
    with pytest.raises(EpisodeError, match=message) as error:
        list(open_source(file))
    assert str(error.value).startswith(f"{file}") and len(str(error.value).splitlines()) == 1


def test_arrays_through_every_order_of_usual_filters_are_whole(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        values = stored["data/demo_1/obs/robot0_eef_pos"][()]
        for number, how in enumerate(
            ({}, {"shuffle": True}, {"fletcher32": True}, {"shuffle": True, "fletcher32": True})
        ):
            for pack in ({"compression": "gzip"}, {"compression": "lzf"}, {}):
                name = f"extra/{number}{len(pack)}{pack.get('compression')}"
                stored["data"].require_group("more").create_dataset(name, data=values, chunks=(3, 2), **how, **pack)
        made = []
        stored["data/more"].visititems(lambda _, item: made.append(item) if isinstance(item, h5py.Dataset) else None)
        assert len(made) == 12 and [odd_chunk(one) for one in made] == [None] * 12


@pytest.mark.parametrize("how", [{}, {"libver": "latest"}, {"userblock_size": 512}, {"fs_strategy": "page"}])
def test_what_lies_behind_the_end_of_a_file_is_not_passed_over(file: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    other = tmp_path / "other.hdf5"
    with h5py.File(file) as stored, h5py.File(other, "w", **how) as copy:
        for name in stored:
            stored.copy(name, copy)
    assert len(open_source(other)) == 2
    content = other.read_bytes()
    other.write_bytes(content + bytes(5000))  # of a tape's last block
    assert len(open_source(other)) == 2
    other.write_bytes(b"block".ljust(512) + content if not how else content)  # as h5jam puts one before it
    assert len(open_source(other)) == 2
    other.write_bytes(content + file.read_bytes())
    with pytest.raises(
        EpisodeError, match=r"other\.hdf5: [\d,]+ bytes behind its end, as of files that were put togeth"
    ):
        open_source(other)


def test_a_camera_that_one_demonstration_lacks_is_missed_before_pictures_are_read(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        del stored["data/demo_1/obs/agentview_image"]
    message = "episode demo_1: its cameras are robot0_eye_in_hand_image, the first episode's agentview_image, robot0"
    with pytest.raises(EpisodeError, match=message):
        open_source(file).without_images()


@pytest.mark.parametrize("pictures", [np.zeros((8, 4, 4, 4), np.uint8), np.zeros((8, 4, 4, 3), np.float32)])
def test_pictures_of_another_kind_are_found_before_they_are_read(file: Path, pictures: np.ndarray) -> None:
    with h5py.File(file, "r+") as stored:
        del stored["data/demo_1/obs/agentview_image"]
        stored["data/demo_1/obs/agentview_image"] = pictures
    with pytest.raises(EpisodeError, match=r"demo_1: obs/agentview_image is .*, not uint8\[T, h, w, 3\]; store"):
        open_source(file).without_images()


def test_a_total_is_compared_where_an_episode_does_not_say_its_length(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        del stored["data/demo_1"].attrs["num_samples"]
        open_source(file)
        stored["data"].attrs["total"] = 100_000
    with pytest.raises(EpisodeError, match="have 16 steps, the attribute 'total' of 'data' says 100000"):
        open_source(file)


def test_a_filter_that_names_a_missing_demonstration_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        stored["mask/train"] = [b"demo_0", b"demo_7"]
    with pytest.raises(EpisodeError, match=r"filter 'mask/train' names 'demo_7', which 'data' does not hold"):
        open_source(file, filter_key="train")
    with h5py.File(file, "r+") as stored:
        del stored["mask/train"]
        stored["mask/train"] = [b"demo_0  "]
    with pytest.raises(EpisodeError, match=r"names 'demo_0  ', which 'data' does not hold"):
        open_source(file, filter_key="train")


def test_a_filter_that_names_a_demonstration_twice_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        stored["mask/train"] = [b"demo_0", b"demo_0"]
    with pytest.raises(EpisodeError, match=r"filter 'mask/train' is empty, or names one twice"):
        open_source(file, filter_key="train")


def test_a_camera_that_is_named_and_not_there_is_refused(file: Path) -> None:
    with pytest.raises(
        EpisodeError, match=r"no observation 'agentview_imag', which image_keys names; there are .*agentview_image"
    ):
        open_source(file, image_keys={"agentview_imag": "image_primary"})


def test_links_inside_the_file_are_followed(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        stored.move("data/demo_1/actions", "kept")
        stored["data/demo_1/actions"] = h5py.SoftLink("/kept")
    assert len(open_source(file)[1].action) == 8


@pytest.mark.parametrize("meant", [False, True])
def test_words_for_success_mean_what_they_say(file: Path, meant: bool) -> None:
    for word in {False: ("False", b"False", "0", "no", 0, np.bool_(0)), True: ("True", b"1", "yes", 1.0)}[meant]:
        with h5py.File(file, "r+") as stored:
            stored["data/demo_0"].attrs["success"] = word
        assert open_source(file)[0].success is meant, word


@pytest.mark.parametrize(
    "change",
    [
        _attribute("data/demo_1", "operator", np.bytes_(b"J\xf6rg")),
        _attribute("data/demo_1", "env_args", [1, 2]),
        _attribute("data/demo_1/obs/robot0_eef_pos", "units", h5py.Empty("f")),
        _attribute("data/demo_1/obs/robot0_eef_pos", "_FillValue", 1e300),
        _attribute("data/demo_1/obs", "description", "bring green rings"),
        put("data/demo_1/obs/num_samples", 8),
        put("data/demo_1/obs/field_of_view", 45.0),
        _attribute("data/demo_1", "object_colors", "blue, green, red"),
        _attribute("data", "num_samples", 8),  # of each
        put("data/demo_1/valid", np.zeros(8, h5py.enum_dtype({"VALID": 0, "INVALID": 1}, "i1"))),
    ],
)  # fmt: skip
def test_what_says_nothing_of_a_demonstration_is_no_error(
    file: Path, change: Callable[[h5py.File], None], recwarn: pytest.WarningsRecorder
) -> None:
    with h5py.File(file, "r+") as stored:
        change(stored)
    assert len(list(open_source(file))) == 2 and not recwarn.list


@pytest.mark.parametrize(("number", "meant"), [(0, True), (1, False)])
def test_an_enumerated_success_means_what_its_name_says(file: Path, number: int, meant: bool) -> None:
    with h5py.File(file, "r+") as stored:
        kind = h5py.enum_dtype({"SUCCESS": 0, "FAILURE": 1}, "i1")
        stored["data/demo_0"].attrs.create("success", number, dtype=kind)
    assert open_source(file)[0].success is meant


def test_an_attribute_in_an_array_of_one_means_the_same(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        stored["data/demo_0"].attrs.update({"success": [False], "language_instruction": [b"go"], "other": [1.5]})
    episode = open_source(file)[0]
    assert (episode.success, episode.language_instruction) == (False, "go")
    assert "other" not in episode.metadata


def test_another_range_of_actions_can_be_stated(file: Path) -> None:
    with h5py.File(file, "r+") as stored:
        _cell(-127)(stored)
    for limit in (127, None):
        source = open_source(file, action_limit=limit)
        assert source[1].action[3, 6] == -127 and source.options["action_limit"] == limit
    assert "action_limit" not in open_source(file).options
    with h5py.File(file, "r+") as stored:
        _cell(1e30)(stored)
    with pytest.raises(EpisodeError, match="no robot's unit is that small"):
        list(open_source(file, action_limit=None))
    with pytest.raises(EpisodeError, match="action_limit is 'wide'"):
        open_source(file, action_limit="wide")


def test_options_with_a_typo_are_refused(file: Path) -> None:
    with pytest.raises(EpisodeError, match=r"robomimic_hdf5 has no option 'filter'; it has image_keys, .*filter_key"):
        open_source(file, filter="train")


def without_locks(*_: object) -> None:
    """As h5py on NFS without a lock daemon."""
    said = "Unable to synchronously open file (unable to lock file, errno = 37, error message = 'No locks available')"
    raise OSError(37, said)


def test_a_file_that_somebody_else_writes_or_that_may_not_be_read_is_not_called_damaged(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = file.with_name("left.hdf5")
    dying = "f = h5py.File(sys.argv[1], 'w', libver='latest'); f.create_group('data'); f.swmr_mode = True; os._exit(0)"
    subprocess.run([sys.executable, "-c", f"import os, sys, h5py; {dying}", left], check=True)
    with pytest.raises(
        EpisodeError, match=rf"{left}: another process has it open for writing, or had; .* h5clear -s {left}$"
    ):
        open_source(left)
    monkeypatch.setattr("h5py.File", without_locks)
    with pytest.raises(EpisodeError, match=rf"^{file}: its file system knows no locks; .*HDF5_USE_FILE_LOCKING=FALSE$"):
        open_source(file)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(EpisodeError, match=rf"^{file}: permission denied; ask for the right to read it$"):
        open_source(file)
    with pytest.raises(EpisodeError, match=rf"^{file}: permission denied"):
        attributes_of_data(file)


def test_text_on_which_the_hdf5_library_hangs_is_refused(file: Path) -> None:
    content = bytearray(file.read_bytes())
    heap = content.find(b"GCOL")
    place = heap + 16
    while content[place : place + 2] != b"\0\0":
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    content[place + 8 : place + 16] = bytes(8)  # free space of size 0
    file.write_bytes(content)
    with pytest.raises(EpisodeError, match=f"text is damaged at byte {heap}"):
        open_source(file)


@pytest.mark.parametrize("damaged", [False, True])
def test_holes_are_not_read_and_text_behind_them_is(file: Path, damaged: bool) -> None:
    place = 200 * 2**30
    with open(file, "r+b") as stream:
        stream.truncate(2 * place)
        if damaged:
            stream.seek(place)
            stream.write(b"GCOL\x01\0\0\0" + (8).to_bytes(8, "little"))
    if damaged:
        with pytest.raises(EpisodeError, match=f"text is damaged at byte {place}"):
            require_sound(file)
    else:
        require_sound(file)
        with pytest.raises(EpisodeError, match=r"has 429,496,729,600 bytes and stores .*, the rest are holes; get it"):
            open_source(file).identity()


@pytest.mark.parametrize(
    ("chunks", "packing"),
    [(None, None), ((4, 64, 64, 3), None), ((4, 64, 64, 3), "lzf")],  # LZF makes black pictures of zeros
)
def test_pictures_that_an_interrupted_copy_left_out_are_missed(
    chunks: Any, packing: str | None, tmp_path: Path
) -> None:
    films = [make_episode(i, steps=8, size=64, annotated=False) for i in range(2)]
    path = write_robomimic(tmp_path / "copied.hdf5", films)
    with h5py.File(path, "r+") as stored:
        del stored["data/demo_1/obs/agentview_image"]
        film = films[1].images["image_primary"] // 16
        stored["data/demo_1/obs"].create_dataset("agentview_image", data=film, chunks=chunks, compression=packing)
    with h5py.File(path) as stored:
        found = stored["data/demo_1/obs/agentview_image"]
        second = found.id.get_chunk_info(1) if chunks else None
        start = second.byte_offset if second else found.id.get_offset() + 3 * 64 * 64 * 3
        end = start + (second.size if second else 4 * 64 * 64 * 3)
    whole = path.read_bytes()
    assert len(open_source(path).without_images()) == 2
    blocks = range(-(-start // 4096) * 4096, end - 4095, 4096)
    with open(path, "wb") as stream:  # what lies in these is left out
        stream.write(whole[: blocks[0]])
        stream.seek(blocks[-1] + 4096)
        stream.write(whole[blocks[-1] + 4096 :])
    where = r"episode demo_1: parts of 'obs/agentview_image' were never written; the recording was cut off, get it"
    with pytest.raises(EpisodeError, match=where):
        open_source(path).look()


def test_a_disk_that_fails_is_not_called_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "d.hdf5").symlink_to("/proc/self/mem")  # its first bytes give the error of a broken disk
    with pytest.raises(EpisodeError, match=rf"^{tmp_path}/d.hdf5: its disk, or the network, failed; try again$"):
        open_source(tmp_path / "d.hdf5")


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_a_limit_of_open_files_is_not_called_a_damaged_file(kind: str, file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.zeros(3))

    def look() -> None:
        with opened(file) if kind == "hdf5" else contextlib.nullcontext():
            read_arrays(tmp_path / "d.npz", lambda _: True, EpisodeError)

    look()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(EpisodeError, match=r"too many files are open; raise the limit of .* \(ulimit -n\)$"):
            look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
