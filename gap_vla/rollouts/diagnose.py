"""Does it look? How far a policy's actions, its errors and its success change when its senses are tampered with."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int

from gap_vla.core.config import choose
from gap_vla.core.errors import UserError
from gap_vla.core.progress import Progress
from gap_vla.demos.arrays import resized
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import Policy, forget, identity
from gap_vla.rollouts.recordings import (
    AT_ONCE,
    RecordedEpisode,
    donors_of,
    in_deviations,
    mean_where,
    played,
    transitions_of,
)
from gap_vla.rollouts.statistics import PairedDifference, paired_difference
from gap_vla.rollouts.task import Task

# ---- what is done to the senses

Observation = Mapping[str, Any]
"""One moment: `image_<camera>` uint8[h, w, 3], `proprio` float32[P], perhaps `language_instruction`."""

Altered = Callable[[Observation, Observation, Observation, Collection[str]], dict[str, np.ndarray]]

INTERVENTIONS: dict[str, Altered] = {
    "images_black": lambda now, first, other, pictures: {key: np.zeros_like(now[key]) for key in pictures},
    "images_frozen": lambda now, first, other, pictures: {key: first[key] for key in pictures},
    "images_swapped": lambda now, first, other, pictures: {key: other[key] for key in pictures if key in other},
    "proprio_frozen": lambda now, first, other, pictures: {"proprio": first["proprio"]},
    "proprio_swapped": lambda now, first, other, pictures: {"proprio": other["proprio"]},
}
"""Name to what replaces the present observation's entries, given the present moment, the episode's first moment, the
same step of another episode, and which entries are pictures."""

OBJECTS_MOVED = "objects_moved"
"""The objects lie elsewhere while the robot is where it was. Needs the simulator, not only a recording."""

EVERYTHING = "everything_swapped"
"""What the swaps are compared with: all that the same step of another episode shows."""

ALL_INTERVENTIONS = (*INTERVENTIONS, OBJECTS_MOVED)

DESCRIPTIONS = {
    "images_black": "all pictures black",
    "images_frozen": "pictures stay those of the first step",
    "images_swapped": "pictures of another episode (same step, or its last)",
    "proprio_frozen": "proprioception stays that of the first step",
    "proprio_swapped": "proprioception of another episode (same step, or its last)",
    OBJECTS_MOVED: "objects shifted by some centimetres, robot untouched; open loop until a gripper first closes",
}


class IntervenedPolicy:
    """A policy that is shown altered observations throughout its episodes.

    Args:
        library: recorded episodes that the altered entries are taken from; episode e uses number e + 1, cyclically.
    """

    def __init__(self, policy: Policy, intervention: str, library: Sequence[RecordedEpisode]) -> None:
        self.name = f"{policy.name}, {intervention}"
        self.identity = {key: value for key, value in identity(policy).items() if key != "name"}
        self.identity["intervention"] = intervention
        self._policy, self._alter, self._library = policy, INTERVENTIONS[intervention], library
        for optional in ("warm_up", "privileged"):
            if hasattr(policy, optional):
                setattr(self, optional, getattr(policy, optional))
        self._first: dict[int, Observation] = {}
        self._step: dict[int, int] = {}

    def reset(self, episode_ids: Sequence[int]) -> None:
        self._policy.reset(episode_ids)
        for episode in episode_ids:
            self._step[episode] = 0
            self._first.pop(episode, None)

    def forget(self, episode_ids: Sequence[int]) -> None:
        forget(self._policy, episode_ids)

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        altered = {key: value.copy() for key, value in observations.items()}
        for row, episode in enumerate(episode_ids):
            now = {key: value[row] for key, value in observations.items()}
            first = self._first.setdefault(episode, copy.deepcopy(now))  # a camera may fill one array again
            other = self._library[(episode + 1) % len(self._library)].observation(self._step[episode])
            pictures = [key for key in now if key.startswith("image_")]
            for key, value in self._alter(now, first, other, pictures).items():
                altered[key][row] = resized(value[None], now[key].shape[:2])[0] if key in pictures else value
            self._step[episode] += 1
        return self._policy.act(altered, episode_ids)


# ---- with recordings


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one intervention does to the actions, open loop.

    All figures are in units of the recorded actions' standard deviation (root mean square over the columns that vary).

    Attributes:
        change: mean distance between the action with and without the intervention, with `OBJECTS_MOVED` over the steps
            at which a recording is `free`; None where it does not apply.
        change_transition, change_consistent: the same over transition steps, and over the others.
        error: mean distance between the action under the intervention and the recorded one.
        cost: that error as a multiple of the undisturbed one, with `OBJECTS_MOVED` None.
        cost_interval: 95 %, bootstrapped over episodes.
    """

    intervention: str
    change: float | None
    change_transition: float | None
    change_consistent: float | None
    error: float | None
    cost: float | None = None
    cost_interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class OpenLoop:
    """Effects of all interventions on one policy.

    Attributes:
        effects: of those on pictures only where the recordings have some.
        error: mean distance between its undisturbed actions and the recorded ones.
        between: mean distance between its undisturbed actions and those where everything is swapped: it is shown the
            same steps of the episode that the swaps take from.
        steps, transition_steps: how many moments were asked; 0 transitions also where nobody knows them.
    """

    effects: tuple[Effect, ...]
    error: float
    between: float
    steps: int
    transition_steps: int


