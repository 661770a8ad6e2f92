"""From the ledger's outcomes to what a table says: success with intervals, and paired differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.tables.cells import Cell
from experiments.tables.ledger import FAILED, FINISHED, Entry, Ledger, Rollouts, Stale
from experiments.tables.tables import Block
from gap_vla.rollouts.statistics import PairedDifference, mean_rate, paired_difference


@dataclasses.dataclass(frozen=True)
class Success:
    """Success of one arm on one variant.

    Attributes:
        per_seed: training seed to rate.
        interval: 95 %, over training seeds (`gap_vla.rollouts.statistics.mean_rate`).
    """

    per_seed: Mapping[int, float]
    successes: int
    episodes: int
    interval: tuple[float, float]

    @property
    def mean(self) -> float:
        """Over the seeds, each counting once."""
        return float(np.mean(list(self.per_seed.values())))


@dataclasses.dataclass(frozen=True)
class Difference:
    """`first` minus `second` on one variant, over the seeds and layouts that both have."""

    first: str
    second: str
    variant: str
    found: PairedDifference


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """What the ledger says about one block.

    Attributes:
        success: arm to variant to success; arms without a finished cell are missing.
        differences: those that can be formed.
        failed: recorded failures.
        missing: cells that have not run.
        stale: entries that are not of today's settings, code or data; they count in nothing.
    """

    block: Block
    success: Mapping[str, Mapping[str, Success]]
    differences: tuple[Difference, ...]
    failed: tuple[Entry, ...]
    missing: tuple[Cell, ...]
    stale: tuple[Stale, ...]
    finished: tuple[Entry, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for entry in self.finished for name in entry.variants))

    def differences_on(self, first: str, second: str) -> dict[str, PairedDifference]:
        return {d.variant: d.found for d in self.differences if (d.first, d.second) == (first, second)}


def analyse(block: Block, cells: Sequence[Cell], ledger: Ledger) -> BlockResult:
    """Reads the entries of one block's cells."""
    found = [(cell, ledger.matching(cell)) for cell in cells if cell.block.name == block.name]
    finished = [entry for _, entry in found if entry is not None and entry.status == FINISHED]
    stale = ledger.stale([cell for cell, _ in found])
    outdated = {one.cell.name for one in stale}
    by_arm = {arm.name: {e.seed: e.variants for e in finished if e.arm == arm.name} for arm in block.arms}
    differences = [
        Difference(first, second, variant, found_one)
        for first, second in pairs_of(block)
        for variant, found_one in differences_of(by_arm.get(first, {}), by_arm.get(second, {})).items()
    ]
    return BlockResult(
        block=block,
        success={arm: success_of(by_seed) for arm, by_seed in by_arm.items() if by_seed},
        differences=tuple(differences),
        failed=tuple(entry for _, entry in found if entry is not None and entry.status == FAILED),
        missing=tuple(cell for cell, entry in found if entry is None and cell.name not in outdated),
        stale=tuple(stale),
        finished=tuple(finished),
    )


def success_of(by_seed: Mapping[int, Mapping[str, Rollouts]]) -> dict[str, Success]:
    """Success on each variant, from training seed to variant to outcomes; every seed has all variants."""
    variants = dict.fromkeys(name for of_seed in by_seed.values() for name in of_seed)
    found = {}
    for variant in variants:
        rollouts = {seed: by_seed[seed][variant] for seed in sorted(by_seed) if variant in by_seed[seed]}
        wins, all_of_them = (sum(getattr(r, what) for r in rollouts.values()) for what in ("successes", "episodes"))
        per_seed = {seed: r.successes / r.episodes for seed, r in rollouts.items()}
        counts = [(r.successes, r.episodes) for r in rollouts.values()]
        found[variant] = Success(per_seed, wins, all_of_them, mean_rate(counts))
    return found


def pairs_of(block: Block) -> list[tuple[str, str]]:
    """Every arm against the reference, then the block's own pairs."""
    against_reference = [(arm.name, block.reference) for arm in block.arms if arm.name != block.reference]
    return list(dict.fromkeys([*against_reference, *block.against]))


def differences_of(
    first: Mapping[int, Mapping[str, Rollouts]], second: Mapping[int, Mapping[str, Rollouts]]
) -> dict[str, PairedDifference]:
    """`first` minus `second` on each variant, over the training seeds and layouts that both have; empty without."""
    seeds = sorted(set(first) & set(second))
    found = {}
    for variant in dict.fromkeys(name for seed in seeds for name in first[seed]):
        both = [seed for seed in seeds if variant in first[seed] and variant in second[seed]]
        rows = [[of[seed][variant].outcomes for seed in both] for of in (first, second)]
        layouts = sorted(set.intersection(*(set(outcomes) for outcomes in (*rows[0], *rows[1])))) if both else []
        if layouts:
            a, b = (np.array([[outcomes[layout] for layout in layouts] for outcomes in some]) for some in rows)
            found[variant] = paired_difference(a, b)
    return found
