"""Demonstrations on disk, in robomimic's HDF5 layout, so that other tools read them as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.columns import DELTA, POSE
from gap_vla.core.files import replacing
from gap_vla.sim.demonstration import Demonstration

LAYOUT_VERSION = 2
"""Of what a demonstration holds. 2: `obs/object`, the objects' positions, which policies are never given."""

_GYM_TYPE = 2
"""robomimic's number for environments made by gymnasium."""


def write_demonstration(path: Path, demo: Demonstration) -> None:
    """Writes one demonstration as the group `demo` of its own file.

    `obs/object` is float32[T, 3 * objects]: xyz (m, world) of each object and goal, in the order of its attribute
    `names`.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
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
        for arm, block in enumerate(np.split(states, states.shape[1] // POSE.width, axis=1)):
            group[f"obs/robot{arm}_eef_pos"] = block[:, :3]
            group[f"obs/robot{arm}_eef_quat"] = block[:, [4, 5, 6, 3]]  # robomimic's are xyzw
            group[f"obs/robot{arm}_gripper_qpos"] = block[:, 7:]
        group["obs/object"] = np.concatenate(list(demo.objects.values()), axis=1)
        group["obs/object"].attrs["names"] = list(demo.objects)


def assemble(
    parts: Sequence[Path],
    out: Path,
    *,
    env_name: str,
    arms: int,
    settings: Mapping[str, Any],
    counts: Mapping[str, Any],
) -> None:
    """Puts single demonstrations into one file, `data/demo_0`, `data/demo_1`, …, in the given order; whole or absent.

    Args:
        env_name: gymnasium's name of the task; with the settings it becomes robomimic's `env_args`.
        arms: how many the state and the action describe (`POSE`, `DELTA`).
        settings: how the demonstrations were made; stored as attributes of `data`.
        counts: what happened on the way (`attempts`, `failures`).
    """
    with replacing(out) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        total = 0
        for i, part in enumerate(parts):
            with h5py.File(part, "r") as source:
                source.copy("demo", data, name=f"demo_{i}")
            total += int(data[f"demo_{i}"].attrs["num_samples"])
        env_args = {"env_name": env_name, "type": _GYM_TYPE, "env_kwargs": settings["env_kwargs"]}
        data.attrs["env_args"] = json.dumps(env_args, sort_keys=True)
        data.attrs["total"] = total
        described = {"columns": str(POSE.times(arms)), "action_columns": str(DELTA.times(arms))}
        for key, value in {**settings, **counts, **described}.items():
            if key != "env_kwargs":
                data.attrs[key] = value
