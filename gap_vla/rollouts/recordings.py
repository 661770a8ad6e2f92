"""Recorded episodes to ask a policy about: from the simulator's expert, or from demonstrations."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import one_line, real_path, shown, whole
from gap_vla.core.identity import flat
from gap_vla.core.processes import worker_pool
from gap_vla.core.typed_config import EPISODES, WORKERS
from gap_vla.demos import hdf5_members
from gap_vla.demos.arrays import forms, read_arrays
from gap_vla.demos.hdf5_attributes import OF_ALL, attribute_of, is_single, names_in
from gap_vla.demos.hdf5_members import attributes_of_data, has, member, opened, simulator_of
from gap_vla.phases.targets import is_transition, label_changes, near_boundaries
from gap_vla.rlds.records import dataset_metadata
from gap_vla.rollouts.policy import PolicyError
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.task import SimTask
from gap_vla.sim.specs import TASK_NAMES, task_spec

NEAR_SWITCH = 3
"""A step this close to one where the expert's phase changes belongs to a transition, where there is no ρ."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One episode.

    Attributes:
        images: camera key to uint8[T, h, w, 3].
        proprio: float32[T, P].
        action: float32[T, A], what was recorded as the right thing to do.
        transition: bool[T], whether the step belongs to a motion transition; None if nobody knows.
        moved: like `images`, of the same moments with the objects moved; None without a simulator.
        free: bool[T], steps at which moved objects make sense (nothing is held yet); with `moved` only.
        instruction: what the robot is told.
        name: how messages call it: file and episode.
        layout: the seed of the simulator's layout that it was recorded on; None if nobody knows.

    Raises:
        EvaluationError: no steps, arrays of another form or of different lengths, or NaN or infinity in its numbers.
    """

    images: dict[str, np.ndarray]
    proprio: Float[np.ndarray, "T P"]
    action: Float[np.ndarray, "T A"]
    transition: Bool[np.ndarray, " T"] | None = None
    moved: dict[str, np.ndarray] | None = None
    free: Bool[np.ndarray, " T"] | None = None
    instruction: str = ""
    name: str = "a recording"
    layout: int | None = None

    def __post_init__(self) -> None:
        steps = {"transition": self.transition, "free": self.free}
        numbers = {"proprio": self.proprio, "action": self.action}
        for kind, axes, told in ((np.uint8, 4, self.pictures), (np.bool_, 1, steps), (np.number, 2, numbers)):
            for key, values in {key: values for key, values in told.items() if values is not None}.items():
                dtype = getattr(values, "dtype", None)  # torch's and matrices answer otherwise than arrays
                known = isinstance(dtype, np.dtype) and not isinstance(values, np.matrix)
                alike = known and np.issubdtype(dtype, kind) and not np.iscomplexobj(values)
                if not alike or np.ndim(values) != axes or np.ma.is_masked(values):
                    found = f"{dtype}{[*np.shape(values)]}" if known else f"a {type(values).__name__}"
                    needed = f"make {'' if known else 'a numpy array: '}{kind.__name__} of {axes} axes of it"
                    raise EvaluationError(f"{self.name}: {key} is {found}; {needed}")
                if axes == 4 and 0 in values.shape[1:]:
                    raise EvaluationError(f"{self.name}: {key} is {dtype}{[*values.shape]}, no picture; leave it out")
                if not 0 < len(values) == len(self.proprio):
                    raise EvaluationError(f"{self.name}: proprio has {len(self.proprio)} steps, {key} {len(values)}")
        for name, values in (("proprio", self.proprio), ("action", self.action)):
            if not np.isfinite(values).all():
                step = int(np.argmin(np.isfinite(values).all(1)))
                raise EvaluationError(f"{self.name}: {name} is NaN or infinite at step {step}; leave the episode out")

    def __len__(self) -> int:
        return len(self.proprio)

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """`images`, and those of `moved` under names of their own."""
        return self.images | {f"moved {key}": shown for key, shown in (self.moved or {}).items()}

    def observation(self, step: int) -> dict[str, Any]:
        """That moment, or the last one if the recording is over."""
        step = min(step, len(self) - 1)
        images = {key: pictures[step] for key, pictures in self.images.items()}
        return {**images, "proprio": self.proprio[step], "language_instruction": self.instruction}


def from_episode(episode: Episode, name: str = "") -> Recording:
    """A demonstration; transitions are the steps of high ρ, or those near a change of phase where there is no ρ.

    Args:
        name: how messages call it; else by its file and episode, if it knows them.

    Raises:
        EpisodeError: NaN, infinity, or fields of different lengths in it; names file, episode, field and step.
    """
    if not isinstance(episode, Episode):
        raise EpisodeError(f"{shown(episode)} is no episode; give one of open_source or read_rlds")
    episode.validate(name)
    named, seed = episode.metadata.get("episode_id") not in (None, ""), episode.metadata.get("seed")
    return Recording(
        images=dict(episode.images),
        proprio=np.asarray(episode.proprio, np.float32),
        action=np.asarray(episode.action, np.float32),
        transition=_transition(episode),
        instruction=episode.language_instruction,
        name=name or (episode.name if named else "a recording"),
        layout=int(seed) if isinstance(seed, int | float) and float(seed).is_integer() else None,
    )


def from_dataset(version_dir: str | Path, split: str) -> Iterator[Recording]:
    """The episodes of a split that was compared with its checksums, called by their places in it."""
    from gap_vla.rlds.source import RLDS

    for number, episode in enumerate(RLDS(version_dir, split=split)):
        yield from_episode(episode, f"{version_dir}, {split}[{number}]")


def require_scene(data: str | Path, task: str | None, view: str | None = None, *, foreign: bool = True) -> None:
    """Raises PolicyError if data name another of our tasks, or of ours were collected in two at once, through another
    view, by other simulators than these, or at another rate.

    Args:
        data: RLDS dataset (.../NAME/VERSION), HDF5 file of demonstrations, or folder of npz.
        task: what the policy was trained for, or will be rolled out in; None if nobody knows.
        view: of its primary camera in training; None if nobody knows.
        foreign: whether other people's data are taken as they are; otherwise what they call their environment counts.
    """
    from gap_vla.sim.recording import LAYOUT_VERSION

    path = Path(data)
    said = _recorded(path)
    env = said.get("env_name")
    own = {task_spec(name).gymnasium_id: name for name in TASK_NAMES}.get(str(env))
    found = said.get("task", own or (None if foreign else env))
    if path.is_file() and (own or found in TASK_NAMES or not foreign):
        with opened(path) as file:
            told = file["data"].attrs.keys() if has(file, "data") else ()
            odd = [key for key in OF_ALL if key in told and key not in said]
        if odd:
            raise PolicyError(f"{data}: its attribute {odd[0]} is not one value; write that of all demonstrations")
    ours = own or str(env).startswith("gap_vla/") or "layout_version" in said
    if found in TASK_NAMES and ours and env is not None and own != found:
        raise PolicyError(f"{data} says task {found}, and its env_args {env}; correct one of them")
    _require_one_account(path, said, task, bool(ours or found in TASK_NAMES))
    if isinstance(found, str) and task not in (None, found):
        raise PolicyError(f"{data} holds demonstrations of {found}, not of {task}: give data of that")
    seen = said.get("camera")
    if None not in (view, seen) and view != seen:
        raise PolicyError(f"{data} was recorded through the view {seen!r}; the policy looks through {view!r}")
    needed = {"layout_version": LAYOUT_VERSION}
    if task in TASK_NAMES:
        needed["pictures_version"] = (spec := task_spec(task)).pictures_version
        needed |= {"control_hz": spec.control_hz} if found == task else {}
    for key, version in needed.items():
        if said.get(key, version) != version:
            advice = "collect it again (gap-vla collect-demos), or use the gap_vla that recorded it"
            raise PolicyError(f"{data} has {key} {one_line(said[key], 40)}, this gap_vla {version}; {advice}")


def _require_one_account(path: Path, said: dict[str, Any], task: str | None, ours: bool) -> None:
    """Raises PolicyError if demonstrations name another of our tasks, or say another rate than their simulator, or, if
    they are `ours`, of all, of one of them, or of their simulator another thing than `data` does."""
    settings = simulator_of(said).get("env_kwargs")
    settings = settings if isinstance(settings, dict) else {}
    beside = {"variant": settings.get("variant")}
    beside |= dict.fromkeys(("control_hz", "control_freq"), settings.get("control_freq"))
    found = [("env_args", key, value) for key, value in beside.items()]
    found += [one for one in statements_in(path, OF_ALL) if one[0] != "data"]
    for where, key, value in found:
        of_all = said.get(key)
        rate = where == "env_args" and key != "variant"
        if (ours or rate) and None not in (value, of_all) and str(value) != str(of_all) and value != of_all:
            told = f"{key} {one_line(of_all, 40)}, and its {where} {one_line(value, 40)}"
            raise PolicyError(f"{path} says {told}; correct one")
        if key == "task" and value in TASK_NAMES and task not in (None, value):
            raise PolicyError(f"{path}: its {where} says task {value}, not {task}: give data of that")


def statements_in(path: Path, names: Collection[str]) -> list[tuple[str, str, Any]]:
    """What an HDF5 file says of itself, in `data` and of each demonstration, or each npz of a folder, under these names
    in whatever letters: place, name in small letters, and the number, truth value or text."""
    found: list[tuple[str, str, Any]] = []
    for file in sorted(path.glob("*.npz")) if path.is_dir() else ():
        arrays: dict[str, Any] = {}
        with contextlib.suppress(EpisodeError):  # damaged ones are refused by their reader
            for name in filter(lambda name: name.lower() in names, forms(file, lambda name: name.lower() in names)):
                with contextlib.suppress(EpisodeError):  # objects, which no reader takes
                    arrays |= read_arrays(file, {name}.__contains__)
        single = {name: values.item() for name, values in arrays.items() if getattr(values, "size", 0) == 1}
        found += [(file.name, name.lower(), _text_or_number(value)) for name, value in single.items()]
    if path.is_file() and h5py.is_hdf5(real_path(path)):
        with opened(path) as whole:
            data = member(whole, "data", f"{path}") if has(whole, "data") else None
            groups: dict[str, Any] = {"file": whole}
            if isinstance(data, h5py.Group):
                link = data.id.links.get_info  # a link is no other demonstration
                inside = [one for one in names_in(data, f"{path}") if link(one.encode()).type == h5py.h5l.TYPE_HARD]
                groups |= {"data": data, **{name: data[name] for name in inside}}
            for where, holder in groups.items():
                told = [key for key in names_in(holder.attrs, f"{path}, {where}") if key.lower() in names]
                for key in [key for key in told if is_single(holder, key)]:
                    with contextlib.suppress(EpisodeError):  # text of another encoding names none of ours
                        found.append((where, key.lower(), attribute_of(holder, key)))
    return found


def _text_or_number(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def has_own_layouts(data: Path) -> bool:
    """Whether the seeds in data are of layouts of our tasks."""
    said = _recorded(data)
    return said.get("task") in TASK_NAMES or str(said.get("env_name")).startswith("gap_vla/")


def view_of(source: Path) -> str | None:
    """The primary camera's view in a file of `collect_demos`, or in an RLDS dataset of such; None for other sources."""
    return _recorded(source).get("camera")


