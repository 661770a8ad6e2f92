"""A block's results as Markdown: success beside the paper's, paired differences, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.tables.analysis import BlockResult, Success, pairs_of
from experiments.tables.ledger import Entry
from experiments.tables.paper import PAPER, PAPER_TABLES, paper_success
from experiments.tables.tables import IN, OUT, Block
from gap_vla.core.progress import duration
from gap_vla.rollouts.statistics import PairedDifference, points

VARIANT_WORDS = {IN: "in distribution", OUT: "wide positions"}


def words(variant: str) -> str:
    return VARIANT_WORDS.get(variant, variant.replace("_", " "))


def title_of(block: Block) -> str:
    return f"{block.task}: {block.description}" if block.description else block.task


def success_table(result: BlockResult) -> str:
    """One line per arm: mean over seeds, interval and seeds of each variant, and the paper's figures."""
    variants = result.variants
    paper = {variant: key for variant, key in zip((IN, OUT), result.block.paper) if key}
    shown = {
        variant: key
        for variant, key in paper.items()
        if variant in variants
        and any(paper_success(key, result.block.task, arm.method) is not None for arm in result.block.arms)
    }
    heading = ["method"]
    for variant in variants:
        heading += [f"{words(variant)} %", "95 % interval", "per seed"]
    heading += ["paper %" if variant == IN else "paper, out of distribution %" for variant in shown]
    rows = [heading]
    for arm in result.block.arms:
        found = result.success.get(arm.name)
        if found is None:
            continue
        row = [arm.name]
        for variant in variants:
            row += _success_cells(found.get(variant))
        for key in shown.values():
            figure = paper_success(key, result.block.task, arm.method)
            row.append("" if figure is None or arm.changes else f"{figure:g}")
        rows.append(row)
    text = markdown_table(rows)
    if shown:
        sources = "; ".join(f"{PAPER_TABLES[k].table} ({PAPER_TABLES[k].measured})" for k in shown.values())
        text += f"\n\nPaper: {PAPER}: {sources}. Its data, model size and evaluation differ from ours."
    return text


def _success_cells(found: Success | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    low, high = found.interval
    per_seed = ", ".join(f"{100 * rate:.0f}" for rate in found.per_seed.values())
    return [f"{100 * found.mean:.0f}", f"{100 * low:.0f} to {100 * high:.0f}", per_seed]


def difference_table(result: BlockResult) -> str:
    """One line per pair of arms; empty if no pair shares a seed."""
    variants = result.variants
    heading = ["difference"]
    for variant in variants:
        heading += [f"{words(variant)}, points", "95 % interval", "per seed"]
    rows = [heading]
    for first, second in pairs_of(result.block):
        found = result.differences_on(first, second)
        if found:
            row = [f"{first} − {second}"]
            for variant in variants:
                row += _difference_cells(found.get(variant))
            rows.append(row)
    return markdown_table(rows) if len(rows) > 1 else ""


def _difference_cells(found: PairedDifference | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    low, high = found.interval
    per_seed = ", ".join(map(points, found.per_seed))
    return [points(found.difference), f"{points(low)} to {points(high)}", per_seed]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    heading, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([heading, "|" + "---|" * len(rows[0]), *rest])


def notes(result: BlockResult) -> list[str]:
    """What a reader has to know before trusting the figures: cells that failed, are missing or do not count."""
    found = []
    seeds = {arm: sorted(next(iter(v.values())).per_seed) for arm, v in result.success.items()}
    if len({tuple(s) for s in seeds.values()}) > 1:
        listing = ", ".join(f"{arm} {len(s)}" for arm, s in seeds.items())
        found.append(
            f"Unequal numbers of training seeds so far ({listing}); differences use those that both methods have."
        )
    if seeds and max(map(len, seeds.values())) < 3:
        found.append("Fewer than three training seeds: seeds often differ as much as methods do.")
    if result.missing:
        seeds_of: dict[str, list[str]] = {cell.arm.name: [] for cell in result.missing}
        for cell in result.missing:
            seeds_of[cell.arm.name].append(str(cell.seed))
        listing = ", ".join(f"{arm} (seed {', '.join(of_arm)})" for arm, of_arm in seeds_of.items())
        found.append(f"Not run yet: {listing}.")
    for entry in result.failed:
        found.append(f"Failed: {entry.cell} ({entry.error}).")
    if len({entry.origin.get("episodes") for entry in result.finished}) > 1:
        found.append("The cells were not all trained on the same demonstrations: their content differs.")
    found += stale_notes(result)
    if result.finished:
        found.append(_origin(result))
    return found


def stale_notes(result: BlockResult) -> list[str]:
    """What was recorded before and counts no more, grouped by the reason."""
    by_reason: dict[tuple[str, ...], dict[str, list[Entry]]] = {}
    for one in result.stale:
        by_reason.setdefault(one.reasons, {}).setdefault(one.cell.arm.name, []).append(one.entry)
    found = []
    for reasons, by_arm in by_reason.items():
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        listing = "; ".join(f"{arm}, {_recorded(entries)}" for arm, entries in by_arm.items())
        found.append(f"**Stale, counted in no table** ({'; '.join(reasons[:3])}{more}): {listing}.")
    return found


def _recorded(entries: Sequence[Entry]) -> str:
    """Seeds, and the success of each on each variant."""
    seeds = f"seed{'s' * (len(entries) > 1)} {', '.join(str(entry.seed) for entry in entries)}"
    parts = [seeds]
    for variant in dict.fromkeys(name for entry in entries for name in entry.variants):
        of_variant = [entry.variants[variant] for entry in entries if variant in entry.variants]
        rates = ", ".join(f"{100 * one.successes / one.episodes:.0f}" for one in of_variant)
        parts.append(f"{words(variant)} {rates} %")
    return ": ".join([parts[0], ", ".join(parts[1:])]) if parts[1:] else parts[0]


def _origin(result: BlockResult) -> str:
    commits = sorted({str(e.account.get("run_commit") or e.account.get("commit")) for e in result.finished})
    machines = []
    for entry in result.finished:
        m = entry.account.get("machine", {})
        device = m.get("device_name", m.get("device", "cpu"))
        at_once = f", {m.get('jobs')} cells at once" if m.get("jobs", 1) > 1 else ""
        machines.append(f"{m.get('cores')} cores, {device}{at_once}")
    whole = [entry.seconds for entry in result.finished if entry.whole]
    times = dict.fromkeys(duration(seconds) for seconds in ((min(whole), max(whole)) if whole else ()))
    time = f"; a cell took {' to '.join(times)}" if times else ""
    where = "; ".join(dict.fromkeys(machines))
    count = len(result.finished)
    return f"{count} cell{'s' * (count > 1)}, commit{'s' * (len(commits) > 1)} {', '.join(commits)}, {where}{time}."
