"""Held-out action error, split by ρ: what can be measured where there is no simulator."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

from gap_vla.core.progress import Progress
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


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Mean squared error of the action to execute now, in units of the recorded actions' variance.

    1 is what predicting the mean action gives over all steps; columns that do not vary (`LEAST_STD`) are left out.

    Attributes:
        error: over all steps.
        error_transition, error_consistent: over steps of high ρ (motion transitions), and over the others; None where
            the data do not tell them apart, or have none.
        steps, transition_steps, episodes: how much was asked.
        left_out: which columns of the actions vary, but so little (`LEAST_STD`) that they count for nothing; mostly "".
    """

    error: float
    error_transition: float | None
    error_consistent: float | None
    steps: int
    transition_steps: int
    episodes: int
    left_out: str = ""


def held_out(policy: Policy, recordings: Iterable[Recording], *, progress: bool = False) -> HeldOut:
    """Shows the policy recorded episodes, step by step, and compares its actions with the recorded ones.

    Args:
        recordings: read as they are needed; only `AT_ONCE` of them are held with their pictures.

    Raises:
        PolicyError: no recordings, or of another action width; or actions that are not finite.
        EvaluationError: recorded actions that never vary.
    """
    predicted: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    known: list[np.ndarray | None] = []
    first: list[Recording] = []
    shown = Progress(f"recorded episodes, {policy.name}", None, "episode", alone=True, quiet=not progress)
    waiting = iter(recordings)
    while some := list(itertools.islice(waiting, AT_ONCE)):
        first = first or some[:1]
        require_alike([*first, *some], cameras_of(policy, first[0].images))
        for recording, found in zip(some, played(policy, [(r, r.observation) for r in some], len(actions))):
            predicted.append(found)
            actions.append(recording.action)
            known.append(recording.transition)
        shown.advance(len(some))
    shown.close()
    if not actions:
        raise PolicyError("no held-out episodes; name a split that has some, or more demonstrations")
    recorded = np.concatenate(actions)
    errors = in_deviations(recorded, first[0].name)(np.concatenate(predicted), recorded)
    transition = joined(known)
    return HeldOut(
        error=float(errors.mean()),
        error_transition=mean_where(errors, transition),
        error_consistent=mean_where(errors, None if transition is None else ~transition),
        steps=len(errors),
        transition_steps=0 if transition is None else int(transition.sum()),
        episodes=len(actions),
        left_out=left_out(recorded),
    )
