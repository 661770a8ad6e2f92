"""Demonstrations to probe with: pictures, where the objects are, and which steps are transitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from gap_vla.evaluation.recordings import near_switches
from gap_vla.identity import digest
from gap_vla.probing.linear_probe import ProbeError

PROBE_SEED = 7_000_000
"""Collection seed of demonstrations that are made for probing: episodes that no policy was trained on."""


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Steps of several episodes, one after the other.

    Attributes:
        images: camera key to uint8[N, h, w, 3].
        positions: object to float32[N, 3], m, world.
        transition: whether the step is within three of one where the expert's phase changes.
        free: whether nothing has been gripped yet, so that only the pictures tell where the objects are.
        episodes: number of each step's episode.
    """

    images: dict[str, np.ndarray]
    positions: dict[str, Float[np.ndarray, "n 3"]]
    transition: Bool[np.ndarray, " n"]
    free: Bool[np.ndarray, " n"]
    episodes: Int[np.ndarray, " n"]


def collect_probe_demos(
    task: str, episodes: int, root: Path, *, image_size: int, cameras: Sequence[str], workers: int = 1
) -> Path:
    """The expert's episodes for probing, made if they are not there."""
    settings = {"task": task, "episodes": episodes, "image_size": image_size, "cameras": list(cameras)}
    path = root / "probes" / f"{task}-{digest(settings)}" / "demos.hdf5"
    if not path.exists():
        from gap_vla.sim import collect_demos

        print(f"collect: {episodes} demonstrations of {task} to probe with → {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        collect_demos(task, episodes, path, seed=PROBE_SEED, image_size=image_size, cameras=cameras, workers=workers)
    return path


def read_probe_data(path: Path, *, every: int = 2) -> ProbeData:
    """Reads every `every`-th step of a demonstration file of `gap_vla.sim.collect_demos`.

    Raises:
        ProbeError: the file does not say where the objects are.
    """
    import h5py

    images: dict[str, list[np.ndarray]] = {}
    positions: dict[str, list[np.ndarray]] = {}
    transition, free, numbers = [], [], []
    with h5py.File(path, "r") as file:
        for number, name in enumerate(sorted(file["data"], key=lambda key: int(key.rsplit("_", 1)[1]))):
            demo = file["data"][name]
            if "obs/object" not in demo:
                raise ProbeError(
                    f"{path}, {name}: no obs/object, so where the objects are is not known; collect the "
                    "demonstrations again with scripts/collect_demos.py"
                )
            steps = np.arange(0, len(demo["actions"]), every)
            for key in demo["obs"]:
                if key.startswith("image_"):
                    images.setdefault(key, []).append(demo["obs"][key][:][steps])
            stored = demo["obs/object"]
            for place, label in enumerate(stored.attrs["names"]):
                positions.setdefault(str(label), []).append(stored[:, 3 * place : 3 * place + 3][steps])
            transition.append(near_switches(list(demo["phase"][:]))[steps])
            free.append((np.cumsum((demo["actions"][:, 6::7] > 0).any(1)) == 0)[steps])
            numbers.append(np.full(len(steps), number))
    return ProbeData(
        images={key: np.concatenate(parts) for key, parts in images.items()},
        positions={key: np.concatenate(parts) for key, parts in positions.items()},
        transition=np.concatenate(transition),
        free=np.concatenate(free),
        episodes=np.concatenate(numbers),
    )
