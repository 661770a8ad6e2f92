"""Demonstrations to probe with: pictures, where the objects are, and which steps are near a switch of phase."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.looks.linear_probe import ProbeError
from gap_vla.core.foreign import regular
from gap_vla.core.hdf5_mark import is_changed, read_mark, write_mark
from gap_vla.core.identity import digest
from gap_vla.report.runs import Run
from gap_vla.rollouts.recordings import near_switches
from gap_vla.sim.specs import task_spec

PROBE_SEED = 7_000_000
"""Collection seed of demonstrations that are made for probing: episodes that no policy was trained on."""

FIRST_LAYOUT = 2
"""Of demonstrations that say where the objects are."""

CARRYING = "transport"
"""The expert's phase in which an object is brought to where it belongs."""

BACK = 4
"""Steps over which the change of proprioception is taken."""


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Steps of several episodes, one after the other.

    Attributes:
        images: camera key to uint8[N, h, w, 3].
        positions: object to float32[N, 3], m, world.
        near_switch: whether the step is within three of one where the expert's phase changes.
        free: whether nothing has been gripped yet, so that only the pictures tell where the objects are.
        waiting: whether the object has not been carried towards its goal yet (before `CARRYING`); nowhere true in tasks
            without such a phase.
        proprio: where the hand is: position, quaternion and gripper of each arm, then their change since four steps
            before.
        actions: the expert's, each dimension in units of its standard deviation.
        episodes: number of each step's episode.
    """

    images: dict[str, np.ndarray]
    positions: dict[str, Float[np.ndarray, "n 3"]]
    near_switch: Bool[np.ndarray, " n"]
    free: Bool[np.ndarray, " n"]
    waiting: Bool[np.ndarray, " n"]
    proprio: Float[np.ndarray, "n p"]
    actions: Float[np.ndarray, "n a"]
    episodes: Int[np.ndarray, " n"]


def collect_probe_demos(run: Run, episodes: int, *, workers: int = 1) -> Path:
    """The expert's episodes for probing, seen as the run's policy sees them, in its data folder; made if not there.
    Those of each version of the simulators have a name of their own. Raises ProbeError: another file lies there.
    """
    from gap_vla.sim.recording import LAYOUT_VERSION

    demos = run.config["demos"]
    seen = {"image_size": demos["image_size"], "cameras": list(demos["cameras"])}
    seen |= {} if demos.get("camera", "near") == "near" else {"camera": demos["camera"]}
    settings = {"task": run.task, "episodes": episodes, **seen}
    pictures = task_spec(run.task).pictures_version
    settings |= {"layout_version": LAYOUT_VERSION} if LAYOUT_VERSION > FIRST_LAYOUT else {}
    settings |= {"pictures_version": pictures} if pictures > 1 else {}
    root = Path(run.config["data"]["root"])
    name = f"{run.task}-{digest(settings)}"
    path, mark = root / "probes" / name / "demos.hdf5", f"gap_vla:probe_demos {name}"
    if path.exists():
        if read_mark(regular(path, ProbeError)) != mark or is_changed(path):
            raise ProbeError(f"{path} is not as it was collected for probes; move it away, and it is collected again")
    else:
        from gap_vla.sim import collect_demos

        print(f"collect: {episodes} demonstrations of {run.task} to probe with → {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        marking = partial(write_mark, mark=mark)
        collect_demos(run.task, episodes, path, seed=PROBE_SEED, workers=workers, shown=marking, **seen)
    return path


def read_probe_data(path: Path, *, every: int = 2) -> ProbeData:
    """Reads every `every`-th step of a file of `collect_probe_demos`."""
    from gap_vla.demos import open_source
    from gap_vla.demos.robomimic_hdf5 import opened

    images: dict[str, list[np.ndarray]] = {}
    positions: dict[str, list[np.ndarray]] = {}
    near_switch, free, waiting, numbers = [], [], [], []
    proprio, actions = [], []
    source = open_source(path)
    with opened(path) as file:
        for number, place in enumerate(source.places):
            episode, demo = source.read(number), file[f"data/{place.name}"]
            steps = np.arange(0, len(episode), every)
            for key, frames in episode.images.items():
                images.setdefault(key, []).append(frames[steps])
            objects = demo["obs/object"][()]
            for thing, label in enumerate(demo["obs/object"].attrs["names"]):
                positions.setdefault(str(label), []).append(objects[:, 3 * thing : 3 * thing + 3][steps])
            assert episode.phase is not None  # the collector knows it
            names = [str(name) for name in episode.phase]
            near_switch.append(near_switches(names)[steps])
            free.append((np.cumsum((episode.action[:, 6::7] > 0).any(1)) == 0)[steps])
            carried = names.index(CARRYING) if CARRYING in names else 0
            waiting.append(steps < carried)
            hand = _proprio(demo)
            proprio.append(np.concatenate([hand, hand - hand[np.maximum(np.arange(len(hand)) - BACK, 0)]], 1)[steps])
            actions.append(episode.action[steps])
            numbers.append(np.full(len(steps), number))
    return ProbeData(
        images={key: np.concatenate(parts) for key, parts in images.items()},
        positions={key: np.concatenate(parts) for key, parts in positions.items()},
        near_switch=np.concatenate(near_switch),
        free=np.concatenate(free),
        waiting=np.concatenate(waiting),
        proprio=np.concatenate(proprio).astype(np.float32),
        actions=_scaled(np.concatenate(actions)),
        episodes=np.concatenate(numbers),
    )


def _proprio(demo: Any) -> np.ndarray:
    names = sorted(key for key in demo["obs"] if key.startswith("robot"))
    return np.concatenate([demo["obs"][key][:].reshape(len(demo["actions"]), -1) for key in names], axis=1)


def _scaled(actions: np.ndarray) -> np.ndarray:
    spread = actions.std(0, dtype=np.float64)
    return (actions / np.where(spread > 1e-6, spread, 1.0)).astype(np.float32)
