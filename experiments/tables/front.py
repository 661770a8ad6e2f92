"""The part of the front page that shows the main results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.pages import FRONT, replace_between
from experiments.tables.confirmation import COLUMNS, Judgement, corrected_comparisons, judged
from experiments.tables.results import BlockResult, unlike
from experiments.tables.tables import IN, ON_FRONT_PAGE, Table
from gap_vla.drawing.markup import markdown_table
from gap_vla.report.comparison_render import in_points, percents
from gap_vla.rollouts.statistics import PairedDifference

QUARTETS = (("v", "vp", "vp_gap", ""), ("vision", "concat", "gap", "lambda_matched"))
"""Methods without proprioception, with it, with GAP, and with a constant λ in its place."""
HEADINGS = (
    "policy",
    "V: images only, success %",
    "VP: and proprioception",
    "GAP",
    "constant λ for ρ",
    "does it hurt? V − VP, points",
    "does GAP help? GAP − VP",
    "by its phases? GAP − constant λ, GAP − shuffled ρ",
)
FRONT_INTERVALS = (
    "Success on layouts like those of the demonstrations, mean over training seeds with a 95 % interval. All methods "
    "of a line played the same layouts. Shown and not shown: by the protocol's rules, t-tests over five seeds with "
    "Holm's correction; behind them the difference with its 95 % interval, uncorrected. Undecided: the interval holds "
    "0."
)
NOTHING = "Too few policies have been trained with today's code to compare methods."


Row = tuple[BlockResult, Sequence[Judgement]]


def front_rows(table: Table, results: Sequence[BlockResult]) -> list[Row]:
    """The table's blocks that stand on the front page, each with what the protocol's rules allow to say of it (nothing:
    they are not about this table). A cell of the confirmation is left out until all of its seeds are trained.
    """
    if table.shape != "confirmation":
        said: list[Row] = [(result, ()) for result in results]
    else:
        found = [judged(one) for one in corrected_comparisons(results)]
        said = [(result, one) for result, one in zip(results, found) if one]
    return [(result, judgements) for result, judgements in said if result.block.name in ON_FRONT_PAGE[table.name]]


def write_front_page(rows: Sequence[Row], page: Path) -> None:
    """A line for each block of `front_rows` in which GAP can be compared, once all its seeds are trained, each on
    the same demonstrations; a page without the markers stays as it is.
    """
    lines, cut_short = [list(HEADINGS)], list[str]()
    for result, judgements in (row for row in rows if not unlike(row[0].finished)):
        waiting = {cell.arm.name for cell in (*result.missing, *(one.cell for one in result.stale))}
        waiting |= {entry.arm for entry in result.failed}
        differences, success = result.found.differences, result.found.success
        for arms in QUARTETS:
            without, proprio, gap, _ = arms
            if differences.get((gap, proprio)) and not waiting.intersection(arms):
                shown = [percents(success[arm][IN])[:2] if arm in success else ("", "") for arm in arms]
                policy = "torch policy" if gap == "gap" else "Octo"
                title = ", ".join(dict.fromkeys([result.block.task, policy, result.block.description or policy]))
                pairs = ((without, proprio), (gap, proprio))
                said = {place: in_short(differences[p][IN]) for place, p in enumerate(pairs) if differences.get(p)}
                said |= {COLUMNS[one.claim]: one.short for one in judgements}
                of_arms = [f"{mean} ({interval})" if mean else "" for mean, interval in shown]
                cut_short += [f"{title}: {said}" for said in result.found.cut_short()]
                lines.append([title, *of_arms, *(said.get(place, "") for place in range(3))])
    text = "\n\n".join([markdown_table(lines), FRONT_INTERVALS, *cut_short]) if len(lines) > 1 else NOTHING
    replace_between(page, FRONT, text, if_missing="leave")


def in_short(found: PairedDifference) -> str:
    """
    >>> in_short(PairedDifference(0.083, (-0.13, 0.29), 1e-6, (0.18, 0.02, 0.05), 3, 100))
    'undecided: +8 (−13 to +29)'
    """
    low, high = found.interval
    word = "above" if low > 0 else "below" if high < 0 else "undecided"
    return "{}: {} ({})".format(word, *in_points(found))
