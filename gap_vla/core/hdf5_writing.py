"""HDF5 files that are written although a disk may be full: the library itself, told of it, may end the process."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import h5py


class _Patient(io.FileIO):
    """A file that takes everything; `failed` is the first error in writing it."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.failed is None:
            with self._keeping():
                left = left[super().write(left) :]
        return size

    def readinto(self, buffer: Any) -> int:
        """Zeros beyond what is there: h5py fills no more than it is told, and HDF5 takes the rest of its memory for
        numbers and addresses. Linux reads at most 2 GiB at once."""
        view = memoryview(buffer).cast("B")
        with self._keeping():
            while view and (found := super().readinto(view)):
                view = view[found:]
        view[:] = bytes(len(view))
        return len(memoryview(buffer).cast("B"))

    def truncate(self, size: int | None = None) -> int:
        with self._keeping():
            return super().truncate(size)
        return 0

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = self.failed or OSError(error.errno, error.strerror, self.name)


@contextlib.contextmanager
def writing_hdf5(path: Path, mode: Literal["w", "r+"]) -> Iterator[h5py.File]:
    """An HDF5 file, new ("w") or to be changed ("r+"), which no other process has open: it is not locked. Ctrl-C and
    all signals with a handler wait until it is closed, for HDF5 ends the process where one raises in its middle.

    Raises:
        OSError: it could not be written, as on a full disk; then it is no whole file.
    """
    import h5py

    with _later(), _Patient(str(path), {"w": "w+", "r+": "r+"}[mode]) as stream:
        try:
            with h5py.File(stream, mode) as file:
                yield file
        finally:
            if stream.failed is not None:
                raise stream.failed from None


@contextlib.contextmanager
def _later() -> Iterator[None]:
    """Signals for which there are handlers are answered at the end, each once."""
    main = threading.current_thread() is threading.main_thread()  # no other thread runs handlers
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if main else {}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    heard: list[int] = []
    for number in handlers:
        signal.signal(number, lambda which, _: heard.append(which))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for which in dict.fromkeys(heard):
            signal.raise_signal(which)
