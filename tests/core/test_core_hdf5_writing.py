"""HDF5 files on a disk that is full, at every place at which it can be."""

import errno
import io
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from gap_vla.core.hdf5_writing import _Patient, writing_hdf5

FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from gap_vla.core.hdf5_writing import writing_hdf5

folder, mode = Path(sys.argv[1]), sys.argv[2]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
old = (folder / "old.hdf5").read_bytes()
for limit in range(0, 40_000, 500):  # of the bytes of a file
    path = folder / f"{limit}.hdf5"
    if mode == "r+":
        path.write_bytes(old)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with writing_hdf5(path, mode) as file:
            for number in range(6):
                file.create_dataset(f"group_{number}/rho", data=np.arange(1000, dtype=np.float32))
                if number == 3:
                    del file["group_0/rho"]
            file.attrs["note"] = "x" * 1000
        said = 0
    except OSError as error:
        assert error.filename == str(path), error
        said = error.errno
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(said, flush=True)
"""


@pytest.mark.parametrize("mode", ["w", "r+"])
def test_a_full_disk_is_an_error_wherever_it_ends_and_never_ends_the_process(tmp_path, mode):
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        file["group_9/actions"] = np.zeros(500)
    command = [sys.executable, "-c", FULL, str(tmp_path), mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    said = [int(word) for word in done.stdout.split()]
    whole = said.index(0)
    assert 30 < whole < len(said) == 80
    assert said == [errno.EFBIG] * whole + [0] * (80 - whole)
    with h5py.File(tmp_path / f"{500 * whole}.hdf5") as file:
        assert file["group_5/rho"][999] == 999 and len(file.attrs["note"]) == 1000
        assert mode == "w" or len(file["group_9/actions"]) == 500


def test_behind_the_end_of_a_file_that_does_not_grow_are_zeros_and_not_what_memory_held(tmp_path):
    with _Patient(tmp_path / "a", "w+") as stream:
        stream.write(b"there")
        stream.failed = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert stream.write(b"not there") == 9
        stream.seek(2)
        memory = bytearray(b"\xaa" * 8)
        assert stream.readinto(memory) == 8 and memory == b"ere" + bytes(5)


def test_what_the_system_gives_in_parts_is_read_whole(tmp_path):
    class Parts(io.FileIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:3])

    class InParts(_Patient, Parts):
        pass

    (tmp_path / "a").write_bytes(b"there it is")
    with InParts(tmp_path / "a", "r+") as stream:
        memory = bytearray(b"\xaa" * 16)
        assert stream.readinto(memory) == 16 and memory == b"there it is" + bytes(5)


def test_texts_on_a_full_disk_never_end_the_process(tmp_path):
    code = r"""if True:
        import resource, sys
        from pathlib import Path
        import h5py, numpy as np
        from gap_vla.core.hdf5_writing import writing_hdf5
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        left = [b"\xaa" * size for size in range(500, 9000, 7) for _ in range(8)]  # what is freed keeps its bytes
        del left
        try:
            with writing_hdf5(Path(sys.argv[1]), "w") as file:
                file["pictures"] = np.zeros((40, 1000), np.uint8)
                for number in range(20):
                    file.create_dataset(f"{number}", data=["reach"] * 132, dtype=h5py.string_dtype())
        except OSError as error:
            print(error.errno)
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.hdf5")], capture_output=True, text=True)
    assert done.stdout == f"{errno.EFBIG}\n", (done.returncode, done.stderr)


def test_what_the_caller_raises_comes_out_and_ctrl_c_waits_for_the_end(tmp_path):
    with pytest.raises(ZeroDivisionError), writing_hdf5(tmp_path / "a.hdf5", "w"):
        raise ZeroDivisionError
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), writing_hdf5(tmp_path / "b.hdf5", "w") as file:
        signal.raise_signal(signal.SIGINT)
        file["all"] = np.arange(3)
    assert signal.getsignal(signal.SIGINT) is handler
    with h5py.File(tmp_path / "b.hdf5") as file:
        assert file["all"][2] == 2


HANDLED = """
import signal, sys
from pathlib import Path
import h5py
import numpy as np
from gap_vla.core.hdf5_writing import writing_hdf5

def ends(number, frame):
    raise SystemExit

signal.signal(signal.SIGALRM, ends)
heard = 0
for number in range(60):
    signal.setitimer(signal.ITIMER_REAL, 0.0005 * (1 + number % 20))
    try:
        with writing_hdf5(Path(sys.argv[1]) / "a.hdf5", "w") as file:
            for name in range(30):
                file.create_dataset(f"group_{name}/rho", data=np.arange(200.0), compression="gzip")
    except SystemExit:
        heard += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
print(heard)
"""


def test_a_signal_that_raises_never_ends_the_process_while_a_file_is_written(tmp_path):
    command = [sys.executable, "-c", HANDLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert int(done.stdout) > 30
