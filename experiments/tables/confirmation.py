"""The rules of docs/PROTOCOL.md: what the cells of the confirmation allow to say, after Holm's correction."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from experiments.tables.results import BlockResult
from experiments.tables.tables import IN
from gap_vla.drawing.markup import markdown_table
from gap_vla.report.comparison_render import in_points
from gap_vla.rollouts.statistics import OutcomesError, PairedDifference

BLOCKS = 4
"""Cells of the confirmation. Those that have not run yet count in the correction, so that it only becomes milder."""

SEEDS = 5
"""Of a cell of the confirmation. Before all of them have been trained nothing is said: two may agree by chance."""

NUMBERS = ("none", "one", "two", "three", "four")

HURTS = ("vision", "concat")
REPAIRS = ("gap", "concat")
CONTROLS = (("gap", "lambda_matched"), ("gap", "gap_shuffled"))
FAMILIES = ((HURTS,), (REPAIRS,), CONTROLS)
"""Comparisons that are corrected together, over all cells."""

LEVEL = 0.05

HURTS_HERE, REPAIRED, HARMED = "proprioception hurts here", "GAP repairs it", "GAP harms here"
REASON = "the steps which ρ marks are the reason"
COLUMNS = {HURTS_HERE: 0, REPAIRED: 1, HARMED: 1, REASON: 2}
"""Claims about a cell, and which of the front page's three columns of claims they stand in."""


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A comparison in one cell of the confirmation, with the two-sided p of a t-test over the seeds' differences, after
    Holm's correction.
    """

    found: PairedDifference
    p: float

    @property
    def above(self) -> bool:
        return self.found.interval[0] > 0 and self.p < LEVEL

    @property
    def below(self) -> bool:
        return self.found.interval[1] < 0 and self.p < LEVEL

    def __str__(self) -> str:
        mean, interval, _ = in_points(self.found)
        return f"{mean} points ({interval}; p = {self.p:.2g} after correction)"

    @property
    def short(self) -> str:
        return "{} ({})".format(*in_points(self.found))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the rules say about one claim in one cell of the confirmation."""

    claim: str
    shown: bool
    comparisons: Mapping[str, Corrected]

    def __str__(self) -> str:
        figures = ", ".join(f"{name} = {one}" for name, one in self.comparisons.items())
        return f"That {self.claim} is {self._shown}: {figures}."

    @property
    def short(self) -> str:
        """For a narrow column that says which claim it is about, without the p-values."""
        harm = "harms, " if self.claim == HARMED else ""
        return f"{harm}{self._shown}: {', '.join(one.short for one in self.comparisons.values())}"

    @property
    def _shown(self) -> str:
        return "shown" if self.shown else "not shown"


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
    count as if they showed nothing. Raises OutcomesError: there are more than those.

    >>> holm([0.01, 0.04, 0.03], family=4)
    [0.04, 0.09, 0.09]
    """
    if len(p) > family:
        raise OutcomesError(f"{len(p)} comparisons of a family of {family}; count all that are made")
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


def seeds_of(found: Mapping[tuple[str, str], Corrected]) -> int:
    """How many seeds all comparisons of one cell rest on at least."""
    return min((one.found.seeds for one in found.values()), default=0)


def judged(found: Mapping[tuple[str, str], Corrected]) -> list[Judgement]:
    """What the rules allow to say about one cell; nothing before all of its seeds have been trained."""
    if seeds_of(found) < SEEDS:
        return []
    said = []
    hurts, repairs = found.get(HURTS), found.get(REPAIRS)
    controls = {f"GAP − `{pair[1]}`": one for pair, one in found.items() if pair in CONTROLS}
    repaired = bool(repairs and repairs.above and hurts and hurts.above)
    if hurts:
        said.append(Judgement(HURTS_HERE, hurts.above, {"V − VP": hurts}))
    if repairs and repairs.below:
        said.append(Judgement(HARMED, True, {"GAP − VP": repairs}))
    elif repairs:
        said.append(Judgement(REPAIRED, repaired, {"GAP − VP": repairs}))
    if repairs and controls:
        reason = repaired and len(controls) == len(CONTROLS) and all(one.above for one in controls.values())
        said.append(Judgement(REASON, reason, controls))
    return said


def counted(results: Sequence[BlockResult]) -> str:
    """In how many cells what is shown; empty before all that is compared in them has been trained."""
    made = corrected_comparisons(results)
    said = [judged(found) for found in made]
    if len(said) < BLOCKS or not all(said) or any({*itertools.chain(*FAMILIES)} - {*found} for found in made):
        return ""
    shown = [one.claim for of_cell in said for one in of_cell if one.shown]
    hurts, repaired, reason, harmed = (NUMBERS[shown.count(claim)] for claim in (HURTS_HERE, REPAIRED, REASON, HARMED))
    return (
        f"Of {NUMBERS[BLOCKS]} places, proprioception is shown to hurt in {hurts}, GAP to repair it in {repaired} and "
        f"to harm in {harmed}; that the steps which ρ marks are the reason is shown in {reason}."
    )


def confirmation_text(results: Sequence[BlockResult]) -> list[str]:
    """A line for each cell of which seeds have been trained, and what all of them say once they are complete."""
    rows = [["cell", "what may be said"]]
    for result, found in zip(results, corrected_comparisons(results), strict=True):
        if found:
            early = f"Nothing yet: {seeds_of(found)} of {SEEDS} seeds have been trained."
            words = " ".join(map(str, judged(found))) or early
            rows.append([f"{result.block.task}, {result.block.description}", words])
    return [markdown_table(rows), *filter(None, [counted(results)])] if len(rows) > 1 else []
