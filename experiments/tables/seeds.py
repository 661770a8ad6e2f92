"""Why one training seed succeeds more often than another: what was measured of each, beside its success."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from experiments.tables.confirmation import holm
from experiments.tables.results import BlockResult
from gap_vla.drawing.markup import markdown_table

FEWEST = 5
"""Seeds with which a rank correlation is shown."""

MEASURES = {
    "peg_error_mm": "peg before transport: error of its position, mm",
    "ring_error_mm": "ring before transport: error of its position, mm",
    "images_swapped": "error with another episode's pictures, times",
    "proprio_swapped": "error with another episode's proprioception, times",
    "vision_loss_transition": "loss with vision alone, transitions, first half of training",
    "vision_gradient": "gradient of vision, first half of training",
}
"""The six that docs/PROTOCOL.md names: columns of the table of cells."""

MEANING = (
    "Mean over seeds (in brackets each seed that was measured, ascending). r: Spearman's rank correlation over "
    "seeds of the measure with success, in the last column of the two differences between the methods; p: exact or by "
    "permutation, two-sided, after Holm's correction over the six measures of its column."
)


def seed_text(result: BlockResult) -> list[str]:
    """Whether any of the measures goes with success, over seeds; empty while there are too few."""
    arms = [arm.name for arm in result.block.arms]
    frame = pd.DataFrame(result.rows)
    if frame.empty or frame.groupby("arm")["seed"].count().min() < FEWEST:
        return []
    frame["success"] = frame["successes_default"] / frame["outcomes_default"].str.len()
    wide = frame.set_index(["seed", "arm"])[[*MEASURES, "success"]].astype(float).unstack("arm").sort_index()
    first, last = arms[0], arms[-1]
    columns = [*arms, f"{last} − {first}"]
    for name in (*MEASURES, "success"):
        wide[name, columns[-1]] = wide[name, last] - wide[name, first]
    ranks = {(name, c): _rank(wide[name, c], wide["success", c]) for name in MEASURES for c in columns}
    found: dict[tuple[str, str], str] = {}
    for column in columns:
        told = {name: one for name in MEASURES if (one := ranks[name, column])}
        for (name, (r, _)), p in zip(told.items(), holm([p for _, p in told.values()], len(MEASURES))):
            found[name, column] = f"{r:+.2f} ({p:.2f})"
    rows = [["measure", *(f"{arm}: measure" for arm in arms), *(f"{column}: r (p)" for column in columns)]]
    for name, heading in MEASURES.items():
        if any((name, column) in found for column in columns):
            means = [mean_and_each(list(wide[name, arm].dropna()), heading) for arm in arms]
            rows.append([heading, *means, *(found.get((name, column), "") for column in columns)])
    return [markdown_table([[text.replace("-", "−") for text in row] for row in rows]), MEANING]


def _rank(values: pd.Series, success: pd.Series) -> tuple[float, float] | None:
    """Spearman's r of the seeds that were measured, with its p by permutation; None if too few or all equal.

    >>> _rank(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0]), pd.Series([0.1, 0.2, 0.3, 0.4, 0.9]))
    (1.0, 0.0167)
    """
    there = values.notna() & success.notna()
    if there.sum() < FEWEST or min(values[there].nunique(), success[there].nunique()) == 1:
        return None
    x, y = stats.rankdata(values[there]), stats.rankdata(success[there])
    found = stats.permutation_test(
        (x,),
        lambda order, axis: stats.pearsonr(order, y, axis=axis).statistic,
        permutation_type="pairings",
        n_resamples=9_999,
        rng=0,
    )
    return round(float(found.statistic), 4), round(float(found.pvalue), 4)


def mean_and_each(values: Sequence[float], heading: str) -> str:
    """
    >>> mean_and_each([10.04, 12.0], "error, mm"), mean_and_each([0.25], "R²"), mean_and_each([], "R²")
    ('11.0 (10.0, 12.0)', '0.25', '')
    """
    digits = 1 if heading.endswith("mm") else 2
    if not len(values):
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ({', '.join(f'{value:.{digits}f}' for value in values)})" if len(values) > 1 else mean
