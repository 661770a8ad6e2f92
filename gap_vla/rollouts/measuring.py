"""A policy is shown recorded episodes, and its actions are compared with the recorded ones."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gap_vla.rollouts.policy import MOST_ACTION, Policy, PolicyError, asked, forget
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.recordings import Recording

AT_ONCE = 8
"""Episodes that a policy is asked about together."""

LEAST_STD = 1e-4
"""Recorded actions that vary by no more than this, in their own units, stand still."""


def played(
    policy: Policy, episodes: Sequence[tuple[Recording, Callable[[int], dict[str, Any]]]], first_id: int = 0
) -> list[Float[np.ndarray, "T A"]]:
    """The policy's actions along several episodes at once. It never acts: it sees what was recorded. Warns if it does
    not predict anew at every step.

    Args:
        episodes: of each, the recording and what is observed at a step.
        first_id: number of the first of them for the policy.

    Raises:
        PolicyError: the policy's actions are of another width than the recorded ones, or beyond a hundred times those.
    """
    _warn_of_chunks(policy)
    ids = [first_id + place for place in range(len(episodes))]
    policy.reset(ids)
    found: list[list[np.ndarray]] = [[] for _ in episodes]
    recorded = np.concatenate([recording.action.ravel() for recording, _ in episodes], dtype=np.float64)
    most = max(MOST_ACTION, 100 * float(np.abs(recorded).max(initial=0)))
    for step in range(max(len(recording) for recording, _ in episodes)):
        live = [place for place, (recording, _) in enumerate(episodes) if step < len(recording)]
        moments = [episodes[place][1](step) for place in live]
        shown = [key for key in moments[0] if all(key in moment for moment in moments)]
        observations = {key: np.stack([moment[key] for moment in moments]) for key in shown}
        for place, action in zip(live, asked(policy, observations, [ids[place] for place in live], most)):
            found[place].append(action.copy())  # the policy may fill the same array at its next step
    forget(policy, ids)
    for (recording, _), rows in zip(episodes, found):
        width = recording.action.shape[1]
        for step in [step for step, row in enumerate(rows) if len(row) != width][:1]:
            advice = "give recordings of the policy's own task and robot"
            if step:
                advice = f"before step {step} it gave {len(rows[0])}: repair the policy, or its server"
            wide = f"the policy's actions are {len(rows[step])} wide, the recorded ones {width}"
            raise PolicyError(f"{recording.name}: {wide}; {advice}")
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


def cameras_of(policy: Policy, shown: Collection[str]) -> list[str]:
    """Those of the pictures (keys) that the policy is known to be shown, by its `cameras` or its key file; all of them
    that are sent where nobody knows, or none is its own."""
    own = getattr(policy, "identity", None)
    keys = own.get("keys") if isinstance(own, Mapping) else None
    sent = keys.get("observation") if isinstance(keys, Mapping) else None
    names = [name for name in getattr(policy, "cameras", None) or () if isinstance(name, str)]
    seen = {*names, *(f"image_{name}" for name in names)}
    known = [key for key in shown if (not seen or key in seen) and (sent is None or key in sent)]
    return known or [key for key in shown if sent is None or key in sent]


def require_alike(recordings: Sequence[Recording], cameras: Collection[str]) -> None:
    """Raises EvaluationError if one shows something else than the first one, or in another size, or its pictures of
    these cameras show nothing."""
    first, *others = ({**one.pictures, "proprio": one.proprio} for one in recordings)
    for recording, shown in zip(recordings[1:], others):
        for key, value in {**shown, **first}.items():
            if key not in first or key not in shown or shown[key].shape[1:] != value.shape[1:]:
                lost = f"not in {recordings[0].name}"
                what = f"missing, or of another size than in {recordings[0].name}" if key in first else lost
                raise EvaluationError(f"{recording.name}: {key} is {what}; leave one of them out")
    for recording, camera in itertools.product(recordings, cameras):
        if not np.ptp(recording.images[camera], axis=(0, 1, 2)).any():
            raise EvaluationError(f"{recording.name}: {camera} shows one colour alone; film it again")
    for one, other in itertools.combinations(cameras, 2):
        if all(np.array_equal(recording.images[one], recording.images[other]) for recording in recordings):
            warnings.warn(f"{one} and {other} show the same in all recordings, as of one camera", stacklevel=3)


def in_deviations(recorded: Float[np.ndarray, "T A"], where: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Mean squared distance of two actions, step by step, in standard deviations of the recorded actions.

    Columns that do not vary, by a standard deviation above `LEAST_STD`, are left out. Warns of those that vary by less.

    Args:
        where: the first of the recordings, for the error.

    Raises:
        EvaluationError: none varies, so there is nothing to measure an error in.
    """
    scale = recorded.std(0, dtype=np.float64)  # summed up in float32, what stands still varies by its rounding
    varies = scale > LEAST_STD
    if not varies.any():
        raise EvaluationError(
            f"{where} and on: the recorded actions are all the same; give recordings that move, with a standard "
            f"deviation above {LEAST_STD:g} in one column at least"
        )
    if told := left_out(recorded):
        warnings.warn(f"{where} and on: {told}; give recordings in a smaller unit", stacklevel=3)
    return lambda a, b: (((a - b)[:, varies] / scale[varies]) ** 2).mean(1)


def left_out(recorded: Float[np.ndarray, "T A"]) -> str:
    """Which columns vary, by more than rounding, and still count for nothing; "" where there are none.

    >>> left_out(np.array([[0.0, 0.00002, 0.5], [1.0, 0.00006, 0.5]]))
    'action column 1 (2e-05) varies by a standard deviation of no more than 0.0001, and is left out'
    """
    wide = recorded.astype(np.float64)
    spread, rounding = wide.std(0), 1e-6 * np.maximum(np.abs(wide).max(0), 1)  # also of differences about 0
    columns = np.flatnonzero((spread <= LEAST_STD) & (np.ptp(wide, 0) > rounding))
    named = ", ".join(f"{column} ({spread[column]:.2g})" for column in columns)
    noun, does, is_ = ("columns", "vary", "are") if len(columns) > 1 else ("column", "varies", "is")
    known = f"action {noun} {named} {does} by a standard deviation of no more than {LEAST_STD:g}, and {is_} left out"
    return known if named else ""


def joined(known: Sequence[np.ndarray | None]) -> Bool[np.ndarray, " T"] | None:
    """Which steps of several recordings belong to transitions; None if that is unknown of one of them."""
    split = [steps for steps in known if steps is not None]
    return np.concatenate(split) if len(split) == len(known) else None


def mean_where(values: Float[np.ndarray, " T"], steps: Bool[np.ndarray, " T"] | None) -> float | None:
    """Mean over some steps; None if they are unknown or none."""
    return None if steps is None or not steps.any() else float(values[steps].mean())
