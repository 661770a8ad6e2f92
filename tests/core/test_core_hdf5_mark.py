"""What somebody put into an HDF5 file of ours stays."""

import h5py
import numpy as np
import pytest

from gap_vla.core.outputs import OutputError, writing


def write(path, first=0, **options):
    with writing(path, "labelled_demos", **options) as temporary, h5py.File(temporary, "w") as file:
        file["data/demo_0/rho"] = np.arange(first, first + 9, dtype=np.float32)
        file["data"].attrs["annotator"] = "{}"
    return path


def _one_label(path):
    with h5py.File(path, "r+") as file:
        file["data/demo_0/rho"][3] = 0.5


def _a_demonstration(path):
    with h5py.File(path, "r+") as file:
        file["data/demo_1/rho"] = np.zeros(3)


def _an_attribute(path):
    with h5py.File(path, "r+") as file:
        file["data"].attrs["annotator"] = "me"


def _its_checksum(path):
    with h5py.File(path, "r+") as file:
        del file["made_by_check"]
        file["made_by_check"] = "a text"


def _no_checksum(path):
    with h5py.File(path, "r+") as file:
        del file["made_by_check"]


def _a_group_for_it(path):
    with h5py.File(path, "r+") as file:
        del file["made_by_check"]
        file.create_group("made_by_check")


def _one_byte(path):
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(5).tobytes())] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [_one_label, _a_demonstration, _an_attribute, _its_checksum, _no_checksum, _a_group_for_it, _one_byte],
)
def test_a_changed_file_is_not_replaced(change, tmp_path):
    path = write(tmp_path / "a.hdf5")
    change(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"a\.hdf5 was changed since it was written; name another place, or move"):
        write(path, overwrite=True)
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


def _in_latin(file):
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(h5py.h5t.VARIABLE)
    mark = h5py.h5a.create(file.id, b"made_by", kind, h5py.h5s.create(h5py.h5s.SCALAR))
    mark.write(np.array("Jürgen".encode("latin1"), h5py.string_dtype("ascii")))


def _a_time(file):
    h5py.h5a.create(file.id, b"made_by", h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))


@pytest.mark.parametrize("mark", [_in_latin, _a_time])
def test_a_file_with_an_attribute_of_others_by_that_name_is_not_ours(mark, tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        mark(file)
    with pytest.raises(OutputError, match=r"a\.hdf5 exists without a mark of gap_vla"):
        write(tmp_path / "a.hdf5")


def test_one_that_was_only_read_or_copied_is(tmp_path):
    path = write(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        assert file["data/demo_0/rho"][3] == 3
    copy = tmp_path / "b.hdf5"
    copy.write_bytes(path.read_bytes())
    for place in (path, copy):
        with h5py.File(write(place, 1)) as file:
            assert file["data/demo_0/rho"][3] == 4


def test_a_marked_copy_of_a_marked_file_is_whole(tmp_path):
    first = write(tmp_path / "a.hdf5")
    with writing(tmp_path / "b.hdf5", "labelled_demos") as temporary:
        temporary.write_bytes(first.read_bytes())
    write(tmp_path / "b.hdf5", 1)