def _recorded(data: Path) -> dict[str, Any]:
    """What data say of how they were recorded: `task`, `env_name`, `camera` (the primary one's view), versions."""
    if data.is_file():
        said = attributes_of_data(data)
        return {**said, "env_name": simulator_of(said).get("env_name"), "camera": hdf5_members.view_of(said)}
    told = dict(flat(dataset_metadata(data)))
    prefix = "identity.data.demos."
    demos = {key.removeprefix(prefix): value for key, value in told.items() if key.startswith(prefix)}
    if "task" in demos:
        return {"camera": "near", "pictures_version": 1, **demos}
    name = told.get("identity.name")
    named = {"task": told.get("identity.data.task") or (name if name in TASK_NAMES else None)}
    return {key: value for key, value in named.items() if value} | {"camera": told.get("identity.data.camera")}


def _transition(episode: Episode) -> np.ndarray | None:
    if episode.rho is not None:
        return is_transition(np.asarray(episode.rho))
    return None if episode.phase is None else near_switches(list(episode.phase))


def near_switches(phases: Sequence[Any]) -> Bool[np.ndarray, " T"]:
    """Steps within `NEAR_SWITCH` of a change.

    >>> near_switches(["a"] * 5 + ["b"] * 5).nonzero()[0].tolist()
    [2, 3, 4, 5, 6, 7, 8]
    """
    return near_boundaries(label_changes(np.asarray(phases)), len(phases), NEAR_SWITCH)


