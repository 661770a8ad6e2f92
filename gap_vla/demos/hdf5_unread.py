"""What an HDF5 file in robomimic's layout holds and nobody reads, by name: what is there without what is read there.

Known is a name only in the place where it is read: a `total` at `data`, not one at a demonstration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

import h5py

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import parsed
from gap_vla.core.hdf5_mark import CHECK
from gap_vla.demos import hdf5_attributes as hdf5
from gap_vla.demos import hdf5_members as members
from gap_vla.demos.layout import UNITS

_NUMBERS = (*hdf5.PACKED, *hdf5.BOUNDS, *hdf5.SCALES)


def read_of_arrays(arms: int, cameras: Collection[str], action_key: str, metres: bool) -> dict[str, Collection[str]]:
    """The arrays of a demonstration of so many arms that are read, and which attributes are, of each; `metres` if that
    of the fingers' unit is."""
    read: dict[str, Collection[str]] = {action_key: _NUMBERS, "phase": hdf5.SCALES}
    for arm in range(arms):
        read[f"next_obs/robot{arm}_eef_pos"] = _NUMBERS
        read[f"obs/robot{arm}_eef_pos"] = (*_NUMBERS, *UNITS)
        read[f"obs/robot{arm}_eef_quat"] = (*_NUMBERS, *UNITS, "scalar_first")
        read[f"obs/robot{arm}_gripper_qpos"] = (*_NUMBERS, *(UNITS if metres else ()))
    return read | {f"obs/{camera}": (*hdf5.PACKED, *hdf5.SCALES) for camera in cameras}


def of_file(file: h5py.File, filter_key: str | None, where: str) -> set[str]:
    """Of the file itself, its `data`, and its filters, where one is taken."""
    found = {f"{key} of the file" for held in (file, file.attrs) for key in hdf5.names_in(held, where)}
    found -= {f"{key} of the file" for key in ("data", "made_by", CHECK)}
    data = members.group_at(file, "data", where)
    found |= {f"{key} of data" for key in hdf5.names_in(data.attrs, f"{where}, data") if key not in hdf5.OF_DATA}
    if filter_key is not None:
        masks = members.group_at(file, "mask", where)
        found -= {"mask of the file"}
        found |= {f"mask/{key} of the file" for key in hdf5.names_in(masks, where) if key != filter_key}
        for place, item in (("mask", masks), (f"mask/{filter_key}", members.member(masks, filter_key, where))):
            found |= {f"{key} of {place}" for key in hdf5.names_in(item.attrs, where) if key not in hdf5.SCALES}
    return found | _rest(data, "env_args")


def of_demonstration(
    demo: h5py.Group, read: Mapping[str, Collection[str]], kept: Collection[str], where: str
) -> set[str]:
    """Of one demonstration, its `obs` and `next_obs`: attributes that are neither `kept` nor read, members, and the
    attributes of members that are read or compared, links in the file included."""
    own = hdf5.names_in(demo.attrs, where)
    found = {f"attribute {key}" for key in own if key not in (*hdf5.OF_DEMO, *kept)}
    found |= set() if "ep_meta" in kept else _rest(demo, "ep_meta")
    for parent in ("", "obs/", "next_obs/"):
        group: Any = demo
        with contextlib.suppress(EpisodeError):  # a link that leads nowhere, or to another file
            group = members.member(demo, parent, where) if not parent or members.has(demo, parent[:-1]) else None
        for name in hdf5.names_in(group, where) if isinstance(group, h5py.Group) else ():
            if (path := parent + name) not in (*read, "obs") and parent != "next_obs/":  # which is named as a whole
                found.add(path)
            if path not in (*read, "obs", "next_obs") and not members.is_compared(path):
                continue  # with all that it says
            known = read.get(path, _NUMBERS if members.is_compared(path) else hdf5.SCALES)
            with contextlib.suppress(EpisodeError):
                held = hdf5.names_in(members.member(group, name, where).attrs, where)
                found |= {f"{key} of {path}" for key in held if key not in known}
    return found


def _rest(item: h5py.Group, name: str) -> set[str]:
    """That of an object of JSON more is said than the instruction; what is none is refused where it is read."""
    with contextlib.suppress(ValueError, TypeError, EpisodeError):
        said = parsed(hdf5.attribute_of(item, name) or "{}")
        return {f"the rest of {name}"} if isinstance(said, dict) and {*said} - {"lang"} else set()
    return set()
