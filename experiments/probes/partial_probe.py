"""What frozen features tell beyond proprioception: probes of what a known covariate leaves open.

A feature that only repeats where the hand is may predict where a carried object is, and says nothing of the pictures.
Here target and features are first predicted from the covariate and replaced by what is left (fitted on the training
episodes), and only then is one read off the other.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from experiments.probes.linear_probe import bootstrap, fit_predict, folds


@dataclasses.dataclass(frozen=True)
class PartialProbe:
    """How well a target can be read off features where a covariate is known already, on held-out episodes.

    Attributes:
        r2: share that the features explain of the target's variance which the covariate leaves; 0 or less: nothing.
        r2_interval: 95 %, bootstrapped over episodes.
        error: mean distance (units of the target) with covariate and features.
        covariate_error: the same with the covariate alone.
        steps, episodes: what was predicted.
    """

    r2: float
    r2_interval: tuple[float, float]
    error: float
    covariate_error: float
    steps: int
    episodes: int


def probe_beyond(
    features: Float[np.ndarray, "n d"],
    target: Float[np.ndarray, "n k"],
    covariate: Float[np.ndarray, "n c"],
    episodes: Int[np.ndarray, " n"],
    *,
    seed: int = 0,
) -> PartialProbe:
    """Reads off features what the covariate, its squares and its products do not tell linearly, one row per step.

    Args:
        episodes: number of each row's episode.

    Raises:
        ProbeError: too few episodes.
    """
    known = quadratic(covariate)
    alone, both = np.empty_like(target, float), np.empty_like(target, float)
    for train, test in folds(episodes, seed):
        of_train = known[train], episodes[train]

        def predicted(what: np.ndarray, asked: np.ndarray, of: tuple[np.ndarray, np.ndarray] = of_train) -> np.ndarray:
            return fit_predict(of[0], what, of[1], asked, seed)

        left = target[train] - predicted(target[train], known[train])
        own, others = (features[rows] - predicted(features[train].astype(float), known[rows]) for rows in (train, test))
        alone[test] = predicted(target[train], known[test])
        both[test] = alone[test] + fit_predict(own, left, episodes[train], others, seed)
    residual, total = ((target - both) ** 2).sum(1), ((target - alone) ** 2).sum(1)

    def r2(rows: Int[np.ndarray, " m"]) -> float:
        return float(1 - residual[rows].sum() / max(total[rows].sum(), 1e-12))

    return PartialProbe(
        r2=r2(np.arange(len(target))),
        r2_interval=bootstrap(r2, episodes, seed),
        error=float(np.linalg.norm(target - both, axis=1).mean()),
        covariate_error=float(np.linalg.norm(target - alone, axis=1).mean()),
        steps=len(target),
        episodes=len(np.unique(episodes)),
    )


def quadratic(values: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n m"]:
    """The standardised columns, their squares and their products; columns that do not vary are left out.

    >>> quadratic(np.array([[-1.0, 5.0], [1.0, 5.0]])).tolist()
    [[-1.0, 1.0], [1.0, 1.0]]
    """
    spread = values.std(0)
    columns = ((values - values.mean(0)) / np.where(spread > 1e-6, spread, 1.0))[:, spread > 1e-6].astype(float)
    first, second = np.triu_indices(columns.shape[1])
    return np.concatenate([columns, columns[:, first] * columns[:, second]], axis=1)
