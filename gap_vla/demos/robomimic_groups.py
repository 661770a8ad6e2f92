"""What a file in robomimic's layout holds: its demonstrations, how many arms they have, what they are told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import one_line, parsed, refusing
from gap_vla.demos import hdf5_attributes as hdf5
from gap_vla.demos import hdf5_members as members
from gap_vla.demos.beside import COUNTS_OF_ALL, counts_others
from gap_vla.demos.fields import is_blank

_ARM = re.compile(r"robot(\d{1,3})_eef_(?:pos|quat)")


def own_language(demo: h5py.Group) -> Any:
    """What a demonstration is told, by its own attribute, or, as robosuite 1.5 writes, by `lang` in its `ep_meta`."""
    own = hdf5.attribute_of(demo, "language_instruction")
    where = f"{demo.file.filename}, episode {demo.name.rpartition('/')[2]}: the attribute 'ep_meta'"
    with refusing(f"{where} is no JSON", "write it again", EpisodeError):
        meta = parsed(hdf5.attribute_of(demo, "ep_meta") or "{}")
    if not isinstance(meta, dict | None):
        raise EpisodeError(f"{where} is no object of JSON; write it again")
    told = (meta or {}).get("lang")
    if own is None or is_blank(own):
        return told if told is not None else own
    require_one_instruction(own, told, where)
    return own


def require_one_instruction(own: Any, told: Any, where: str) -> None:
    """Raises EpisodeError: the attribute `language_instruction` says other words than `lang` beside it does."""
    if isinstance(told, str) and isinstance(own, str) and not is_blank(told) and not is_blank(own):
        one, other = (re.sub(r"[\W_]+", " ", text.lower()).strip() for text in (own, told))
        if one != other:
            said = f"{one_line(told, 60)!r}, the attribute 'language_instruction' {one_line(own, 60)!r}"
            raise EpisodeError(f"{where} says lang {said}; correct one")


def arms_of(demo: h5py.Group, where: str) -> int:
    """How many arms a demonstration has."""
    return arms_named(hdf5.names_in(members.group_at(demo, "obs", where), where))


def arms_named(observations: Iterable[str]) -> int:
    """How many arms there are by the names of the observations; at least one."""
    return 1 + max((int(found[1]) for found in map(_ARM.fullmatch, observations) if found), default=0)


def demonstrations(file: h5py.File, path: Path, filter_key: str | None, action_key: str, *arrays: str) -> list[str]:
    """Names below `data` in natural order, of a filter (`mask/<name>`) or all. No two have the same `obs`, actions or
    one of the `arrays`.

    Raises EpisodeError: no such group or filter, no demonstrations, two names of one, or fewer steps than the file
    says.
    """
    if not members.has(file, "data"):
        found = one_line(", ".join(hdf5.names_in(file, f"{path}"))) or "nothing"
        raise EpisodeError(
            f"{path}: no group 'data' (found: {found}); this is not robomimic's layout: build-dataset reads "
            "others with --kind, or export it with robomimic's dataset_states_to_obs.py"
        )
    data = members.group_at(file, "data", f"{path}")
    names = hdf5.names_in(data, f"{path}")
    if not names:
        raise EpisodeError(f"{path}: group 'data' holds no demonstrations; record some, or give another file")
    places: dict[int, str] = {}
    for name in names:
        demo = members.group_at(data, name, f"{path}, data")
        held, where = {name: demo}, f"{path}, episode {name}"
        for part in ("obs", action_key, *arrays):  # what lies in `obs` after `obs` itself
            if members.has(demo, part):
                held[f"{name}/{part}"] = members.member(demo, part, where)
        for part, item in held.items():
            place = h5py.h5o.get_info(item.id).addr
            if (other := places.setdefault(place, part)) != part:
                raise EpisodeError(f"{path}: data/{part} is data/{other} by another name; remove one of the links")
    for count in COUNTS_OF_ALL:
        if (said := hdf5.attribute_of(data, count)) not in (None, len(names)):
            raise EpisodeError(f"{path}: {len(names)} demonstrations, {count!r} of 'data' says {said!r}; get all of it")
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
    counted = {name: f"{path}, episode {name}" for name in names if members.has(data[name], action_key)}
    lengths = {name: members.length_at(data[name], action_key, where) for name, where in counted.items()}
    held = sum(lengths.values())
    said = {"total": hdf5.attribute_of(data, "total")}
    said |= {name: hdf5.attribute_of(data, name) for name in ("num_samples",) if hdf5.is_single(data, name)}
    odd = [name for name, count in said.items() if count not in (None, held)]
    # a count that is none of all may be each one's, or no whole number
    odd = [name for name in odd if name == "total" or any(counts_others(name, said[name], n) for n in lengths.values())]
    if not odd or len(lengths) < len(names):  # one without actions is refused where it is read
        return
    for name, steps in lengths.items():
        members.require_steps(data[name], steps, counted[name])
    raise EpisodeError(
        f"{path}: the demonstrations have {held} steps, the attribute {odd[0]!r} of 'data' says {said[odd[0]]!r}; "
        "get the whole file, or correct the attribute if demonstrations were removed on purpose"
    )


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
