"""Recorded episodes to ask a policy about: from the simulator's expert, or from demonstrations."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gap_vla.core.episode import Episode
from gap_vla.core.foreign import one_line, whole
from gap_vla.core.identity import flat
from gap_vla.core.processes import worker_pool
from gap_vla.core.typed_config import EPISODES, WORKERS
from gap_vla.demos import hdf5_members
from gap_vla.demos.hdf5_members import OF_ALL, attributes_of_data, has, opened, simulator_of
from gap_vla.phases.targets import is_transition, label_changes, near_boundaries
from gap_vla.rlds.version_files import dataset_metadata
from gap_vla.rollouts.policy import Policy, PolicyError, asked, forget
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.task import SimTask
from gap_vla.sim.specs import TASK_NAMES, task_spec

AT_ONCE = 8
"""Episodes that a policy is asked about together."""

LEAST_STD = 1e-4
"""Recorded actions that vary by no more than this, in their own units, stand still."""

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

    def __post_init__(self) -> None:
        steps = {"transition": self.transition, "free": self.free}
        numbers = {"proprio": self.proprio, "action": self.action}
        for kind, axes, told in ((np.uint8, 4, self.pictures), (np.bool_, 1, steps), (np.number, 2, numbers)):
            for key, values in {key: values for key, values in told.items() if values is not None}.items():
                alike = np.issubdtype(getattr(values, "dtype", object), kind) and not np.iscomplexobj(values)
                if np.ndim(values) != axes or not alike or np.ma.is_masked(values):
                    needed = f"make {kind.__name__} of {axes} axes of it"
                    raise EvaluationError(
                        f"{self.name}: {key} is {np.asarray(values).dtype}{[*np.shape(values)]}; {needed}"
                    )
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


def from_episode(episode: Episode, number: int = 0) -> Recording:
    """A demonstration, called by its `number` if it has no name; transitions are the steps of high ρ, or those near a
    change of phase where there is no ρ.

    Raises:
        EpisodeError: NaN, infinity, or fields of different lengths in it; names file, episode, field and step.
    """
    episode.validate()
    return Recording(
        images=dict(episode.images),
        proprio=np.asarray(episode.proprio, np.float32),
        action=np.asarray(episode.action, np.float32),
        transition=_transition(episode),
        instruction=episode.language_instruction,
        name=episode.name if episode.metadata.get("episode_id") not in (None, "") else f"episode {number}",
    )


def require_scene(data: str | Path, task: str | None, view: str | None = None, *, foreign: bool = True) -> None:
    """Raises PolicyError if data of ours were collected in another task, in two at once, through another view, by other
    simulators than these, or at another rate.

    Args:
        data: RLDS dataset (.../NAME/VERSION), or HDF5 file of demonstrations.
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
    if found in TASK_NAMES and own not in (None, found):
        raise PolicyError(f"{data} says task {found}, and its env_args {env}; correct one of them")
    if isinstance(found, str) and task not in (None, found):
        raise PolicyError(f"{data} holds demonstrations of {found}; the policy is one for {task}: give it data of that")
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


def played(
    policy: Policy, episodes: Sequence[tuple[Recording, Callable[[int], dict[str, Any]]]], first_id: int = 0
) -> list[Float[np.ndarray, "T A"]]:
    """The policy's actions along several episodes at once. It never acts: it sees what was recorded. Warns if it does
    not predict anew at every step.

    Args:
        episodes: of each, the recording and what is observed at a step.
        first_id: number of the first of them for the policy.

    Raises:
        PolicyError: the policy's actions are of another width than the recorded ones.
    """
    _warn_of_chunks(policy)
    ids = [first_id + place for place in range(len(episodes))]
    policy.reset(ids)
    found: list[list[np.ndarray]] = [[] for _ in episodes]
    for step in range(max(len(recording) for recording, _ in episodes)):
        live = [place for place, (recording, _) in enumerate(episodes) if step < len(recording)]
        moments = [episodes[place][1](step) for place in live]
        shown = [key for key in moments[0] if all(key in moment for moment in moments)]
        observations = {key: np.stack([moment[key] for moment in moments]) for key in shown}
        for place, action in zip(live, asked(policy, observations, [ids[place] for place in live])):
            found[place].append(action.copy())  # the policy may fill the same array at its next step
    forget(policy, ids)
    for (recording, _), rows in zip(episodes, found):
        if len(rows[0]) != (width := recording.action.shape[1]):
            raise PolicyError(
                f"{recording.name}: the policy's actions are {len(rows[0])} wide, the recorded ones {width}; give "
                "recordings of the policy's own task and robot"
            )
    return [np.array(rows) for rows in found]


def _warn_of_chunks(policy: Policy) -> None:
    """What a policy is shown where it executes an earlier prediction changes nothing."""
    own, server = (getattr(policy, name, None) or {} for name in ("identity", "server_metadata"))
    served = server.get("identity") if server.get("answers") == "single actions" else None
    for said, advice in (
        (own, "load it with execute=1"),
        (own.get("keys"), "give its KeyMapping execute=1"),
        (served, "serve it with --execute 1, or with --whole-chunks"),
    ):
        execute = said.get("execute") if isinstance(said, Mapping) else None
        if isinstance(execute, int) and execute > 1:
            what = f"{policy.name} predicts at one step in {execute} and looks at no other"
            warnings.warn(f"{what}; {advice} to measure every step", stacklevel=3)


def require_alike(recordings: Sequence[Recording]) -> None:
    """Raises EvaluationError if one lacks what the first one shows, or has it in another size, or its pictures show
    nothing."""
    first, *others = ({**one.pictures, "proprio": one.proprio} for one in recordings)
    for recording, shown in zip(recordings[1:], others):
        for key, value in first.items():
            if key not in shown or shown[key].shape[1:] != value.shape[1:]:
                what = f"{key} is missing, or of another size than in {recordings[0].name}"
                raise EvaluationError(f"{recording.name}: {what}; leave one of them out")
    for recording, camera in itertools.product(recordings, recordings[0].images):
        if np.ptp(recording.images[camera]) == 0:
            raise EvaluationError(f"{recording.name}: {camera} shows one value alone; film it again")


def in_deviations(recorded: Float[np.ndarray, "T A"], where: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Mean squared distance of two actions, step by step, in standard deviations of the recorded actions.

    Columns that do not vary, by a standard deviation above `LEAST_STD`, are left out.

    Args:
        where: the first of the recordings, for the error.

    Raises:
        EvaluationError: none varies, so there is nothing to measure an error in.
    """
    scale = recorded.std(0)
    varies = scale > LEAST_STD
    if not varies.any():
        raise EvaluationError(
            f"{where} and on: the recorded actions are all the same; give recordings that move, with a standard "
            f"deviation above {LEAST_STD:g} in one column at least"
        )
    return lambda a, b: (((a - b)[:, varies] / scale[varies]) ** 2).mean(1)


def joined(known: Sequence[np.ndarray | None]) -> Bool[np.ndarray, " T"] | None:
    """Which steps of several recordings belong to transitions; None if that is unknown of one of them."""
    split = [steps for steps in known if steps is not None]
    return np.concatenate(split) if len(split) == len(known) else None


def mean_where(values: Float[np.ndarray, " T"], steps: Bool[np.ndarray, " T"] | None) -> float | None:
    """Mean over some steps; None if they are unknown or none."""
    return None if steps is None or not steps.any() else float(values[steps].mean())


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
