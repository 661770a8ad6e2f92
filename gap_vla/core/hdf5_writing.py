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
    """An HDF5 file, new ("w") or to be changed ("r+"). Ctrl-C waits until it is closed.

    Raises:
        OSError: it could not be written, as on a full disk; then it is no whole file.
    """
    import h5py

    with _later(signal.SIGINT), _Patient(str(path), {"w": "w+", "r+": "r+"}[mode]) as stream:
        try:
            with h5py.File(stream, mode) as file:
                yield file
        finally:
            if stream.failed is not None:
                raise stream.failed from None


@contextlib.contextmanager
def _later(number: signal.Signals) -> Iterator[None]:
    """A signal for which there is a handler is answered at the end, once."""
    handler, heard = signal.getsignal(number), []
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, lambda *_: heard.append(True))
    try:
        yield
    finally:
        signal.signal(number, handler)
        if heard:
            signal.raise_signal(number)
