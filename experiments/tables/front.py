"""The part of the front page that shows the main results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.pages import FRONT, replace_between
from experiments.tables.confirmation import corrected_comparisons, judged
from experiments.tables.results import BlockResult, verdict
from experiments.tables.tables import IN, Table
from gap_vla.drawing.markup import markdown_table
from gap_vla.report.comparison_render import percents

SHOWN: Mapping[str, tuple[str, ...]] = {
    "confirmation": ("assembly-stock", "disassemble-stock", "bin_picking-stock", "push_wall-near"),
    "octo_confirmation": ("threading", "assembly-stock"),
}
"""Table to its blocks whose results with profile `cpu` stand on the front page."""

QUARTETS = (("v", "vp", "vp_gap", ""), ("vision", "concat", "gap", "lambda_matched"))
"""Methods without proprioception, with it, with GAP, and with a constant λ in its place."""
FRONT_INTERVALS = (
    "Success on layouts like those of the demonstrations, mean over training seeds with a 95 % interval. All methods "
    "of a line played the same layouts. Shown and not shown: by the protocol's rules, t-tests over five seeds with "
    "Holm's correction; behind each claim the difference in points with its 95 % interval, uncorrected."
)
NOTHING = "Too few policies have been trained with today's code to compare methods."


def front_rows(table: Table, results: Sequence[BlockResult]) -> list[tuple[BlockResult, str]]:
    """The table's blocks that stand on the front page, each with what the protocol's rules allow to say of it (empty:
    they say nothing of this table). A cell of the confirmation is left out until all of its seeds are trained.
    """
    if table.shape != "confirmation":
        said = [(result, "") for result in results]
    else:
        found = [judged(one) for one in corrected_comparisons(results)]
        said = [(result, "; ".join(each.short for each in one)) for result, one in zip(results, found) if one]
    return [(result, words) for result, words in said if result.block.name in SHOWN[table.name]]


def write_front_page(rows: Sequence[tuple[BlockResult, str]], page: Path) -> None:
    """A line for each block in which GAP can be compared, once all its seeds are trained; a page without the markers
    stays as it is.

    Args:
        rows: of `front_rows`.
    """
    lines = [["policy", "in words", "images only: success %", "and proprioception", "and GAP", "constant λ for ρ"]]
    for result, said in rows:
        waiting = {cell.arm.name for cell in (*result.missing, *(one.cell for one in result.stale))}
        differences, success = result.found.differences, result.found.success
        for arms in QUARTETS:
            without, proprio, gap, _ = arms
            if differences.get((gap, proprio)) and gap not in waiting:
                shown = [percents(success[arm][IN])[:2] if arm in success else ("", "") for arm in arms]
                pairs = [pair for pair in ((gap, proprio), (without, proprio)) if differences.get(pair)]
                words = said or "; ".join(verdict(*pair, differences[pair][IN]) for pair in pairs)
                policy = "torch policy" if gap == "gap" else "Octo"
                title = ", ".join(dict.fromkeys([result.block.task, policy, result.block.description or policy]))
                lines.append([title, words, *(f"{mean} ({interval})" if mean else "" for mean, interval in shown)])
    text = f"{markdown_table(lines)}\n\n{FRONT_INTERVALS}" if len(lines) > 1 else NOTHING
    replace_between(page, FRONT, text, if_missing="leave")
