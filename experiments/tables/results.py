"""What the ledger says about a block of a table, and what that allows to say in sentences that fit the intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments.tables.cells import Cell
from experiments.tables.ledger import FAILED, FINISHED, Entry, Ledger, Stale
from experiments.tables.tables import IN, Block
from gap_vla.report.comparison import Comparison, compare, words
from gap_vla.report.comparison_render import in_points
from gap_vla.rollouts.statistics import PairedDifference

CLOSE = 0.05
"""Methods whose difference lies within this are called as good as each other."""


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """What the ledger says about one block: success of the arms and their differences, failures, cells that have not
    run, entries that are not of today's settings, code or data and count in nothing, and those that do.
    """

    block: Block
    found: Comparison
    failed: tuple[Entry, ...]
    missing: tuple[Cell, ...]
    stale: tuple[Stale, ...]
    finished: tuple[Entry, ...]


def analyse(block: Block, cells: Sequence[Cell], ledger: Ledger) -> BlockResult:
    """Reads the entries of one block's cells. Raises LedgerError: one is damaged, or a copy of another seed's."""
    own = [cell for cell in cells if cell.block.name == block.name]
    read = [(cell, *ledger.judged(cell)) for cell in own]
    found = [(cell, None if reasons else entry) for cell, entry, reasons in read]
    finished = [entry for _, entry in found if entry is not None and entry.status == FINISHED]
    stale = [Stale(cell, entry, reasons) for cell, entry, reasons in read if entry is not None and reasons]
    outdated = {one.cell.name for one in stale}
    by_arm = {arm.name: {e.seed: e.variants for e in finished if e.arm == arm.name} for arm in block.arms}
    compared = compare(by_arm, [pair for pair in pairs_of(block) if {*pair} <= by_arm.keys()])
    cut_short = {arm: sum(sum(e.simulator_errors.values()) for e in finished if e.arm == arm) for arm in by_arm}
    return BlockResult(
        block=block,
        found=dataclasses.replace(compared, simulator_errors=cut_short),
        failed=tuple(entry for _, entry in found if entry is not None and entry.status == FAILED),
        missing=tuple(cell for cell, entry in found if entry is None and cell.name not in outdated),
        stale=tuple(stale),
        finished=tuple(finished),
    )


def demonstrations(entries: Sequence[Entry]) -> list[set[Any]]:
    """Of each training seed, the contents of the demonstrations that its cells were trained on."""
    seeds = dict.fromkeys(entry.seed for entry in entries)
    return [{entry.origin.get("episodes") for entry in entries if entry.seed == seed} for seed in seeds]


def unlike(entries: Sequence[Entry]) -> bool:
    """Whether cells of one seed were trained on different demonstrations."""
    return any(len(of_seed) > 1 for of_seed in demonstrations(entries))


def pairs_of(block: Block) -> list[tuple[str, str]]:
    """Every arm against the reference, then the block's own pairs."""
    against_reference = [(arm.name, block.reference) for arm in block.arms if arm.name != block.reference]
    return list(dict.fromkeys([*against_reference, *block.against]))


def verdict(first: str, second: str, found: PairedDifference) -> str:
    """One sentence about `first` beside `second`.

    >>> verdict("gap", "concat", PairedDifference(0.083, (-0.13, 0.29), 1e-6, (0.18, 0.02, 0.05), 3, 100))
    'undecided between `gap` and `concat`: +8 points (−13 to +29 over 3 seeds)'
    """
    low, high = found.interval
    figures = "{} points ({}".format(*in_points(found))
    often = "more" if low > 0 else "less"
    if found.seeds < 2:
        figures += " for these two policies)"
        if low > 0 or high < 0:
            return f"with one seed each, `{first}` succeeded {often} often than `{second}`: {figures}"
        return f"with one seed each, undecided between `{first}` and `{second}`: {figures}"
    figures += f" over {found.seeds} seeds)"
    if -CLOSE <= low and high <= CLOSE:
        return f"`{first}` is as good as `{second}`: {figures}"
    if low > 0 or high < 0:
        return f"`{first}` succeeds {often} often than `{second}`: {figures}"
    return f"undecided between `{first}` and `{second}`: {figures}"


def verdicts(result: BlockResult) -> list[str]:
    """One line for each variant: its differences in words."""
    differences = result.found.differences
    lines = []
    for variant in result.found.variants:
        found = [(pair, differences.get(pair, {}).get(variant)) for pair in pairs_of(result.block)]
        sentences = [verdict(*pair, one) for pair, one in found if one is not None]
        if sentences:
            where = "On layouts like those of the demonstrations" if variant == IN else f"On {words(variant)}"
            lines.append(f"{where}: {'; '.join(sentences)}.")
    return lines
