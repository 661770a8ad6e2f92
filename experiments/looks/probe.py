"""What trained policies see and rely on: where a small policy's frozen visual features say that objects are, and what
it costs to show a policy another episode's pictures or proprioception.

Probes are asked about demonstrations that are collected for it, so that no policy was trained on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.looks.ridge import probe_positions
from gap_vla.core.identity import digest
from gap_vla.demos import open_source
from gap_vla.report.runs import Run
from gap_vla.rollouts.diagnose import open_loop
from gap_vla.rollouts.recordings import from_episode
from gap_vla.serving.loading import load_checkpoint

SEED = 7_000_000
"""Collection seed of demonstrations that are made for probing."""

PROBED, SHOWN = 40, 20
"""Episodes that probes are asked about; of these, so many are shown with another episode's senses."""

CARRYING = "transport"
"""The expert's phase in which an object is brought to where it belongs."""

STILL = 1e-3
"""Objects whose position varies by less (standard deviation, m) are nothing to probe for."""

AT_ONCE = 128


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Steps of several episodes, one after the other."""

    images: dict[str, np.ndarray]  # camera key to uint8[N, h, w, 3]
    positions: dict[str, Float[np.ndarray, "n 3"]]  # of each object, m, world
    waiting: Bool[np.ndarray, " n"]  # the object has not been carried yet (before `CARRYING`)
    episodes: Int[np.ndarray, " n"]  # number of each step's episode


def collect_probe_demos(run: Run) -> Path:
    """The expert's episodes for probing, seen as the run's policy sees them, in its data folder; made if not there."""
    from gap_vla.sim import collect_demos

    demos = run.config["demos"]
    seen = {"image_size": demos["image_size"], "cameras": list(demos["cameras"]), "camera": demos.get("camera", "near")}
    name = f"{run.task}-{digest({'task': run.task, 'episodes': PROBED, **seen})}"
    path = Path(run.config["data"]["root"]) / "probes" / f"{name}.hdf5"
    if not path.exists():
        print(f"collect: {PROBED} demonstrations of {run.task} to probe with → {path}", flush=True)
        collect_demos(run.task, PROBED, path, seed=SEED, workers=1, **seen)
    return path


def read_probe_data(path: Path) -> ProbeData:
    """Reads every second step of demonstrations that `collect_demos` wrote."""
    images: dict[str, list[np.ndarray]] = {}
    positions: dict[str, list[np.ndarray]] = {}
    waiting, numbers = [], []
    source = open_source(path)
    with h5py.File(path) as file:
        for number in range(len(source)):
            episode, objects = source.read(number), file[f"data/demo_{number}/obs/object"]
            steps = np.arange(0, len(episode), 2)
            for place, name in enumerate(objects.attrs["names"]):
                positions.setdefault(str(name), []).append(objects[:, 3 * place : 3 * place + 3][steps])
            for key, pictures in episode.images.items():
                images.setdefault(key, []).append(pictures[steps])
            carried = np.flatnonzero(np.asarray(episode.phase) == CARRYING)
            waiting.append(steps < (carried[0] if len(carried) else 0))
            numbers.append(np.full(len(steps), number))

    def joined(parts: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
        return {key: np.concatenate(rows) for key, rows in parts.items()}

    return ProbeData(joined(images), joined(positions), np.concatenate(waiting), np.concatenate(numbers))


def features_of(policy: Any, images: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n d"]:
    """Visual features of single frames by a `SmallPolicy`, from uint8[N, h, w, 3] for each `image_<camera>`."""
    import torch

    keys = [f"image_{camera}" for camera in policy.cameras]
    found = []
    with torch.inference_mode():
        for start in range(0, len(images[keys[0]]), AT_ONCE):
            shown = {key: torch.from_numpy(images[key][start : start + AT_ONCE])[:, None] for key in keys}
            found.append(policy.features(shown)[:, 0].float().numpy())
    return np.concatenate(found)


def probe(features: Float[np.ndarray, "n d"], data: ProbeData) -> dict[str, Any]:
    """Object to `probe_positions` before it is transported, for objects that move between episodes."""
    rows = data.waiting
    found: dict[str, Any] = {}
    for name, where in data.positions.items():
        if rows.any() and where[rows].std(0, dtype=np.float64).max() > STILL:
            found[name] = probe_positions(features[rows], where[rows], data.episodes[rows])
    return found


def reliance(run: Run, demos: Path) -> dict[str, float | None]:
    """How often the undisturbed error a policy's is when its pictures (`images_swapped`) or its proprioception
    (`proprio_swapped`) come from another episode: what `gap-vla diagnose --demos` measures."""
    source = open_source(demos)
    recordings = [from_episode(source.read(number)) for number in range(min(SHOWN, len(source)))]
    found = open_loop(load_checkpoint(run.path, execute=1).policy, recordings)
    return {e.intervention: e.cost for e in found.effects if e.intervention.endswith("_swapped")}
