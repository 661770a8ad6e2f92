"""An HDF5 file that somebody else wrote: opening it, and numbers, text and attributes out of it.

HDF5 lets a file name other files (external links, virtual and external data sets) and mark bytes as pointers of this
process (opaque data tagged `NUMPY:O`, which h5py would follow). Neither is read here.
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import one_line, parsed, real_path, refuse_too_large, refusing, regular
from gap_vla.core.hdf5_heap import damaged_heap
from gap_vla.core.identity import flat
from gap_vla.demos import beside, fields
from gap_vla.demos import hdf5_attributes as hdf5
from gap_vla.demos.hdf5_storage import behind_end, is_cut_off, odd_chunk

_MOST_LINKS = 16
_PER_STEP = (*beside.PER_STEP, "states", "executed_actions", "phase", "phase_switch")
"""Arrays of one row per step beside the observations; `states` may have one more, that behind the last action."""

_OF_ENDS = (*beside.ENDS, *beside.FLAGS, "episode_index")


@contextlib.contextmanager
def opened(path: Path, place: str = "") -> Iterator[h5py.File]:
    """The file for reading; what goes wrong with it inside becomes an EpisodeError that names file and place."""
    with refusing(
        f"{path}: not a complete HDF5 file", "the copy or the recording was cut off, get it again", EpisodeError
    ):
        try:
            file = h5py.File(regular(path, EpisodeError), "r")
        except FileNotFoundError:
            raise EpisodeError(f"{path}: no such file") from None
        except OSError as error:
            if "unable to lock" in str(error) and f"errno = {errno.EAGAIN}" not in str(error):
                advice = "copy the file to another one, or set HDF5_USE_FILE_LOCKING=FALSE"
                raise EpisodeError(f"{path}: its file system knows no locks; {advice}") from error
            if not any(text in str(error) for text in ("already open", "unable to lock")):
                raise
            advice = f"wait until it is closed, or, if it ended without that, run: h5clear -s {path}"
            raise EpisodeError(f"{path}: another process has it open for writing, or had; {advice}") from error
    with file, refusing(f"{path}{place}: cannot be read", "copy the file again", EpisodeError):
        try:
            yield file
        except OSError as error:
            if "plugin" not in str(error):
                raise
            advice = "where it was made, run: h5repack -f GZIP=4 IN OUT"
            raise EpisodeError(f"{path}{place}: this HDF5 library lacks its compression; {advice}") from error


def _is_hdf5(path: Path) -> bool:
    """h5py takes `link/..` out of a path as text; what it leads to is looked at here."""
    return bool(h5py.is_hdf5(real_path(regular(path, EpisodeError))))


def require_sound(path: Path) -> None:
    """Raises EpisodeError for a file on which the HDF5 library would hang. Reads all of it."""
    if not path.exists():
        raise EpisodeError(f"{path}: no such file")
    with refusing(f"{path}: not a complete HDF5 file", "get the file again", EpisodeError):
        if not _is_hdf5(path):
            raise EpisodeError(f"{path}: not a complete HDF5 file; get the file again")
        if (heap := damaged_heap(path)) is not None:
            raise EpisodeError(f"{path}: its text is damaged at byte {heap}; get the file again")
        if (more := behind_end(path)) > 0:
            why = "as of files that were put together, or of one that was killed while it was written"
            raise EpisodeError(f"{path}: {more:,} bytes behind its end, {why}; get the file again")


def attributes_of_data(path: Path) -> dict[str, Any]:
    """What a file in robomimic's layout says of itself (`task`, `env_args`, …); nothing for other files."""
    if not path.is_file() or not _is_hdf5(path):
        return {}
    require_sound(path)
    with opened(path) as file:
        data = member(file, "data", f"{path}") if has(file, "data") else None
        return hdf5.attributes_of(data, hdf5.OF_DATA) if isinstance(data, h5py.Group) else {}


def simulator_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What robomimic's attribute `env_args` says; empty if it is no object of JSON."""
    with contextlib.suppress(ValueError, TypeError):
        found = parsed(attributes.get("env_args") or "{}")
        return found if isinstance(found, dict) else {}
    return {}


def view_of(attributes: Mapping[str, Any]) -> str | None:
    """The primary camera's view in a file of `collect_demos`, of these attributes; None in others."""
    view = dict(flat(simulator_of(attributes))).get("env_kwargs.camera")
    return view if isinstance(view, str) else None


