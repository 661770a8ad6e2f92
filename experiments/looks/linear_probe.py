"""Linear probes: how much of the scene can be read off frozen features by a linear map, on episodes held out.

Every step is predicted by a probe that saw no step of its episode (five folds of episodes). The ridge strength is
chosen on the training episodes alone. A feature that only repeats where the hand is may predict where a carried object
is; `probe_beyond` first takes away from target and features what is known already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gap_vla.core.errors import UserError

FOLDS = 5
DRAWS = 400
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Ridge strengths tried, in units of the number of training steps."""


def probe_positions(
    features: Float[np.ndarray, "n d"], positions: Float[np.ndarray, "n k"], episodes: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """Reads positions (m) off features, one row per step; `episodes` is the number of each row's episode.

    Returns:
        On held-out episodes, `r2`: share of the positions' variance (about the training episodes' mean) that is
        explained, negative: worse than that mean; `r2_interval`: 95 %, bootstrapped over episodes; `error`: mean
        distance in m, `mean_error`: the same when that mean is guessed; `steps` and `episodes` that were predicted.
    """
    predicted, guessed = np.empty_like(positions, float), np.empty_like(positions, float)
    for train, test in folds(episodes):
        predicted[test] = fit_predict(features[train], positions[train], episodes[train], features[test])
        guessed[test] = positions[train].mean(0, dtype=np.float64)
    return _explained(positions, predicted, guessed, episodes, "mean_error")


def probe_switches(
    features: Float[np.ndarray, "n d"], near: Bool[np.ndarray, " n"], episodes: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """Tells steps near a switch of phase from others by a linear score (ridge regression on the two classes).

    Returns:
        On held-out episodes, `auc`: probability that a step near a switch scores higher than another one; its
        `auc_interval`; `balanced_accuracy`: mean of both classes' hit rates, at the threshold that balances the
        training episodes; `share` of steps near a switch; `steps`, `episodes`.
    """
    score, said = np.empty(len(near)), np.empty(len(near), bool)
    target = np.where(near, 1 - near.mean(), -near.mean())[:, None]
    for train, test in folds(episodes):
        own = fit_predict(features[train], target[train], episodes[train], features[train])[:, 0]
        score[test] = fit_predict(features[train], target[train], episodes[train], features[test])[:, 0]
        threshold = (own[near[train]].mean() + own[~near[train]].mean()) / 2
        said[test] = score[test] > threshold

    def area(rows: Int[np.ndarray, " m"]) -> float:
        return _auc(score[rows], near[rows])

    return {
        "auc": area(np.arange(len(score))),
        "auc_interval": _bootstrap(area, episodes),
        "balanced_accuracy": float((said[near].mean() + (~said[~near]).mean()) / 2),
        "share": float(near.mean()),
        "steps": len(score),
        "episodes": len(np.unique(episodes)),
    }


def _explained(
    target: np.ndarray, predicted: np.ndarray, guessed: np.ndarray, episodes: np.ndarray, guess: str
) -> dict[str, Any]:
    """R²: the share of the variance about the guess that the prediction explains; mean distances, `guess` of that."""
    residual, total = ((target - predicted) ** 2).sum(1), ((target - guessed) ** 2).sum(1)

    def r2(rows: Int[np.ndarray, " m"]) -> float:
        return float(1 - residual[rows].sum() / max(total[rows].sum(), 1e-12))

    return {
        "r2": r2(np.arange(len(target))),
        "r2_interval": _bootstrap(r2, episodes),
        "error": float(np.linalg.norm(target - predicted, axis=1).mean()),
        guess: float(np.linalg.norm(target - guessed, axis=1).mean()),
        "steps": len(target),
        "episodes": len(np.unique(episodes)),
    }


def folds(episodes: Int[np.ndarray, " n"]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to predict, five times; no episode is in both. Raises UserError: too few episodes."""
    names = np.unique(episodes)
    if len(names) < FOLDS:
        raise UserError(f"{len(names)} episode(s); a probe needs {FOLDS} or more, to hold some out")
    parts = np.array_split(np.random.default_rng(0).permutation(names), FOLDS)
    return [(np.flatnonzero(~np.isin(episodes, part)), np.flatnonzero(np.isin(episodes, part))) for part in parts]


def fit_predict(
    features: np.ndarray, target: np.ndarray, episodes: np.ndarray, asked: np.ndarray
) -> Float[np.ndarray, "m k"]:
    """Ridge regression with the strength that predicts a fifth of the training episodes best."""
    names = np.random.default_rng([0, 1]).permutation(np.unique(episodes))
    held = np.isin(episodes, names[: max(len(names) // 5, 1)])
    tried = _ridge(features[~held], target[~held], features[held], STRENGTHS)
    best = int(np.argmin([((found - target[held]) ** 2).sum() for found in tried]))
    return _ridge(features, target, asked, STRENGTHS[best : best + 1])[0]


def _ridge(
    features: np.ndarray, target: np.ndarray, asked: np.ndarray, strengths: Sequence[float]
) -> list[Float[np.ndarray, "m k"]]:
    """Predictions for `asked`, one for each strength; features are standardised, by no scale smaller than a hundredth
    of the largest: one that hardly varies in training could be anything in a held-out episode. The mean is not
    penalised.
    """
    features, target, asked = (some.astype(float) for some in (features, target, asked))
    mean, scale, offset = features.mean(0), features.std(0), target.mean(0)
    scale = np.maximum(scale, max(scale.max() / 100, 1e-12))
    x, z = ((some - mean) / scale for some in (features, asked))
    values, vectors = np.linalg.eigh(x.T @ x)
    moved = vectors.T @ (x.T @ (target - offset))
    return [offset + z @ (vectors @ (moved / (values + s * len(x))[:, None])) for s in strengths]


def _auc(score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve, from ranks; ties count half. NaN with one class only.

    >>> _auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


def _bootstrap(statistic: Callable[[np.ndarray], float], episodes: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """95 % interval of `statistic(rows)`, drawing whole episodes."""
    names = np.unique(episodes)
    rows_of = {name: np.flatnonzero(episodes == name) for name in names}
    rng = np.random.default_rng([0, 2])
    found = [statistic(np.concatenate([rows_of[n] for n in rng.choice(names, len(names))])) for _ in range(DRAWS)]
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def probe_beyond(
    features: Float[np.ndarray, "n d"],
    target: Float[np.ndarray, "n k"],
    covariate: Float[np.ndarray, "n c"],
    episodes: Int[np.ndarray, " n"],
) -> dict[str, Any]:
    """Reads off features what the covariate, its squares and its products do not tell linearly, one row per step.

    Returns:
        On held-out episodes, `r2`: share that the features explain of the target's variance which the covariate
        leaves, 0 or less: nothing; `r2_interval`; `error`: mean distance (units of the target) with covariate and
        features, `covariate_error`: with the covariate alone; `steps`, `episodes`.
    """
    known = quadratic(covariate)
    alone, both = np.empty_like(target, float), np.empty_like(target, float)
    for train, test in folds(episodes):
        of_train = known[train], episodes[train]

        def predicted(what: np.ndarray, asked: np.ndarray, of: tuple[np.ndarray, np.ndarray] = of_train) -> np.ndarray:
            return fit_predict(of[0], what, of[1], asked)

        left = target[train] - predicted(target[train], known[train])
        own, others = (features[rows] - predicted(features[train].astype(float), known[rows]) for rows in (train, test))
        alone[test] = predicted(target[train], known[test])
        both[test] = alone[test] + fit_predict(own, left, episodes[train], others)
    return _explained(target, both, alone, episodes, "covariate_error")


def quadratic(values: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n m"]:
    """The standardised columns, their squares and their products; columns that do not vary are left out.

    >>> quadratic(np.array([[-1.0, 5.0], [1.0, 5.0]])).tolist()
    [[-1.0, 1.0], [1.0, 1.0]]
    """
    values = values.astype(float)  # summed up in float32, what stands still varies by its rounding
    spread = values.std(0)
    columns = ((values - values.mean(0)) / np.where(spread > 1e-6, spread, 1.0))[:, spread > 1e-6]
    first, second = np.triu_indices(columns.shape[1])
    return np.concatenate([columns, columns[:, first] * columns[:, second]], axis=1)