def open_loop(policy: Policy, recordings: Sequence[RecordedEpisode], *, progress: bool = False) -> OpenLoop:
    """Shows the policy recorded episodes, undisturbed and under each intervention, and compares its actions.

    It should execute one action per prediction (`execute=1`), otherwise a change shows only where it predicts anew, and
    answer the same observations alike, otherwise a change holds that chance too.

    Args:
        recordings: two or more.
    """
    if len(recordings) < 2:
        raise UserError(f"{len(recordings)} recording(s); swapping between episodes needs two or more")
    others = donors_of(recordings)
    altering = [name for name in INTERVENTIONS if recordings[0].images or not name.startswith("images_")]
    names = ["none", EVERYTHING, *altering, *([OBJECTS_MOVED] if recordings[0].moved is not None else [])]
    bar = Progress(f"open loop, {policy.name}", len(names) * len(recordings), "episode", quiet=not progress)
    actions: dict[str, np.ndarray] = {}
    for name in names:
        seen = [(one, functools.partial(_moment, one, other, name)) for one, other in zip(recordings, others)]
        found: list[np.ndarray] = []
        for start in range(0, len(seen), AT_ONCE):  # a policy that draws does so by the recording's number
            found += played(policy, seen[start : start + AT_ONCE], first_id=start)
            bar.advance(len(found) - start)
        actions[name] = np.concatenate(found)
    bar.close()
    recorded = np.concatenate([recording.action for recording in recordings])
    return _measure(recordings, actions, recorded)


def _moment(recording: RecordedEpisode, source: RecordedEpisode, name: str, step: int) -> dict[str, Any]:
    """What a recording shows under an intervention that takes from another one."""
    now = recording.observation(step)
    if name == OBJECTS_MOVED:
        return {**now, **{key: pictures[step] for key, pictures in (recording.moved or {}).items()}}
    if name == "none":
        return now
    other = source.observation(step)
    if name == EVERYTHING:
        return other
    return {**now, **INTERVENTIONS[name](now, recording.observation(0), other, recording.images)}


