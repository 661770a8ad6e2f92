"""Recorded episodes that a policy is shown, and what it does at each of their steps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gap_vla.core.columns import DELTA
from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError
from gap_vla.core.processes import worker_pool
from gap_vla.demos.source import Source
from gap_vla.phases.targets import is_transition, label_changes, near_boundaries
from gap_vla.rollouts.policy import Policy, forget
from gap_vla.rollouts.task import SimTask
from gap_vla.sim.specs import task_spec

NEAR_SWITCH = 3
"""A step this close to one where the expert's phase changes belongs to a transition, where there is no ρ."""

LONG_ENOUGH = 0.9
"""Of a recording's steps, the share that another one must have to be swapped into it."""

AT_ONCE = 8
"""Episodes that a policy is asked about together."""

LEAST_STD = 1e-4
"""Recorded actions that vary by no more than this, in their own units, stand still."""


@dataclasses.dataclass(frozen=True)
class RecordedEpisode:
    """One episode that a policy is asked about.

    Attributes:
        images: camera key to uint8[T, h, w, 3].
        proprio: float32[T, P].
        action: float32[T, A], what was recorded as the right thing to do.
        transition: bool[T], whether the step belongs to a motion transition; None if nobody knows.
        moved: like `images`, of the same moments with the objects moved; None without a simulator.
        free: bool[T], steps at which moved objects make sense (nothing is held yet); with `moved` only.
        instruction: what the robot is told; one text, or one a step.
        name: how messages call it: file and episode.
        layout: the seed of the simulator's layout that it was recorded on; None if nobody knows.
    """

    images: dict[str, np.ndarray]
    proprio: Float[np.ndarray, "T P"]
    action: Float[np.ndarray, "T A"]
    transition: Bool[np.ndarray, " T"] | None = None
    moved: dict[str, np.ndarray] | None = None
    free: Bool[np.ndarray, " T"] | None = None
    instruction: str | tuple[str, ...] = ""
    name: str = "a recording"
    layout: int | None = None

    def __len__(self) -> int:
        return len(self.proprio)

    def observation(self, step: int) -> dict[str, Any]:
        """That moment, or the last one if the recording is over."""
        step = min(step, len(self) - 1)
        text = self.instruction if isinstance(self.instruction, str) else self.instruction[step]
        images = {key: pictures[step] for key, pictures in self.images.items()}
        return {**images, "proprio": self.proprio[step], "language_instruction": text}


def from_episode(episode: Episode) -> RecordedEpisode:
    """A demonstration; transitions are the steps of high ρ, or those near a change of phase where there is no ρ."""
    episode.validate()
    transition = None
    if episode.rho is not None:
        transition = is_transition(np.asarray(episode.rho))
    elif episode.phase is not None:
        transition = near_switches(list(episode.phase))
    seed = episode.metadata.get("seed")
    return RecordedEpisode(
        images=dict(episode.images),
        proprio=np.asarray(episode.proprio, np.float32),
        action=np.asarray(episode.action, np.float32),
        transition=transition,
        instruction=episode.language_instruction,
        name=episode.name,
        layout=None if seed is None else int(seed),
    )


def require_task(source: Source, task: str | None, view: str | None) -> None:
    """Raises UserError: demonstrations say that they are of another task, or were seen through another view."""
    for what, found, wanted in (("task", source.about.get("task"), task), ("view", source.about.get("camera"), view)):
        if None not in (found, wanted) and found != wanted:
            raise UserError(f"{source.path} is of the {what} {found}, and the policy's is {wanted}")


def near_switches(phases: Sequence[Any]) -> Bool[np.ndarray, " T"]:
    """Steps within `NEAR_SWITCH` of a change.

    >>> near_switches(["a"] * 5 + ["b"] * 5).nonzero()[0].tolist()
    [2, 3, 4, 5, 6, 7, 8]
    """
    return near_boundaries(label_changes(np.asarray(phases)), len(phases), NEAR_SWITCH)


def from_simulator(task: SimTask, layout_seeds: Sequence[int], *, workers: int = 2) -> list[RecordedEpisode]:
    """The expert's episodes on these layouts, each moment drawn twice: as it is, and with the objects moved by 4 cm."""
    with worker_pool(min(workers, len(layout_seeds))) as pool:
        return list(pool.map(record_expert, itertools.repeat(task), layout_seeds))


