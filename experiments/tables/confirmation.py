"""The rules of docs/PROTOCOL.md: what the cells of the confirmation allow to say, after Holm's correction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from experiments.tables.results import BlockResult
from experiments.tables.tables import FRESH_SEEDS, IN
from gap_vla.drawing.markup import markdown_table
from gap_vla.report.comparison import in_points
from gap_vla.rollouts.statistics import PairedDifference

BLOCKS = 4
"""Cells of the confirmation. Those that have not run yet count in the correction, so that it only becomes milder."""

HURTS = ("vision", "concat")
REPAIRS = ("gap", "concat")
CONTROLS = (("gap", "lambda_matched"), ("gap", "gap_shuffled"))
FAMILIES = ((HURTS,), (REPAIRS,), CONTROLS)
"""Comparisons that are corrected together, over all cells."""

NAMES = {
    HURTS: "V − VP",
    REPAIRS: "GAP − VP",
    CONTROLS[0]: "GAP − `lambda_matched`",
    CONTROLS[1]: "GAP − `gap_shuffled`",
}

LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A comparison in one cell of the confirmation, with the two-sided p of a t-test over the seeds' differences, after
    Holm's correction."""

    found: PairedDifference
    p: float

    @property
    def above(self) -> bool:
        return self.found.interval[0] > 0 and self.p < LEVEL

    @property
    def below(self) -> bool:
        return self.found.interval[1] < 0 and self.p < LEVEL


def p_of_seeds(per_seed: Sequence[float]) -> float:
    """Two-sided p-value of Student's t-test that the mean over seeds is 0; 1 where a single seed allows none.

    >>> round(p_of_seeds([0.18, 0.02, 0.05]), 2)
    0.23
    """
    if len(per_seed) < 2:
        return 1.0
    if np.ptp(per_seed) == 0:
        return float(per_seed[0] == 0)
    return float(stats.ttest_1samp(per_seed, 0.0).pvalue)


def holm(p: Sequence[float], family: int) -> list[float]:
    """Holm's corrected p-values, in the order given, where `family` comparisons will be made; those that are missing
    count as if they showed nothing.

    >>> holm([0.01, 0.04, 0.03], family=4)
    [0.04, 0.09, 0.09]
    """
    corrected, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, p[place] * (family - rank)))
        corrected[place] = highest
    return corrected


def corrected_comparisons(results: Sequence[BlockResult]) -> list[dict[tuple[str, str], Corrected]]:
    """For each block its comparisons on layouts like those of the demonstrations, as far as they have been made."""
    found: list[dict[tuple[str, str], Corrected]] = [{} for _ in results]
    for pairs in FAMILIES:
        made = [
            (place, pair, result.found.differences[pair][IN])
            for place, result in enumerate(results)
            for pair in pairs
            if IN in result.found.differences.get(pair, {})
        ]
        corrected = holm([p_of_seeds(one.per_seed) for *_, one in made], BLOCKS * len(pairs))
        for (place, pair, one), p in zip(made, corrected, strict=True):
            found[place][pair] = Corrected(one, p)
    return found


def judged(found: Mapping[tuple[str, str], Corrected]) -> dict[str, bool]:
    """Each claim about one cell, and whether it is shown; empty before all of its seeds have been trained."""
    if {HURTS, REPAIRS, *CONTROLS} - {*found} or min(one.found.seeds for one in found.values()) < len(FRESH_SEEDS):
        return {}
    hurts, repairs = found[HURTS].above, found[REPAIRS].above
    return {
        "proprioception hurts here": hurts,
        "GAP repairs it": hurts and repairs,
        "GAP harms here": found[REPAIRS].below,
        "the steps which ρ marks are the reason": hurts and repairs and all(found[pair].above for pair in CONTROLS),
    }


def confirmation_text(results: Sequence[BlockResult]) -> list[str]:
    """A line for each comparison in each cell, and what the rules allow to say of the cells."""
    rows = [["cell", "difference", "points", "95 % interval", "p after Holm"]]
    claims = [["cell", "shown", "not shown"]]
    for result, found in zip(results, corrected_comparisons(results), strict=True):
        cell = f"{result.block.task}, {result.block.description}"
        for pair, one in found.items():
            rows.append([cell, NAMES[pair], *in_points(one.found)[:2], f"{one.p:.2g}"])
        if said := judged(found):
            claims.append(
                [cell, *("; ".join(c for c, is_so in said.items() if is_so is shown) for shown in (True, False))]
            )
    return [markdown_table(part) for part in (claims, rows) if len(part) > 1]
