"""Ridge regression that is scored on episodes held out, and linear probes of where objects are.

Every step is predicted by a regression that saw no step of its episode (five folds of episodes). The ridge strength is
chosen on the training episodes alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import Ridge

from gap_vla.core.errors import UserError

FOLDS = 5
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Ridge strengths tried, in units of the number of training steps."""


def probe_positions(
    features: Float[np.ndarray, "n d"], positions: Float[np.ndarray, "n k"], episodes: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Reads positions (m) off features, one row per step; `episodes` is the number of each row's episode.

    Returns:
        On held-out episodes, `error`: mean distance in m, and `mean_error`: the same when the training episodes' mean
        is guessed.
    """
    guessed = np.empty_like(positions, float)
    for train, test in folds(episodes):
        guessed[test] = positions[train].mean(0, dtype=np.float64)
    residual = ((positions - held_out(features, positions, episodes)) ** 2).sum(1)
    total = ((positions - guessed) ** 2).sum(1)
    return {"error": float(np.sqrt(residual).mean()), "mean_error": float(np.sqrt(total).mean())}


def held_out(
    features: Float[np.ndarray, "n d"], target: Float[np.ndarray, "n k"], episodes: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n k"]:
    """Every row's target as a regression predicts it that saw no row of its episode."""
    predicted = np.empty_like(target, float)
    for train, test in folds(episodes):
        predicted[test] = _fit_predict(features[train], target[train], episodes[train], features[test])
    return predicted


def folds(episodes: Int[np.ndarray, " n"]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to predict, five times; no episode is in both. Raises UserError: too few episodes."""
    names = np.unique(episodes)
    if len(names) < FOLDS:
        raise UserError(f"{len(names)} episode(s); a probe needs {FOLDS} or more, to hold some out")
    parts = np.array_split(np.random.default_rng(0).permutation(names), FOLDS)
    return [(np.flatnonzero(~np.isin(episodes, part)), np.flatnonzero(np.isin(episodes, part))) for part in parts]


def _fit_predict(
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
    features, asked = features.astype(float), asked.astype(float)
    mean, scale = features.mean(0), features.std(0)
    scale = np.maximum(scale, max(scale.max() / 100, 1e-12))
    x, z = ((some - mean) / scale for some in (features, asked))
    return [Ridge(strength * len(x)).fit(x, target).predict(z).reshape(len(z), -1) for strength in strengths]