def _measure(
    recordings: Sequence[RecordedEpisode],
    actions: dict[str, np.ndarray],
    recorded: Float[np.ndarray, "T A"],
) -> OpenLoop:
    """Of the actions along all recordings, by intervention."""
    squared = in_deviations(recorded)

    def distance(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " T"]:
        return np.sqrt(squared(a, b))

    transition = transitions_of(recordings)
    free = np.concatenate([np.ones(len(r), bool) if r.free is None else r.free for r in recordings])
    undisturbed = distance(actions["none"], recorded)
    starts = np.cumsum([0, *map(len, recordings)])[:-1]
    effects = []
    for name in [name for name in ALL_INTERVENTIONS if name in actions]:
        counted = free if name == OBJECTS_MOVED else np.ones(len(recorded), bool)
        change, error = distance(actions[name], actions["none"]), distance(actions[name], recorded)
        comparable = name != OBJECTS_MOVED  # where the objects lay elsewhere, the expert would have acted otherwise
        effects.append(
            Effect(
                intervention=name,
                change=mean_where(change, counted),
                change_transition=None if transition is None else mean_where(change, counted & transition),
                change_consistent=None if transition is None else mean_where(change, counted & ~transition),
                error=mean_where(error, counted) if comparable else None,
                cost=float(error.sum() / undisturbed.sum()) if comparable else None,
                cost_interval=_ratio_interval(error, undisturbed, starts) if comparable else None,
            )
        )
    return OpenLoop(
        effects=tuple(effects),
        error=float(undisturbed.mean()),
        between=float(distance(actions["none"], actions[EVERYTHING]).mean()),
        steps=len(recorded),
        transition_steps=0 if transition is None else int(transition.sum()),
    )


def _ratio_interval(
    above: Float[np.ndarray, " T"], below: Float[np.ndarray, " T"], starts: Int[np.ndarray, " E"]
) -> tuple[float, float]:
    """95 % interval of sum(above) / sum(below), episodes (which begin at `starts`) drawn with replacement."""
    sums = np.stack([np.add.reduceat(above, starts), np.add.reduceat(below, starts)])
    chosen = np.random.default_rng(0).integers(len(starts), size=(2000, len(starts)))
    drawn = sums[:, chosen].sum(2)
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return float(low), float(high)


# ---- with rollouts


@dataclasses.dataclass(frozen=True)
class ClosedLoop:
    """Success under one intervention, and its difference to the undisturbed policy on the same layouts."""

    intervention: str
    successes: int
    episodes: int
    difference: PairedDifference | None


def closed_loop(
    policy: Policy,
    task: Task,
    library: Sequence[RecordedEpisode],
    *,
    episodes: int,
    seed: int,
    out_dir: Path,
    interventions: Sequence[str] = ALL_INTERVENTIONS,
    **options: Any,
) -> tuple[ClosedLoop, ...]:
    """Success undisturbed and under each intervention, on the same layouts; the first entry is the undisturbed one.

    Args:
        task: one with a field `disturbance`, for `objects_moved`.
        library: recordings of other layouts, for the interventions that swap.
        out_dir: one folder per intervention; resumable like any evaluation.
        options: passed on to `evaluate`.
    """
    for name in interventions:
        choose(name, ALL_INTERVENTIONS, "intervention")
    if shown := [one.name for one in library if one.layout in range(seed, seed + episodes)]:
        raise UserError(f"{shown[0]} is of a layout which rollouts are played on; give another --seed")
    found: list[ClosedLoop] = []
    baseline = np.empty(0)
    for name in ["none", *interventions]:
        shown_to = policy if name in ("none", OBJECTS_MOVED) else IntervenedPolicy(policy, name, library)
        where: Any = dataclasses.replace(cast(Any, task), disturbance=name) if name == OBJECTS_MOVED else task
        summary = evaluate(shown_to, where, episodes=episodes, seed=seed, out_dir=out_dir / name, **options)
        outcomes = np.array(summary["outcomes"])
        baseline = outcomes if name == "none" else baseline
        difference = None if name == "none" else paired_difference(outcomes, baseline)
        found.append(ClosedLoop(name, summary["successes"], summary["episodes"], difference))
    return tuple(found)
