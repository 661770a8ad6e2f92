"""Demonstrations on disk, in robomimic's HDF5 layout, so that other tools read them as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.episode import PROPRIO_PER_ARM
from gap_vla.core.foreign import one_line, refusing
from gap_vla.core.hdf5_mark import is_changed, put_mark, read_mark, write_check
from gap_vla.core.hdf5_writing import writing_hdf5
from gap_vla.core.whole import put, replacing, workplace
from gap_vla.sim.demonstration import Demonstration

LAYOUT_VERSION = 2
"""Of what a demonstration holds. 2: `obs/object`, the objects' positions, which policies are never given."""

_GYM_TYPE = 2
"""robomimic's number for environments made by gymnasium."""

_AGAIN = "remove it: the same command plays its episode again"


def require_of(piece: Path, made: str) -> None:
    """Raises UserError if a finished attempt is damaged, or tells of other settings than those of this digest; if it
    failed, also if it tells of another attempt (with `assemble`, which compares seeds, for the others)."""
    with refusing(piece, _AGAIN):
        if piece.suffix == ".hdf5":
            said = "" if is_changed(piece) else read_mark(piece)
        else:
            said, _, attempt = piece.read_text().strip().partition(" ")  # earlier versions wrote none
            if attempt not in ("", piece.stem):
                raise ValueError(f"of another attempt, {one_line(attempt, 40)}")
            if piece.with_suffix(".hdf5").exists():
                raise ValueError(f"failed, but {piece.stem}.hdf5 beside it succeeded")
        if said != made:
            what = "of other settings (then give those that the collection was begun with, or choose another name)"
            raise ValueError(f"{what}, of an older gap_vla, or changed since it was played")


def write_demonstration(path: Path, demo: Demonstration, made: str) -> None:
    """Writes one demonstration as the group `demo` of its own file, under a temporary name first.

    `made` is its mark, the digest of its collection's settings; the file lasts until the collection is assembled.

    `obs/object` is float32[T, 3 * objects]: xyz (m, world) of each object and goal, in the order of its attribute
    `names`.
    """
    with replacing(path) as temporary:
        with writing_hdf5(temporary, "w") as file:
            group = file.create_group("demo")
            group.attrs["num_samples"] = len(demo)
            group.attrs["seed"] = demo.seed
            group.attrs["success"] = demo.success
            group["actions"] = demo.actions
            group["executed_actions"] = demo.executed_actions
            group["states"] = demo.states
            group["rewards"] = demo.rewards
            dones = np.zeros(len(demo), np.int64)
            dones[-1] = 1
            group["dones"] = dones
            group.create_dataset("phase", data=demo.phases, dtype=h5py.string_dtype())
            group["phase_switch"] = demo.switches
            for key, value in demo.observations.items():
                if key.startswith("image_"):
                    chunk = (min(16, len(value)), *value.shape[1:])
                    group.create_dataset(f"obs/{key}", data=value, chunks=chunk, compression="gzip", compression_opts=1)
            states = demo.observations["proprio"]
            for arm, block in enumerate(np.split(states, states.shape[1] // PROPRIO_PER_ARM, axis=1)):
                group[f"obs/robot{arm}_eef_pos"] = block[:, :3]
                group[f"obs/robot{arm}_eef_quat"] = block[:, [4, 5, 6, 3]]  # robomimic's are xyzw
                group[f"obs/robot{arm}_gripper_qpos"] = block[:, 7:]
            group["obs/object"] = np.concatenate(list(demo.objects.values()), axis=1)
            group["obs/object"].attrs["names"] = list(demo.objects)
            place = put_mark(file, made)
        write_check(temporary, place)


def assemble(
    parts: Mapping[Path, int],
    out: Path,
    *,
    env_name: str,
    settings: Mapping[str, Any],
    counts: Mapping[str, Any],
    shown: Callable[[Path], object] = lambda whole: None,
) -> None:
    """Puts single demonstrations into one file, `data/demo_0`, `data/demo_1`, …, in the given order; whole or absent.

    Args:
        parts: file of each to the seed that it must have been played from.
        env_name: gymnasium's name of the task; with the settings it becomes robomimic's `env_args`.
        settings: how the demonstrations were made; stored as attributes of `data`.
        counts: what happened on the way (`attempts`, `failures`).
        shown: is given the whole file before it takes its place.
    """
    with workplace(out) as new:  # what a killed one leaves of it, perhaps GB, the next one removes
        with writing_hdf5(new, "w") as file:
            data = file.create_group("data")
            total = 0
            for i, (part, seed) in enumerate(parts.items()):
                with refusing(part, _AGAIN), h5py.File(part, "r") as source:
                    if source["demo"].attrs["seed"] != seed:
                        raise ValueError("of another episode or collection")
                    source.copy("demo", data, name=f"demo_{i}")
                total += int(data[f"demo_{i}"].attrs["num_samples"])
            env_args = {"env_name": env_name, "type": _GYM_TYPE, "env_kwargs": settings["env_kwargs"]}
            data.attrs["env_args"] = json.dumps(env_args, sort_keys=True)
            data.attrs["total"] = total
            for key, value in {**settings, **counts}.items():
                if key != "env_kwargs":
                    data.attrs[key] = value
        shown(new)
        put(new, out)
