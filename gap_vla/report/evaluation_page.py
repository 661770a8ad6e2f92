"""Evaluations as pages that open in a browser: one, or all variants of a scene beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.outputs import write_output
from gap_vla.drawing.markup import bar, command_block, fact_table, film, films, html_table, link, note, page, text_table
from gap_vla.rollouts.record import PAGE_FILE
from gap_vla.rollouts.statistics import percent
from gap_vla.rollouts.summary import cut_short_by_simulator, describe, title
from gap_vla.sim import variant_spec

VARIANTS_FILE = "variants.json"

Summaries = Mapping[str, Mapping[str, Any]]
"""Variant to its evaluation's `summary.json`."""


def write_page(folder: Path, summary: dict[str, Any]) -> Path:
    """Writes `folder/index.html`: figures, phases, videos (failures first), errors. It links to the videos beside it
    and needs nothing from elsewhere.
    """
    low, high = summary["interval"]
    seed = "of each layout as the policy names it" if summary["seed"] is None else summary["seed"]
    what = {**summary["task"], "seed": seed, "source": summary.get("source") or "–"}
    errors = [(error["episode"], error["error"]) for error in summary["errors"]]
    text = page(
        title(summary),
        f"<p><strong>{percent(summary['success_rate'])} %</strong> of {summary['episodes']} episodes succeeded "
        f"(95 % interval {percent(low)} to {percent(high)} %).</p>",
        _phases(summary["phases"]),
        _videos(summary),
        f"<h2>Cut short and counted as failed</h2>{html_table([('episode', 'error'), *errors])}" if errors else "",
        f"<h2>In words</h2>{command_block(describe(summary))}<h2>What was evaluated</h2>",
        fact_table(what | {f"policy {key}": value for key, value in summary["policy"].items()}),
    )
    return write_output(folder / PAGE_FILE, "evaluation", text)


def _phases(phases: Mapping[str, Any] | None) -> str:
    if not phases:
        return ""
    rows = [
        (name, bar(share), f"{percent(share)} %", phases["failed_in"].get(name, 0) or "")
        for name, share in phases["reached"].items()
    ]
    return "<h2>How far episodes got</h2>" + html_table([("phase", "reached", "", "failures in it"), *rows])


def _videos(summary: Mapping[str, Any]) -> str:
    if not summary["videos"]:
        return ""
    ended = dict(zip(summary["episode_numbers"], zip(summary["last_phases"], summary["steps"])))
    figures = []
    for name in summary["videos"]:
        _, number, outcome = Path(name).stem.split("_")
        phase, steps = ended.get(int(number), (None, None))
        where = f" in {phase}" if outcome == "failure" and phase else ""
        after = f", {steps} steps" if steps is not None else ""
        figures.append(film(name, f"episode {int(number)}", outcome, f"{where}{after}", autoplay=True))
    return f"<h2>Rollouts</h2><p>{len(figures)} of {summary['episodes']}, failures first.</p>{films(figures)}"


def variants_table(found: Summaries) -> str:
    """Success on each variant. Their layouts differ (unless a seed was given), so the rates are to be compared by their
    intervals."""
    return "\n".join([text_table([("variant", "episodes", "success", "95 % interval"), *_cells(found)]), *_lost(found)])


def _lost(found: Summaries) -> list[str]:
    """Of which variants the simulator cut episodes short."""
    return [f"{name}: {said}" for name, one in found.items() for said in cut_short_by_simulator(one)]


def write_variants(folder: Path, found: Summaries) -> Path:
    """Writes `folder/variants.json` and `folder/index.html`, which links to the page of each variant.

    Returns:
        The page.
    """
    kept = ("episodes", "successes", "success_rate", "interval", "interval_clopper_pearson", "mean_steps", "phases")
    figures = {name: {key: one[key] for key in kept} for name, one in found.items()}
    for name, one in found.items():
        figures[name]["simulator_errors"] = one.get("simulator_errors", 0)
    alike = all(name == "default" or variant_spec(name).only_looks for name in found)
    apart = not alike or len({tuple(one.get("layout_seeds", ())) for one in found.values()}) > 1
    write_output(folder / VARIANTS_FILE, "variants", json.dumps(figures))
    first = next(iter(found.values()))
    rows = [
        (link(f"{name}/index.html", name), won, bar(found[name]["success_rate"]), rate, interval)
        for name, won, rate, interval in _cells(found)
    ]
    text = page(
        f"{first['policy']['name']} on {first['task']['task']}, variants of the scene",
        html_table([("variant", "episodes", "success", "", "95 % interval"), *rows]),
        note("Layouts differ between variants: compare the rates by their intervals.") if apart else "",
        *map(note, _lost(found)),
    )
    return write_output(folder / PAGE_FILE, "variants", text)


def _cells(found: Summaries) -> list[tuple[str, str, str, str]]:
    cells = []
    for name, one in found.items():
        low, high = one["interval"]
        interval = f"{percent(low)} to {percent(high)} %"
        cells.append((name, f"{one['successes']}/{one['episodes']}", f"{percent(one['success_rate']):>3} %", interval))
    return cells
