"""Which demonstrations a file in robomimic's layout holds, and whether that is what it says of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import one_line
from gap_vla.demos import hdf5_members as members


def demonstrations(file: h5py.File, path: Path, filter_key: str | None, action_key: str) -> list[str]:
    """Names below `data` in natural order, of a filter (`mask/<name>`) or all.

    Raises:
        EpisodeError: no such group or filter, no demonstrations, two names of one, or fewer steps than the file says.
    """
    if not members.has(file, "data"):
        found = one_line(", ".join(members.names_in(file, f"{path}"))) or "nothing"
        raise EpisodeError(
            f"{path}: no group 'data' (found: {found}); this is not robomimic's layout: build-dataset reads "
            "others with --kind, or export it with robomimic's dataset_states_to_obs.py"
        )
    data = members.group_at(file, "data", f"{path}")
    names = members.names_in(data, f"{path}")
    if not names:
        raise EpisodeError(f"{path}: group 'data' holds no demonstrations; record some, or give another file")
    places: dict[int, str] = {}
    for name in names:
        demo = members.group_at(data, name, f"{path}, data")
        inner = [part for part in ("obs", action_key) if members.has(demo, part)]
        lying = {f"{name}/{part}": members.member(demo, part, f"{path}, episode {name}") for part in inner}
        for part, item in {name: demo, **lying}.items():
            place = h5py.h5o.get_info(item.id).addr
            if (other := places.setdefault(place, part)) != part:
                raise EpisodeError(f"{path}: data/{part} is data/{other} by another name; remove one of the links")
    _require_total(data, names, path, action_key)
    if filter_key is None:
        return sorted(names, key=_natural)
    if not members.has(file, f"mask/{filter_key}"):
        known = members.has(file, "mask") and ", ".join(map(str, members.group_at(file, "mask", f"{path}")))
        raise EpisodeError(
            f"{path}: no filter 'mask/{filter_key}' (filters: {one_line(known or 'none')}); name one "
            "of these, or leave filter_key out"
        )
    chosen = members.texts_at(file, f"mask/{filter_key}", f"{path}")
    if missing := sorted(set(chosen) - set(names)):
        raise EpisodeError(
            f"{path}: filter 'mask/{filter_key}' names {missing[0][:60]!r}, which 'data' does not "
            "hold; correct the filter"
        )
    if not chosen or len(set(chosen)) < len(chosen):
        raise EpisodeError(f"{path}: filter 'mask/{filter_key}' is empty, or names one twice; give another")
    return sorted(chosen, key=_natural)


def _require_total(data: h5py.Group, names: list[str], path: Path, action_key: str) -> None:
    """robomimic writes how many steps there are in all; fewer demonstrations than that are a damaged file."""
    total = members.attribute_of(data, "total")
    lengths: list[Any] = []
    for name in names if total is not None else ():
        demo, where = data[name], f"{path}, episode {name}"
        stated = members.attribute_of(demo, "num_samples")
        counts = stated is None and members.has(demo, action_key)
        lengths.append(members.length_at(demo, action_key, where) if counts else stated)
    counted = all(isinstance(length, (int, float)) for length in lengths)  # others are refused where they are read
    if lengths and counted and (held := sum(lengths)) != total:
        for name in names:
            where = f"{path}, episode {name}"
            steps = members.length_at(data[name], action_key, where)
            members.require_steps(data[name], steps, where)
        raise EpisodeError(
            f"{path}: the demonstrations have {held} steps, the attribute 'total' of 'data' says {total!r}; "
            "get the whole file, or correct the attribute if demonstrations were removed on purpose"
        )


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
