"""The figures of an annotated data set as an HTML table and two charts."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM = 340, 210, 40, 34


def report_tables(report: dict[str, Any], identity: dict[str, Any]) -> str:
    """Figures of `Annotation.report`, ρ by distance, held-out calibration, and the annotator's identity."""
    figures = [
        (name.replace("rho", "ρ").replace("_", " "), _cell(value))
        for name, value in report.items()
        if not isinstance(value, (list, dict))
    ]
    estimator = report.get("estimator") or {}
    figures += [
        ("LSTM: " + name.replace("_", " "), _cell(value))
        for name, value in estimator.items()
        if not isinstance(value, (list, dict)) and value is not None
    ]
    parts = [f'<div class="cards"><div>{_table(("", "value"), figures)}</div>']
    profile = report.get("rho_by_distance") or []
    parts.append(f"<div><h2>ρ by distance from a change point</h2>{_profile(profile)}</div>")
    if calibration := estimator.get("held_out_calibration"):
        parts.append(f"<div><h2>Calibration on held-out episodes</h2>{_reliability(calibration)}</div>")
    parts.append("</div><details><summary>What made these labels</summary><pre>")
    parts.append(html.escape(json.dumps(identity, indent=1)) + "</pre></details>")
    return "".join(parts)


def _profile(means: Sequence[float | None]) -> str:
    """Bars: mean ρ at 0, 1, 2, … steps."""
    room = (WIDTH - LEFT) / max(len(means), 1)
    out = []
    for d, mean in enumerate(means):
        x = LEFT + room * d
        if mean is not None:
            y = _y(mean)
            out.append(
                f'<rect class="bar" x="{x + 0.12 * room:.1f}" y="{y:.1f}" width="{0.76 * room:.1f}" '
                f'height="{_y(0) - y:.1f}"><title>{d} steps: {mean:.3f}</title></rect>'
            )
        out.append(f'<text x="{x + room / 2:.1f}" y="{_y(0) + 15:.0f}" text-anchor="middle">{d}</text>')
    return _chart("".join(out), "steps", "mean ρ")


def _reliability(calibration: dict[str, Any]) -> str:
    """Dots: share of change points over mean ρ, per bin of ρ; their area is the bin's weight."""
    right = WIDTH - 10
    out = [f'<line class="ideal" x1="{LEFT}" y1="{_y(0):.0f}" x2="{right}" y2="{_y(1):.0f}"/>']
    for value in (0, 0.5, 1):
        x = LEFT + value * (right - LEFT)
        out.append(f'<text x="{x:.0f}" y="{_y(0) + 15:.0f}" text-anchor="middle">{value:g}</text>')
    for row in calibration["bins"]:
        x, y = LEFT + row["rho"] * (right - LEFT), _y(row["observed"])
        title = f"mean ρ {row['rho']:.3f}, observed {row['observed']:.3f}, {100 * row['weight']:.1f} % of the weight"
        radius = 2.5 + 9 * row["weight"] ** 0.5
        out.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{title}</title></circle>')
    note = f"<p>Expected calibration error {calibration['error']:.3f}, weighted as the loss weighs steps.</p>"
    return _chart("".join(out), "mean ρ", "observed") + note


def _chart(inside: str, below: str, beside: str) -> str:
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{_y(value) + 4:.0f}" text-anchor="end">{value:g}</text>' for value in (0, 0.5, 1)
    )
    frame = f'<rect class="frame" x="{LEFT}" y="{_y(1):.0f}" width="{WIDTH - LEFT}" height="{_y(0) - _y(1):.0f}"/>'
    middle = (_y(0) + _y(1)) / 2
    names = (
        f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{below}</text>'
        f'<text x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})">{beside}</text>'
    )
    label = f"{beside} over {below}"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{frame}{inside}{ticks}{names}</svg>"
    )


def _y(value: float | int) -> float:
    return 10.0 + (HEIGHT - BOTTOM - 10) * (1 - value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