def has(group: h5py.Group, path: str) -> bool:
    """Whether something lies at a path, be it a link that leads nowhere."""
    *parents, name = parts = path.split("/")
    if not all(parts):
        return False
    for parent in parents:
        if not isinstance(group, h5py.Group) or not group.id.links.exists(parent.encode()):
            return False
        group = member(group, parent, "")
    return isinstance(group, h5py.Group) and bool(group.id.links.exists(name.encode()))


def member(group: h5py.Group, path: str, where: str, *, links: int = 0) -> Any:
    """The group or data set at a path. Raises EpisodeError: nothing is there, or a link to another file."""
    here: Any = group
    for part in [p for p in path.split("/") if p]:
        if not isinstance(here, h5py.Group):
            name = here.name.rpartition("/")[2]
            raise EpisodeError(f"{where}: {name!r} is a data set, not a group that holds {part!r}; write it again")
        if not here.id.links.exists(part.encode()):
            found = one_line(", ".join(hdf5.names_in(here, where))) or "nothing"
            raise EpisodeError(
                f"{where}: no {path!r} (found: {found}); export the file with it, for pictures and poses with "
                "robomimic's dataset_states_to_obs.py"
            )
        kind = here.id.links.get_info(part.encode()).type
        if kind == h5py.h5l.TYPE_SOFT and links < _MOST_LINKS:
            target = here.id.links.get_val(part.encode()).decode()
            here = member(here.file if target.startswith("/") else here, target, where, links=links + 1)
        elif kind != h5py.h5l.TYPE_HARD:
            raise EpisodeError(
                f"{where}: {part!r} is a link to another file or in a circle; only what lies in the file itself is "
                "read: copy it in (h5repack, or h5py's copy with expand_external)"
            )
        else:
            here = here[part]
    return here


def group_at(group: h5py.Group, path: str, where: str) -> h5py.Group:
    """The group at a path. Raises EpisodeError: there is none, or it is a data set."""
    found = member(group, path, where)
    if not isinstance(found, h5py.Group):
        raise EpisodeError(f"{where}: {path!r} is a data set, not a group; remove it or write the file again")
    return found


def numbers_at(group: h5py.Group, path: str, where: str) -> np.ndarray:
    """The numbers at a path, with at least one axis. Raises EpisodeError: there are none, or fewer than declared."""
    found = _dataset(group, path, where)
    if found.id.get_type().get_class() not in hdf5.NUMBERS:
        kind = f"{found.dtype.base}{[*found.dtype.shape]}" if found.dtype.shape else "no numbers"
        raise EpisodeError(f"{where}: {path!r} holds {kind}; write one row of numbers per step")
    require_whole_chunks(found, f"{where}: {path!r}")
    values = found[()]
    values = values.view(np.uint8) != 0 if values.dtype == bool else values
    hdf5.require_as_declared(found, values, f"{where}: {path!r}")
    hdf5.require_written(found, values, f"{where}: {path!r}")
    return values


def texts_at(group: h5py.Group, path: str, where: str) -> list[str]:
    """The list of text at a path. Raises EpisodeError: it is none."""
    found = _dataset(group, path, where)
    if found.id.get_type().get_class() != h5py.h5t.STRING or found.ndim != 1:
        raise EpisodeError(f"{where}: {path!r} is no list of text; write one name per step, or per episode of a mask")
    require_whole_chunks(found, f"{where}: {path!r}")
    with refusing(f"{where}: {path!r}", "write it again as UTF-8", EpisodeError):
        return [fields.decoded(value) for value in found[()]]


def length_at(group: h5py.Group, path: str, where: str) -> int:
    """Steps of the numbers at a path, without reading them."""
    return len(_dataset(group, path, where))