def record_expert(task: SimTask, seed: int) -> RecordedEpisode:
    """One such episode; runs in a process of its own."""
    env = task.make()
    from gap_vla.sim.wrappers import offset_of, pictures_with_objects_moved

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
    grippers = DELTA.times(task_spec(task.name).n_arms).of("gripper")
    cameras = [key for key in moments[0] if key.startswith("image_")]
    return RecordedEpisode(
        images={key: np.stack([moment[key] for moment in moments]) for key in cameras},
        proprio=np.stack([moment["proprio"] for moment in moments]),
        action=action,
        transition=near_switches(phases),
        moved={key: np.stack([moment[key] for moment in moved]) for key in cameras},
        free=np.cumsum((action[:, grippers] > 0).any(1)) == 0,
        instruction=task.instruction,
        name=f"{task.name}, layout {seed}",
        layout=seed,
    )


def donors_of(recordings: Sequence[RecordedEpisode]) -> list[RecordedEpisode]:
    """Of each recording, the one that a swap takes from: `donor_of` those after it and, once round, before it."""
    return [donor_of(one, [*recordings[n + 1 :], *recordings[:n]]) for n, one in enumerate(recordings)]


def donor_of(one: RecordedEpisode, others: Sequence[RecordedEpisode]) -> RecordedEpisode:
    """The next recording of the same instruction that is `LONG_ENOUGH`, else the longest.

    Where no other has the instruction, all others count: pictures of another task are better than none.
    """
    others = [other for other in others if other.instruction == one.instruction] or others
    return next((other for other in others if len(other) >= LONG_ENOUGH * len(one)), max(others, key=len))


# ---- a policy is shown them


def played(
    policy: Policy, episodes: Sequence[tuple[RecordedEpisode, Callable[[int], dict[str, Any]]]], first_id: int = 0
) -> list[Float[np.ndarray, "T A"]]:
    """The policy's actions along several episodes at once. It never acts: it sees what was recorded.

    Args:
        episodes: of each, the recording and what is observed at a step.
        first_id: number of the first of them for the policy.

    Raises:
        UserError: the policy's actions are of another width than the recorded ones, or NaN.
    """
    ids = [first_id + place for place in range(len(episodes))]
    policy.reset(ids)
    found: list[list[np.ndarray]] = [[] for _ in episodes]
    for step in range(max(len(recording) for recording, _ in episodes)):
        live = [place for place, (recording, _) in enumerate(episodes) if step < len(recording)]
        moments = [episodes[place][1](step) for place in live]
        observations = {key: np.stack([moment[key] for moment in moments]) for key in moments[0]}
        actions = np.asarray(policy.act(observations, [ids[place] for place in live]), np.float32)
        for place, action in zip(live, actions):
            found[place].append(action.copy())  # the policy may fill the same array at its next step
            recording, width = episodes[place][0], episodes[place][0].action.shape[1]
            if len(action) != width or not np.isfinite(action).all():
                what = f"{policy.name} returned {np.array2string(action, precision=3)}"
                raise UserError(f"{what} at step {step} of {recording.name}, whose actions are {width} numbers")
    forget(policy, ids)
    return [np.array(rows) for rows in found]


def in_deviations(recorded: Float[np.ndarray, "T A"]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Mean squared distance of two actions, step by step, in standard deviations of the recorded actions.

    Columns that do not vary, by a standard deviation above `LEAST_STD`, are left out.
    """
    scale = recorded.std(0, dtype=np.float64)  # summed up in float32, what stands still varies by its rounding
    varies = scale > LEAST_STD
    return lambda a, b: (((a - b)[:, varies] / scale[varies]) ** 2).mean(1)


def transitions_of(recordings: Sequence[RecordedEpisode]) -> Bool[np.ndarray, " T"] | None:
    """Which steps of all of them belong to transitions; None if that is unknown of one of them."""
    known = [one.transition for one in recordings if one.transition is not None]
    return np.concatenate(known) if len(known) == len(recordings) else None


def mean_where(values: Float[np.ndarray, " T"], steps: Bool[np.ndarray, " T"] | None) -> float | None:
    """Mean over some steps; None if they are unknown or none."""
    return None if steps is None or not steps.any() else float(values[steps].mean())
