"""The rules of docs/PROTOCOL.md: what the cells of the confirmation allow to say, after Holm's correction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from experiments.tables.results import BlockResult
from experiments.tables.tables import IN
from gap_vla.drawing.markup import markdown_table
from gap_vla.rollouts.statistics import PairedDifference, points

BLOCKS = 4
"""Cells of the confirmation. Those that have not run yet count in the correction, so that it only becomes milder."""

SEEDS = 5
"""Of a cell of the confirmation. Before all of them have been trained nothing is said: two may agree by chance."""

HURTS = ("vision", "concat")
REPAIRS = ("gap", "concat")
CONTROLS = (("gap", "lambda_matched"), ("gap", "gap_shuffled"))
FAMILIES = ((HURTS,), (REPAIRS,), CONTROLS)
"""Comparisons that are corrected together, over all cells."""

LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A comparison in one cell of the confirmation.

    Attributes:
        p: two-sided, of a t-test over the seeds' differences, after Holm's correction.
    """

    found: PairedDifference
    p: float

    @property
    def above(self) -> bool:
        return self.found.difference > 0 and self.p < LEVEL

    @property
    def below(self) -> bool:
        return self.found.difference < 0 and self.p < LEVEL

    def __str__(self) -> str:
        low, high = (points(end) for end in self.found.interval)
        return f"{points(self.found.difference)} points ({low} to {high}; p = {self.p:.2g} after correction)"


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
    """Holm's corrected p-values, in the order given.

    Args:
        p: of the comparisons made so far.
        family: how many there will be; those that are missing count as if they showed nothing.

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


def sentences(found: dict[tuple[str, str], Corrected]) -> list[str]:
    """What the rules allow to say about one cell."""
    said = []
    hurts, repairs = found.get(HURTS), found.get(REPAIRS)
    controls = [found[pair] for pair in CONTROLS if pair in found]
    if hurts:
        said.append(f"That proprioception hurts here is {_shown(hurts.above)}: V − VP = {hurts}.")
    if repairs:
        harms = "GAP harms here" if repairs.below else ""
        repaired = f"That GAP repairs it is {_shown(repairs.above and hurts is not None and hurts.above)}"
        said.append(f"{harms or repaired}: GAP − VP = {repairs}.")
    if repairs and controls:
        reason = repairs.above and bool(hurts and hurts.above) and len(controls) == len(CONTROLS)
        reason = reason and all(one.above for one in controls)
        beside = " and ".join(f"{one} beside `{pair[1]}`" for pair, one in found.items() if pair in CONTROLS)
        said.append(f"That the steps which ρ marks are the reason is {_shown(reason)}: {beside}.")
    return said


def _shown(yes: bool) -> str:
    return "shown" if yes else "not shown"


def confirmation_text(results: Sequence[BlockResult]) -> list[str]:
    """A line for each cell of which seeds have been trained; what the rules allow to say when all of them have."""
    rows = [["cell", "what may be said"]]
    for result, found in zip(results, corrected_comparisons(results), strict=True):
        if found:
            seeds = {one.found.seeds for one in found.values()}
            early = f"Nothing yet: {min(seeds)} of {SEEDS} seeds have been trained." if min(seeds) < SEEDS else ""
            rows.append([f"{result.block.task}, {result.block.description}", early or " ".join(sentences(found))])
    return [markdown_table(rows)] if len(rows) > 1 else []
