"""Recorded episodes to ask a policy about: from demonstrations, or from the simulator's expert."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gap_vla.core.columns import DELTA
from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError
from gap_vla.core.processes import worker_pool
from gap_vla.demos.source import Source
from gap_vla.phases.targets import is_transition, label_changes, near_boundaries
from gap_vla.rollouts.task import SimTask
from gap_vla.sim.specs import task_spec

NEAR_SWITCH = 3
"""A step this close to one where the expert's phase changes belongs to a transition, where there is no ρ."""

LONG_ENOUGH = 0.9
"""Of a recording's steps, the share that another one must have to be swapped into it."""


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


def from_episode(episode: Episode, name: str = "") -> RecordedEpisode:
    """A demonstration; transitions are the steps of high ρ, or those near a change of phase where there is no ρ."""
    episode.validate(name)
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
        name=name or episode.name,
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
        return list(pool.map(record_expert, repeat(task), layout_seeds))


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
    found = [donor_of(one, [*recordings[n + 1 :], *recordings[:n]]) for n, one in enumerate(recordings)]
    if alone := [one.name for one, donor in zip(recordings, found) if one.instruction != donor.instruction]:
        told = f"{len(alone)} of {len(recordings)} recordings, as {alone[0]}"
        warnings.warn(f"{told}, have no other of their instruction to swap with, but another task's", stacklevel=2)
    if short := [one.name for one, donor in zip(recordings, found) if len(donor) < LONG_ENOUGH * len(one)]:
        told = f"{len(short)} of {len(recordings)} recordings, as {short[0]}"
        warnings.warn(f"{told}, are longer than all others: at their end a swap shows a last moment", stacklevel=2)
    return found


def donor_of(one: RecordedEpisode, others: Sequence[RecordedEpisode]) -> RecordedEpisode:
    """The next recording of the same instruction that is `LONG_ENOUGH`, else the longest.

    Where no other has the instruction, all others count: pictures of another task are better than none.
    """
    others = [other for other in others if other.instruction == one.instruction] or others
    return next((other for other in others if len(other) >= LONG_ENOUGH * len(one)), max(others, key=len))
