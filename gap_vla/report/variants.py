"""All variants of a scene beside each other: what `--variant all` prints and leaves behind."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.outputs import write_output
from gap_vla.report.evaluation_page import STYLE

Summaries = Mapping[str, Mapping[str, Any]]
"""Variant to its evaluation's `summary.json`."""


def variants_table(found: Summaries) -> str:
    """Success on each variant. Their layouts differ, so the rates are to be compared by their intervals."""
    width = max(map(len, found))
    rows = [f"{name:<{width}}  {won:>7}  {rate}  ({interval})" for name, won, rate, interval in _cells(found)]
    return "\n".join(["success, 95 % interval:", *rows])


def write_variants(folder: Path, found: Summaries) -> Path:
    """Writes `folder/variants.json` and `folder/index.html`, which links to the page of each variant.

    Returns:
        The page.
    """
    kept = ("episodes", "successes", "success_rate", "interval", "interval_clopper_pearson", "mean_steps", "phases")
    figures = {name: {key: one[key] for key in kept} for name, one in found.items()}
    write_output(folder / "variants.json", "variants", json.dumps(figures))
    first = next(iter(found.values()))
    title = html.escape(f"{first['policy']['name']} on {first['task']['task']}, variants of the scene")
    rows = "".join(
        f"<tr><th><a href='{name}/index.html'>{name}</a><td>{won}<td><div class=frame><div class=bar "
        f"style='width:{rate.replace(' ', '')}'></div></div><td>{rate}<td>{interval}</tr>"
        for name, won, rate, interval in _cells(found)
    )
    document = (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<table><tr><th>variant<th>episodes<th>success<th><th>95 % interval</tr>{rows}</table>"
        "<p>Layouts differ between variants: compare the rates by their intervals.</p></html>\n"
    )
    return write_output(folder / "index.html", "variants", document)


def _cells(found: Summaries) -> list[tuple[str, str, str, str]]:
    cells = []
    for name, one in found.items():
        low, high = one["interval"]
        interval = f"{100 * low:.0f} to {100 * high:.0f} %"
        cells.append((name, f"{one['successes']}/{one['episodes']}", f"{100 * one['success_rate']:3.0f} %", interval))
    return cells
