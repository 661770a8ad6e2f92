"""Does it look? How far a policy's actions, its errors and its success change when its senses are tampered with."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gap_vla.core.progress import Progress
from gap_vla.core.typed_config import choose
from gap_vla.rollouts.donors import donors_of
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.interventions import (
    ALL_INTERVENTIONS,
    EVERYTHING,
    INTERVENTIONS,
    OBJECTS_MOVED,
    IntervenedPolicy,
)
from gap_vla.rollouts.measuring import (
    AT_ONCE,
    cameras_of,
    in_deviations,
    joined,
    left_out,
    mean_where,
    played,
    require_alike,
)
from gap_vla.rollouts.policy import Policy, PolicyError
from gap_vla.rollouts.recordings import Recording
from gap_vla.rollouts.statistics import PairedDifference, paired_difference
from gap_vla.rollouts.task import SimTask
from gap_vla.sim.specs import task_spec

EXACT = 1e-6
"""Standard deviations: an error that is no more is rounding, and nothing is a multiple of it."""


VISIBLE = 1e-3
"""Standard deviations: what a policy's answers to the same observations may differ by without a word; its rounding."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one intervention does to the actions, open loop.

    All figures are in units of the recorded actions' standard deviation (root mean square over the columns that vary).

    Attributes:
        change: mean distance between the action with and without the intervention, with `OBJECTS_MOVED` over the steps
            at which a recording is `free`; None where it does not apply.
        change_transition, change_consistent: the same over transition steps, and over the others.
        error: mean distance between the action under the intervention and the recorded one.
        cost: that error as a multiple of the undisturbed one; None where there is none (`EXACT`).
        cost_interval: 95 %, bootstrapped over episodes; None also where a draw of them may be without error.
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
        left_out: which columns of the actions vary, but so little that they count for nothing; mostly "".
    """

    effects: tuple[Effect, ...]
    error: float
    between: float
    steps: int
    transition_steps: int
    left_out: str = ""


def open_loop(policy: Policy, recordings: Sequence[Recording], *, progress: bool = False) -> OpenLoop:
    """Shows the policy recorded episodes, undisturbed and under each intervention, and compares its actions.

    It should execute one action per prediction, otherwise a change shows only where it predicts anew, and answer the
    same observations alike, otherwise a change holds that chance too (warnings say so; for the second, it is asked
    twice about the first `AT_ONCE` recordings).

    Args:
        recordings: two or more.

    Raises:
        PolicyError: fewer recordings, something else, of another action width, or actions that are not finite.
        EvaluationError: recorded actions that never vary, recordings that show different things, or a camera (that the
            policy is known to be shown, or any where nobody knows) that shows nothing, or the same in all of them.
    """
    recordings = list(recordings)
    if odd := [one for one in recordings if not isinstance(one, Recording)]:
        raise PolicyError(f"{type(odd[0]).__name__} is no recording; give from_episode(episode) of each")
    if len(recordings) < 2:
        raise PolicyError(f"{len(recordings)} recording(s); swapping between episodes needs two or more")
    require_alike(recordings, cameras := cameras_of(policy, recordings[0].images))
    others = donors_of(recordings, cameras)
    altering = [name for name in INTERVENTIONS if recordings[0].images or not name.startswith("images_")]
    names = ["none", EVERYTHING, *altering, *([OBJECTS_MOVED] if recordings[0].moved is not None else [])]
    _warn_of_idle(recordings, others, names[1:], [*cameras])
    jobs = len(names) * len(recordings)
    shown = Progress(f"open loop, {policy.name}", jobs, "episode", alone=True, quiet=not progress)
    actions: dict[str, np.ndarray] = {}
    twice: list[np.ndarray] = []
    for name in names:
        seen = [(one, functools.partial(_moment, one, other, name)) for one, other in zip(recordings, others)]
        found = []
        for start in range(0, len(seen), AT_ONCE):  # a policy that draws does so by the recording's number
            found += played(policy, seen[start : start + AT_ONCE], first_id=start)
            shown.advance(len(found) - start)
        actions[name] = np.concatenate(found)
        twice = twice or played(policy, seen[:AT_ONCE])
    shown.close()
    recorded = np.concatenate([recording.action for recording in recordings])
    squared = in_deviations(recorded, recordings[0].name)
    again = np.concatenate(twice)
    if (chance := float(np.sqrt(squared(again, actions["none"][: len(again)])).mean())) > VISIBLE:
        what = f"{policy.name} answers the same observations otherwise when asked again, by {chance:.3f} on average"
        warnings.warn(f"{what}; a `change` of that size says nothing", stacklevel=2)
    return _measure(recordings, actions, recorded, squared)


def _warn_of_idle(
    recordings: Sequence[Recording], others: Sequence[Recording], names: Sequence[str], cameras: Sequence[str]
) -> None:
    """Of interventions under which a recording shows a policy that sees these cameras what it shows undisturbed; of
    pictures each camera by itself."""
    altered = [(name, [key]) for name in names for key in cameras if name.startswith("images_")]
    altered += [(name, ["proprio"]) for name in names if name.startswith("proprio_")]
    altered += [(name, [*cameras, "proprio"]) for name in (EVERYTHING, OBJECTS_MOVED) if name in names and cameras]
    for name, keys in altered:
        idle = [
            one.name
            for one, other in zip(recordings, others)
            if all(
                np.array_equal(one.observation(step)[key], _moment(one, other, name, step)[key])
                for step in range(len(one))
                for key in keys
            )
        ]
        if idle:
            told = "all recordings" if len(idle) == len(recordings) else f"{len(idle)} of {len(recordings)} recordings"
            why = "what it tampers with stands still there, or is the same in both"
            of = f" of {keys[0]}" if len(cameras) > len(keys) == 1 and keys[0] in cameras else ""
            warnings.warn(f"{name} changes nothing{of} in {told}, as {idle[0]}: {why}", stacklevel=3)


def _moment(recording: Recording, source: Recording, name: str, step: int) -> dict[str, Any]:
    now = recording.observation(step)
    if name == OBJECTS_MOVED:
        assert recording.moved is not None
        return {**now, **{key: pictures[step] for key, pictures in recording.moved.items()}}
    if name == "none":
        return now
    other = source.observation(step)
    if name == EVERYTHING:
        return other
    return {**now, **INTERVENTIONS[name](now, recording.observation(0), other, recording.images)}


def _measure(
    recordings: Sequence[Recording],
    whole: dict[str, np.ndarray],
    recorded: Float[np.ndarray, "T A"],
    squared: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> OpenLoop:
    """Of the actions along all recordings, by intervention."""

    def distance(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " T"]:
        return np.sqrt(squared(a, b))

    transition = joined([recording.transition for recording in recordings])
    free = np.concatenate([np.ones(len(r), bool) if r.free is None else r.free for r in recordings])
    undisturbed = distance(whole["none"], recorded)
    errs = undisturbed.mean() > EXACT
    starts = np.cumsum([0, *map(len, recordings)])[:-1]
    effects = []
    for name in [name for name in ALL_INTERVENTIONS if name in whole]:
        counted = free if name == OBJECTS_MOVED else np.ones(len(recorded), bool)
        change, error = distance(whole[name], whole["none"]), distance(whole[name], recorded)
        comparable = name != OBJECTS_MOVED  # where the objects lay elsewhere, the expert would have acted otherwise
        effects.append(
            Effect(
                intervention=name,
                change=mean_where(change, counted),
                change_transition=None if transition is None else mean_where(change, counted & transition),
                change_consistent=None if transition is None else mean_where(change, counted & ~transition),
                error=mean_where(error, counted) if comparable else None,
                cost=float(error.sum() / undisturbed.sum()) if comparable and errs else None,
                cost_interval=_ratio_interval(error, undisturbed, starts) if comparable and errs else None,
            )
        )
    return OpenLoop(
        effects=tuple(effects),
        error=float(undisturbed.mean()),
        between=float(distance(whole["none"], whole[EVERYTHING]).mean()),
        steps=len(recorded),
        transition_steps=0 if transition is None else int(transition.sum()),
        left_out=left_out(recorded),
    )


def _ratio_interval(
    above: Float[np.ndarray, " T"], below: Float[np.ndarray, " T"], starts: Int[np.ndarray, " E"], draws: int = 2000
) -> tuple[float, float] | None:
    """95 % interval of sum(above) / sum(below), episodes (which begin at `starts`) drawn with replacement; None if what
    was drawn is once without error below."""
    sums = np.stack([np.add.reduceat(above, starts), np.add.reduceat(below, starts)])
    chosen = np.random.default_rng(0).integers(len(starts), size=(draws, len(starts)))
    drawn = sums[:, chosen].sum(2)
    steps = np.diff([*starts, len(below)])[chosen].sum(1)
    if (drawn[1] <= EXACT * steps).any():
        return None
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return float(low), float(high)


def _require_fitting(name: str, task: SimTask, library: Sequence[Recording]) -> None:
    """Raises PolicyError if recordings lack a picture or a state of the task's form, which a swap puts in its place."""
    width = task_spec(task.name).proprio_dim
    advice = f"give recordings of {task.name}, or leave {name} out of --interventions"
    for one in library:
        for key in (f"image_{camera}" for camera in task.cameras if name == "images_swapped"):
            if key not in one.images or one.images[key].shape[3:] != (3,):
                raise PolicyError(f"{one.name}: no {key} of three colours to swap; {advice}")
        if name == "proprio_swapped" and one.proprio.shape[1] != width:
            raise PolicyError(f"{one.name}: proprio is {one.proprio.shape[1]} wide, in {task.name} {width}; {advice}")