def from_simulator(task: SimTask, layout_seeds: Sequence[int], *, workers: int = 2) -> list[Recording]:
    """The expert's episodes on these layouts, each moment drawn twice: as it is, and with the objects moved by 4 cm.

    Raises:
        EvaluationError: no layouts, or no such number of processes.
    """
    whole("layouts", len(layout_seeds), 1, int(EPISODES.most), EvaluationError)
    whole("workers", workers, int(WORKERS.least), int(WORKERS.most), EvaluationError)
    with worker_pool(min(workers, len(layout_seeds))) as pool:
        return list(pool.map(record_expert, repeat(task), layout_seeds))


def record_expert(task: SimTask, seed: int) -> Recording:
    """One such episode; runs in a process of its own."""
    from gap_vla.sim.disturbance import offset_of, pictures_with_objects_moved

    env = task.make()
    observation, _ = env.reset(seed=seed)
    expert = task.make_expert(env, seed=seed)
    offset = offset_of(seed)
    moments: list[dict[str, np.ndarray]] = []
    moved: list[dict[str, np.ndarray]] = []
    actions, phases = [], []
    over = False
    while not over:
        moments.append(observation)
        moved.append(pictures_with_objects_moved(env, offset))
        actions.append(expert.act())
        phases.append(expert.phase)
        observation, _, terminated, truncated, info = env.step(actions[-1])
        over = terminated or truncated or info["success"]
    env.close()
    action = np.array(actions, np.float32)
    cameras = [key for key in moments[0] if key.startswith("image_")]
    return Recording(
        images={key: np.stack([moment[key] for moment in moments]) for key in cameras},
        proprio=np.stack([moment["proprio"] for moment in moments]),
        action=action,
        transition=near_switches(phases),
        moved={key: np.stack([moment[key] for moment in moved]) for key in cameras},
        free=np.cumsum((action[:, 6::7] > 0).any(1)) == 0,
        instruction=task.instruction,
    )
