"""Evaluations as pages that open in a browser: one, or all variants of a scene beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.files import write_json
from gap_vla.drawing.markup import plain, save_page, text_table
from gap_vla.rollouts.records import cut_short_by_simulator, describe, title
from gap_vla.rollouts.statistics import percent
from gap_vla.sim import variant_spec

PAGE_FILE, VARIANTS_FILE = "index.html", "variants.json"

Summaries = Mapping[str, Mapping[str, Any]]
"""Variant to its evaluation's `summary.json`."""


def write_page(folder: Path, summary: dict[str, Any]) -> Path:
    """Writes `folder/index.html`: the result, films (failures first), phases, errors. It links to the films beside it
    and needs nothing from elsewhere.
    """
    low, high = summary["interval"]
    rate = percent(summary["success_rate"])
    seed = "of each layout as the policy names it" if summary["seed"] is None else summary["seed"]
    facts = {**summary["task"], "seed": seed, "source": summary.get("source")}
    return save_page(
        folder / PAGE_FILE,
        "report/templates/evaluation.html",
        title=title(summary),
        result=f"{summary['successes']} of {summary['episodes']} rollouts succeeded",
        how=f"{rate} % (95 % interval {percent(low)} to {percent(high)} %)",
        episodes=summary["episodes"],
        films=list(_films(summary)),
        phases=list(_phases(summary["phases"])),
        errors=[("episode", "error"), *((error["episode"], error["error"]) for error in summary["errors"])],
        words=describe(summary),
        facts=plain(facts | {f"policy {key}": value for key, value in summary["policy"].items()}),
    )


def _phases(phases: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    if not phases:
        return
    for name, share in phases["reached"].items():
        failures = phases["failed_in"].get(name, 0) or ""
        yield {"name": name, "share": share, "percent": percent(share), "failures": failures}


def _films(summary: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    ended = dict(zip(summary["episode_numbers"], zip(summary["last_phases"], summary["steps"])))
    for name in summary["videos"]:
        _, number, outcome = Path(name).stem.split("_")
        phase, steps = ended.get(int(number), (None, None))
        where = f" in {phase}" if outcome == "failure" and phase else ""
        after = f", {steps} steps" if steps is not None else ""
        yield {"source": name, "caption": f"episode {int(number)}", "outcome": outcome, "after": where + after}


def variants_table(found: Summaries) -> str:
    """Success on each variant. Their layouts differ (unless a seed was given), so the rates are to be compared by their
    intervals."""
    rows = [(row["name"], row["won"], row["rate"], row["interval"]) for row in _rows(found)]
    return "\n".join([text_table([("variant", "episodes", "success", "95 % interval"), *rows]), *_lost(found)])


def _lost(found: Summaries) -> list[str]:
    """Of which variants the simulator cut episodes short."""
    return [f"{name}: {told}" for name, one in found.items() for told in cut_short_by_simulator(one)]


def write_variants(folder: Path, found: Summaries) -> Path:
    """Writes `folder/variants.json` and `folder/index.html`, which links to the page of each variant.

    Returns:
        The page.
    """
    kept = ("episodes", "successes", "success_rate", "interval", "interval_clopper_pearson", "mean_steps", "phases")
    figures = {name: {key: one[key] for key in kept} for name, one in found.items()}
    for name, one in found.items():
        figures[name]["simulator_errors"] = one.get("simulator_errors", 0)
    write_json(folder / VARIANTS_FILE, figures)
    alike = all(name == "default" or variant_spec(name).only_looks for name in found)
    apart = not alike or len({tuple(one.get("layout_seeds", ())) for one in found.values()}) > 1
    first = next(iter(found.values()))
    return save_page(
        folder / PAGE_FILE,
        "report/templates/variants.html",
        title=f"{first['policy']['name']} on {first['task']['task']}, variants of the scene",
        rows=list(_rows(found)),
        notes=["Layouts differ between variants: compare the rates by their intervals."] * apart + _lost(found),
    )


def _rows(found: Summaries) -> Iterator[dict[str, Any]]:
    for name, one in found.items():
        low, high = one["interval"]
        yield {
            "name": name,
            "won": f"{one['successes']}/{one['episodes']}",
            "share": one["success_rate"],
            "rate": f"{percent(one['success_rate']):>3} %",
            "interval": f"{percent(low)} to {percent(high)} %",
        }
