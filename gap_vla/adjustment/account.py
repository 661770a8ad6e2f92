"""What ρ takes away from the proprioceptive branch of a run, before its first step: nothing is trained here."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import ConfigError
from gap_vla.phases.targets import is_transition

HARDLY = 0.9
"""Of plain training's crossing share: where so much is left, ρ does next to nothing."""

SILENT = 0.01
"""Mean weight of whole chunks below which the branch learns nothing while GAP acts."""


def target_steps(
    steps: Int[np.ndarray, " B"], ends: Int[np.ndarray, " B"], horizon: int
) -> tuple[Int[np.ndarray, "B H"], Bool[np.ndarray, "B H"]]:
    """The steps that `horizon` actions from each step on are about, at most the episode's last, and whether they are.

    Args:
        ends: of each step's episode, its last step + 1.

    >>> steps, there = target_steps(np.array([0, 1]), np.array([3, 3]), 3)
    >>> steps.tolist(), there.tolist()
    ([[0, 1, 2], [1, 2, 2]], [[True, True, True], [True, True, False]])
    """
    ahead = steps[:, None] + np.arange(horizon)
    return np.minimum(ahead, ends[:, None] - 1), ahead < ends[:, None]


def crossing_shares(
    schedule: AdjustmentSchedule,
    rho: Float[np.ndarray, " S"],
    change_point: Bool[np.ndarray, " S"],
    offsets: Int[np.ndarray, " O"],
    horizon: int,
) -> tuple[float, float, float]:
    """How much of the branch's weight lies on samples whose chunk crosses a change point.

    A sample is a step t with the actions t … t + H - 1 of its episode. It crosses if a change point is among
    t + 1 … t + H - 1. Its weight is GAP's factor: 1 - ρ_t, with `rho="chunk"` the mean over its actions.

    Args:
        rho, change_point: of every step of a split.
        offsets: where its episodes begin, and the end.

    Returns:
        Σ w of the crossing samples / Σ w; the same for plain training, w = 1; the mean of w where the chunk ends within
        its episode.

    Example:
        >>> rho, point = np.array([0.0, 1.0, 1.0, 0.0], np.float32), np.array([False, False, True, False])
        >>> for kind in ("current", "chunk", "chunk_max"):
        ...     print(np.round(crossing_shares(AdjustmentSchedule(rho=kind), rho, point, np.array([0, 4]), 2), 2))
        [0.   0.25 0.33]
        [0.   0.25 0.33]
        [0.   0.25 0.  ]
    """
    steps = np.arange(len(rho))
    targets, there = target_steps(steps, np.repeat(offsets[1:], np.diff(offsets)), horizon)
    passed = np.cumsum(change_point)
    crosses = passed[targets[:, -1]] > passed[steps]
    given = (rho[targets], there) if schedule.of_targets else (rho, None)
    weight = schedule.factors(given[0], 0, 1, given[1]).sample
    weight = np.average(weight, axis=1, weights=there if schedule.per_action else None)
    total, whole = float(weight.sum()), there[:, -1]
    left = float(weight[crosses].sum()) / total if total else 0.0
    return left, float(crosses.mean()), float(weight[whole if whole.any() else ...].mean())


def account(
    schedule: AdjustmentSchedule,
    rho: Float[np.ndarray, " S"],
    change_point: Bool[np.ndarray, " S"] | None,
    offsets: Int[np.ndarray, " O"],
    horizon: int,
) -> list[str]:
    """The lines about a run's ρ; none where it does not act on single samples.

    Args:
        change_point: as of `crossing_shares`; None: the data have none.

    Raises:
        ConfigError: next to nothing is left for the branch to learn, as with `chunk_max` where a chunk is longer than
            every segment.
    """
    if schedule.mode not in ("sample", "sample_lambda") or not schedule.window:
        return []
    rho = np.asarray(rho, np.float32)
    line = f"rho: mean {rho.mean():.3f}, above 0.5 at {is_transition(rho).mean():.0%} of the steps"
    points = np.zeros(len(rho), bool) if change_point is None else np.asarray(change_point, bool)
    share, plain, mean = crossing_shares(schedule, rho, points, offsets, horizon)
    if mean < SILENT:
        raise ConfigError(
            f"with adjustment.rho={schedule.rho} and {horizon} actions at a time the branch has {mean:.3f} of its "
            "weight and would learn nothing while GAP acts; take adjustment.rho=chunk or a shorter model.action_horizon"
        )
    if not plain:
        return [line]
    line += (
        f"; chunks that cross a change point have {share:.0%} of the branch's weight (in plain training {plain:.0%})"
    )
    if share <= HARDLY * plain:
        return [line]
    better = (
        "a wider rho (docs/PHASES.md)" if schedule.rho == "chunk_max" else "adjustment.rho=chunk_max or a wider rho"
    )
    return [line, f"note: that is nearly plain training's share, so this rho does next to nothing; try {better}"]
