"""Evaluations as pages that open in a browser: one, or all variants of a scene beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.files import write_json
from gap_vla.drawing.markup import plain, save_page, text_table
from gap_vla.rollouts.records import describe, title, told_cut_short
from gap_vla.rollouts.statistics import percent, with_interval
from gap_vla.sim.variants import variant_spec

PAGE_FILE, VARIANTS_FILE = "index.html", "variants.json"

Summaries = Mapping[str, Mapping[str, Any]]
"""Variant to its evaluation's `summary.json`."""


def write_page(folder: Path, summary: dict[str, Any]) -> Path:
    """Writes `folder/index.html`: the result, films (failures first), phases, errors. It links to the films beside it
    and needs nothing from elsewhere.
    """
    seed = "of each layout as the policy names it" if summary["seed"] is None else summary["seed"]
    facts = {**summary["task"], "seed": seed, "source": summary.get("source")}
    return save_page(
        folder / PAGE_FILE,
        "report/templates/evaluation.html",
        title=title(summary),
        result=f"{summary['successes']} of {summary['episodes']} rollouts succeeded",
        how=with_interval(summary["success_rate"], summary["interval"]),
        episodes=summary["episodes"],
        films=[_film(name, summary) for name in summary["videos"]],
        phases=summary["phases"],
        percent=percent,
        errors=[("episode", "error"), *((error["episode"], error["error"]) for error in summary["errors"])],
        words=describe(summary),
        facts=plain(facts | {f"policy {key}": value for key, value in summary["policy"].items()}),
    )


def _film(name: str, summary: Mapping[str, Any]) -> dict[str, str]:
    _, number, outcome = Path(name).stem.split("_")
    place = summary["episode_numbers"].index(int(number))
    phase, steps = summary["last_phases"][place], summary["steps"][place]
    where = f" in {phase}" if outcome == "failure" and phase else ""
    return {"source": name, "caption": f"episode {int(number)}", "outcome": outcome, "after": f"{where}, {steps} steps"}


def variants_table(found: Summaries) -> str:
    """Success on each variant. Their layouts differ (unless a seed was given), so the rates are to be compared by their
    intervals."""
    rows = [(row["name"], row["won"], row["rate"], row["interval"]) for row in _rows(found)]
    return "\n".join([text_table([("variant", "episodes", "success", "95 % interval"), *rows]), *_cut_short(found)])


def write_variants(folder: Path, found: Summaries) -> Path:
    """Writes `folder/variants.json` and `folder/index.html`, which links to the page of each variant.

    Returns:
        The page.
    """
    kept = ("episodes", "successes", "success_rate", "interval", "interval_clopper_pearson", "mean_steps", "phases")
    figures = {name: {key: one[key] for key in (*kept, "simulator_errors")} for name, one in found.items()}
    write_json(folder / VARIANTS_FILE, figures)
    elsewhere = any(name != "default" and not variant_spec(name).only_looks for name in found)
    apart = elsewhere or len({tuple(one["layout_seeds"]) for one in found.values()}) > 1
    first = next(iter(found.values()))
    return save_page(
        folder / PAGE_FILE,
        "report/templates/variants.html",
        title=f"{first['policy']['name']} on {first['task']['task']}, variants of the scene",
        rows=_rows(found),
        notes=["Layouts differ between variants: compare the rates by their intervals."] * apart + _cut_short(found),
    )


def _cut_short(found: Summaries) -> list[str]:
    told = told_cut_short({name: one["simulator_errors"] for name, one in found.items()})
    return [told] if told else []


def _rows(found: Summaries) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "won": f"{one['successes']}/{one['episodes']}",
            "share": one["success_rate"],
            "rate": f"{percent(one['success_rate']):>3} %",
            "interval": " to ".join(map(percent, one["interval"])) + " %",
        }
        for name, one in found.items()
    ]
