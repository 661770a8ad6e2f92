"""Why one training seed succeeds more often than another: what was measured of each, beside its success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.tables.confirmation import LEVEL, holm
from experiments.tables.looks import Looks, Reader, mean_and_each, within
from experiments.tables.results import BlockResult
from experiments.tables.tables import IN
from gap_vla.drawing.markup import markdown_table

FEWEST = 5
"""Seeds with which a rank correlation is shown."""

MEASURES: Mapping[str, Reader] = {
    "peg before transport: error of its position, mm": within(
        "probe", "positions", "peg", "before transport", "error", scale=1000.0
    ),
    "ring before transport: error of its position, mm": within(
        "probe", "positions", "ring", "before transport", "error", scale=1000.0
    ),
    "error with another episode's pictures, times": within("reliance", "images_swapped", "cost"),
    "error with another episode's proprioception, times": within("reliance", "proprio_swapped", "cost"),
    "loss with vision alone, transitions, first half of training": lambda e, _: e.gradients.get(
        "branch/vision_loss_transition"
    ),
    "gradient of vision, first half of training": lambda e, _: e.gradients.get("branch/vision_gradient"),
}
"""The six that docs/PROTOCOL.md names."""

MEANING = (
    "Mean over seeds (in brackets each seed that was measured, ascending). r: Spearman's rank correlation over "
    "seeds of the measure with success, in the last column of the two differences between the methods; p: exact or by "
    "permutation, two-sided, after Holm's correction over the six measures of its column."
)


def seed_text(result: BlockResult, looks: Looks) -> list[str]:
    """Whether any of the measures goes with success, over seeds; empty while there are too few. The last column is of
    the block's last arm less its first.
    """
    arms = [arm.name for arm in result.block.arms]
    first, last = arms[0], arms[-1]
    found = {arm: {e.seed: (e, looks.of(e)) for e in result.finished if e.arm == arm} for arm in arms}
    seeds = sorted(set.intersection(*(set(of_arm) for of_arm in found.values())))
    if len(seeds) < FEWEST:
        return []
    success = {arm: [float(np.mean([*found[arm][seed][0].variants[IN].values()])) for seed in seeds] for arm in arms}
    columns = [*arms, f"{last} − {first}"]
    success[columns[-1]] = list(np.subtract(success[last], success[first]))
    measured: dict[str, dict[str, list[float | None]]] = {}
    for name, read in MEASURES.items():
        of = {arm: [read(*found[arm][seed]) for seed in seeds] for arm in arms}
        pairs = zip(of[last], of[first], strict=True)
        measured[name] = of | {columns[-1]: [None if a is None or b is None else a - b for a, b in pairs]}
    related: dict[str, dict[str, tuple[float, float]]] = {}
    for column in columns:
        ranks = {name: _rank(values[column], success[column]) for name, values in measured.items()}
        of_column = {name: one for name, one in ranks.items() if one is not None}
        p = holm([p for _, p in of_column.values()], len(MEASURES))
        related[column] = {name: (r, q) for (name, (r, _)), q in zip(of_column.items(), p, strict=True)}
    rows = [["measure", *(f"{arm}: measure" for arm in arms), *(f"{column}: r (p)" for column in columns)]]
    for name, values in measured.items():
        told = [_told(related[column].get(name)) for column in columns]
        if any(told):
            rows.append([name, *(mean_and_each(values[arm], name) for arm in arms), *told])
    if len(rows) == 1:
        return []
    return [_sentence(related, len(seeds)), markdown_table(rows), MEANING]


def _sentence(related: Mapping[str, Mapping[str, tuple[float, float]]], seeds: int) -> str:
    shown = [
        f"{name} ({column}: r {r:+.2f})"
        for column, of_column in related.items()
        for name, (r, p) in of_column.items()
        if p < LEVEL
    ]
    made = len(set().union(*related.values()))
    few = "" if made == len(MEASURES) else f", {made} of them with {FEWEST} values or more"
    what = f"shown to go with success: {'; '.join(shown)}" if shown else "none is shown to go with success"
    return f"{len(MEASURES)} measures over {seeds} seeds{few}: {what}.".replace("-", "−")


def _rank(values: Sequence[float | None], success: Sequence[float]) -> tuple[float, float] | None:
    """Spearman's r of the seeds that were measured, with its p by permutation; None if too few or all equal.

    >>> _rank([1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.2, 0.3, 0.4, 0.9])
    (1.0, 0.0167)
    """
    there = [(value, won) for value, won in zip(values, success, strict=True) if value is not None]
    if len(there) < FEWEST or any(len({*column}) == 1 for column in zip(*there, strict=True)):
        return None
    x, y = (stats.rankdata(column) for column in zip(*there, strict=True))

    def correlation(order: np.ndarray, axis: int = -1) -> Any:
        centred, other = order - order.mean(axis, keepdims=True), y - y.mean()
        return (centred * other).sum(axis) / np.sqrt((centred**2).sum(axis) * (other**2).sum())

    found = stats.permutation_test(
        (x,), correlation, permutation_type="pairings", vectorized=True, n_resamples=9_999, rng=0
    )
    return round(float(found.statistic), 4), round(float(found.pvalue), 4)


def _told(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{found[0]:+.2f} ({found[1]:.2f})".replace("-", "−")
