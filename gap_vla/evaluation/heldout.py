"""Held-out action error, split by ρ: what can be measured where there is no simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gap_vla.evaluation.policy import Policy, PolicyError
from gap_vla.evaluation.recordings import Recording


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Mean squared error of the action to execute now, in units of the recorded actions' variance.

    1 is what predicting the mean action gives over all steps; columns that do not vary are left out.

    Attributes:
        error: over all steps.
        error_transition, error_consistent: over steps of high ρ (motion transitions), and over the others; None where
            the data do not tell them apart, or have none.
        steps, transition_steps, episodes: how much was asked.
    """

    error: float
    error_transition: float | None
    error_consistent: float | None
    steps: int
    transition_steps: int
    episodes: int


def held_out(policy: Policy, recordings: Sequence[Recording], *, batch: int = 8) -> HeldOut:
    """Shows the policy recorded episodes, step by step, and compares its actions with the recorded ones.

    Raises:
        PolicyError: no recordings, or of another action width.
    """
    if not recordings:
        raise PolicyError("no held-out episodes; name a split that has some, or more demonstrations")
    predicted: list[np.ndarray] = []
    for start in range(0, len(recordings), batch):
        predicted.extend(_play(policy, recordings[start : start + batch], start))
    recorded = np.concatenate([recording.action for recording in recordings])
    found = np.concatenate(predicted)
    if found.shape != recorded.shape:
        raise PolicyError(f"the policy's actions are {found.shape[1]} wide, the recorded ones {recorded.shape[1]}")
    scale = recorded.std(0)
    varies = scale > 1e-4
    errors = (((found - recorded)[:, varies] / scale[varies]) ** 2).mean(1)
    known = [recording.transition for recording in recordings if recording.transition is not None]
    transition = np.concatenate(known) if len(known) == len(recordings) else None
    parts: list[float | None] = [None, None]
    if transition is not None:
        parts = [float(errors[part].mean()) if part.any() else None for part in (transition, ~transition)]
    return HeldOut(
        error=float(errors.mean()),
        error_transition=parts[0],
        error_consistent=parts[1],
        steps=len(errors),
        transition_steps=0 if transition is None else int(transition.sum()),
        episodes=len(recordings),
    )


def _play(policy: Policy, recordings: Sequence[Recording], first_id: int) -> list[np.ndarray]:
    ids = [first_id + place for place in range(len(recordings))]
    policy.reset(ids)
    found: list[list[np.ndarray]] = [[] for _ in recordings]
    for step in range(max(map(len, recordings))):
        live = [place for place, recording in enumerate(recordings) if step < len(recording)]
        moments = [recordings[place].observation(step) for place in live]
        observations = {key: np.stack([moment[key] for moment in moments]) for key in moments[0]}
        for place, action in zip(live, policy.act(observations, [ids[place] for place in live])):
            found[place].append(action)
    return [np.array(rows) for rows in found]