def form_at(group: h5py.Group, path: str, where: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the numbers at a path, without reading them."""
    found = _dataset(group, path, where)
    return found.shape, found.dtype


def lengths_in(group: h5py.Group, where: str, *inner: str) -> dict[str, int]:
    """Rows of the arrays in a group, and in those groups of it that are named, by path. No link is followed, and one to
    another file is an EpisodeError."""
    found: dict[str, int] = {}
    for name in hdf5.names_in(group, where):
        kind = group.id.links.get_info(name.encode()).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            member(group, name, where)  # says so
        if kind == h5py.h5l.TYPE_HARD:
            item = group[name]
            if isinstance(item, h5py.Dataset):
                _require_inside(item, name, where)
            whole = bool(inner) or (isinstance(item, h5py.Dataset) and item.shape is not None)
            if isinstance(item, h5py.Dataset) and (item.shape or not whole):  # one number is of no step
                found[name] = len(item) if item.shape else 0
            elif isinstance(item, h5py.Group) and name in inner:
                found |= {f"{name}/{key}": rows for key, rows in lengths_in(item, where).items()}
    return found


def _require_inside(found: h5py.Dataset, path: str, where: str) -> None:
    if found.is_virtual or found.external:
        what = f"{where}: {path!r} is virtual or lies in other files"
        raise EpisodeError(f"{what}; copy it into this one (h5repack -l CONTI IN OUT)")


def _dataset(group: h5py.Group, path: str, where: str) -> h5py.Dataset:
    found = member(group, path, where)
    if not isinstance(found, h5py.Dataset):
        raise EpisodeError(f"{where}: {path!r} is a group, not an array; write one row per step")
    if found.shape is None or found.ndim == 0:
        raise EpisodeError(f"{where}: {path!r} is no array; write one row per step")
    _require_inside(found, path, where)
    refuse_too_large(
        f"{where}: {path!r}", found.size * found.id.get_type().get_size(), found.id.get_storage_size(), EpisodeError
    )
    pieces = math.prod(-(-steps // piece) for steps, piece in zip(found.shape, found.chunks or ()))
    stored = found.id.get_num_chunks() if found.chunks else found.id.get_storage_size()
    if found.size and (stored < pieces or (found.ndim == 4 and is_cut_off(found))):
        made = (
            " (or the file was made sparse where pictures are black: cp --sparse=never A B)" if found.ndim == 4 else ""
        )
        raise EpisodeError(
            f"{where}: parts of {path!r} were never written; the recording was cut off, get it again{made}"
        )
    return found


def require_whole_chunks(found: h5py.Dataset, where: str) -> None:
    """Raises EpisodeError: a chunk of it holds less, or more, than it is to hold."""
    if (odd := odd_chunk(found)) is not None:
        raise EpisodeError(
            f"{where}: the chunk from {odd} on holds less than a chunk, or more; the recording was cut off there"
        )


def require_steps(demo: h5py.Group, steps: int, where: str) -> None:
    """Raises EpisodeError: the demonstration says that it has other steps than its actions."""
    for name in beside.COUNTS:
        for path in [path for path in (name, f"obs/{name}") if has(demo, path)]:
            one = None
            with contextlib.suppress(EpisodeError):  # a link that leads nowhere
                one = member(demo, path, where)
            if isinstance(one, h5py.Dataset) and one.shape == () and not h5py.check_enum_dtype(one.dtype):
                _require_inside(one, path, where)
                beside.require_rows(path, np.asarray(one[()]), steps, where)
        if name != "num_samples" and not hdf5.is_single(demo, name):
            continue
        stated = hdf5.attribute_of(demo, name)
        if stated not in (None, steps) and (name == "num_samples" or beside.counts_others(name, stated, steps)):
            raise EpisodeError(
                f"{where}: {steps} actions, the attribute {name!r} says {stated!r}; get the file again, or drop the "
                "episode"
            )


def is_compared(key: str) -> bool:
    """Whether an array of a demonstration is looked at because of its name, `obs/timestamp` or `dones`."""
    name = key.rpartition("/")[2].lower()
    told = (beside.tells(key) and name not in beside.PER_STEP) or name in beside.TIMES
    return (name in _OF_ENDS or told) and not key.startswith("next_obs/")


def require_consistent(demo: h5py.Group, steps: int, where: str) -> None:
    """Raises EpisodeError: against its actions, a demonstration says another number of steps, an array has other steps,
    used or not, times fall, or a flag of a recording's ends is true elsewhere."""
    require_steps(demo, steps, where)
    for key, rows in lengths_in(demo, where, "obs", "next_obs").items():
        name = key.rpartition("/")[2].lower()
        most = steps + 1 if key == "states" else steps
        if (name in _PER_STEP or "/" in key) and not steps <= rows <= most:
            raise EpisodeError(
                f"{where}: {key} has {rows} steps, the actions {steps}; cut them to the same steps or drop the episode"
            )
        if steps and rows and is_compared(key):
            kind = form_at(demo, key, where)[1]
            if name in _OF_ENDS or (kind.kind in "biuf" and not h5py.check_enum_dtype(kind)):  # names of numbers
                lasting = name not in ("done", "dones")  # robomimic's are true where it has succeeded for now
                beside.require_rows(key, numbers_at(demo, key, where), steps, where, lasting=lasting)
