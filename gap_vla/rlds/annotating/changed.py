"""Says of what is read whether it is as our commands wrote it."""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.episode import EpisodeError
from gap_vla.core.hdf5_mark import is_changed, read_mark
from gap_vla.rlds.account import unlike_written
from gap_vla.rlds.statistics import STATISTICS

_ADVICE = "where its states were, annotate again"


def tell_changed(path: Path) -> None:
    """A note, if a folder or an HDF5 file of ours, known to be sound, is not as it was written. Reads all of it."""
    if path.is_file():
        if read_mark(path, sound=True) == "gap_vla:labelled_demos" and is_changed(path):
            print(f"note: {path} was changed after it was annotated; {_ADVICE}", flush=True)
        return
    try:
        found = unlike_written(path)
    except EpisodeError as problem:  # of the mark, which nothing is read from here
        print(f"note: {problem}", flush=True)
        return
    for name, how in found.items():
        if name != STATISTICS:
            print(f"note: {path / name} {how}; {_ADVICE}", flush=True)
            return