@dataclasses.dataclass(frozen=True)
class ClosedLoop:
    """Success under one intervention, its difference to the undisturbed policy on the same layouts, and how many of its
    failures are the simulator's.
    """

    intervention: str
    successes: int
    episodes: int
    difference: PairedDifference | None
    simulator_errors: int = 0


def scenes(
    policy: Policy, task: SimTask, library: Sequence[Recording], interventions: Sequence[str]
) -> Iterator[tuple[str, Policy, SimTask]]:
    """What `closed_loop` plays, by name: the policy as it is disturbed, and where.

    Raises:
        PolicyError: no such intervention, or one for which task or library lack something; of a task of one's
            own, what it shows is known, and that raised, while it is played.
    """
    for name in interventions:
        choose(name, ALL_INTERVENTIONS, "intervention", PolicyError)
    if OBJECTS_MOVED in interventions and not hasattr(task, "disturbance"):
        advice = f"give it a field `disturbance` that moves them, or leave {OBJECTS_MOVED} out of the interventions"
        raise PolicyError(f"{task.name} moves no objects; {advice}")
    for name in interventions if isinstance(task, SimTask) else ():
        _require_fitting(name, task, library)
    for name in ["none", *interventions]:
        shown = policy if name in ("none", OBJECTS_MOVED) else IntervenedPolicy(policy, name, library)
        yield name, shown, dataclasses.replace(task, disturbance="objects_moved") if name == OBJECTS_MOVED else task


def closed_loop(
    policy: Policy,
    task: SimTask,
    library: Sequence[Recording],
    *,
    episodes: int,
    seed: int,
    out_dir: Path,
    interventions: Sequence[str] = ALL_INTERVENTIONS,
    **options: Any,
) -> tuple[ClosedLoop, ...]:
    """Success undisturbed and under each intervention, on the same layouts; the first entry is the undisturbed one.

    Args:
        library: recordings of other layouts, for the interventions that swap.
        out_dir: one folder per intervention; resumable like any evaluation.
        interventions: which.
        options: passed on to `evaluate`.
    """
    found: list[ClosedLoop] = []
    baseline = np.empty(0)
    for name, shown, where in scenes(policy, task, library, interventions):
        summary = evaluate(shown, where, episodes=episodes, seed=seed, out_dir=out_dir / name, **options)
        outcomes = np.array(summary["outcomes"])
        if name == "none":
            baseline = outcomes
        difference = None if name == "none" else paired_difference(outcomes, baseline)
        counts = summary["successes"], summary["episodes"]
        found.append(ClosedLoop(name, *counts, difference, summary["simulator_errors"]))
    return tuple(found)
