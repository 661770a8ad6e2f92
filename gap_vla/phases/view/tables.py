"""The figures of an annotated data set as HTML tables."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any


def report_tables(report: dict[str, Any], identity: dict[str, Any]) -> str:
    """Figures of `Annotation.report`, ρ by distance, held-out calibration, and the annotator's identity."""
    figures = [
        (name.replace("_", " "), _cell(value)) for name, value in report.items() if not isinstance(value, (list, dict))
    ]
    estimator = report.get("estimator") or {}
    figures += [
        ("LSTM: " + name.replace("_", " "), _cell(value))
        for name, value in estimator.items()
        if not isinstance(value, (list, dict))
    ]
    parts = [_table(("", "value"), figures)]
    profile = report.get("rho_by_distance") or []
    parts.append("<h2>ρ by distance from the nearest change point</h2>")
    parts.append(_table([f"{d} steps" for d in range(len(profile))], [[_cell(value) for value in profile]]))
    calibration = estimator.get("held_out_calibration")
    if calibration:
        parts.append("<h2>Calibration on held-out episodes</h2>")
        parts.append(
            f"<p>Expected calibration error {calibration['error']:.3f}, weighted as the loss weighs steps.</p>"
        )
        rows = [[_cell(b[key]) for key in ("rho", "observed", "weight")] for b in calibration["bins"]]
        parts.append(_table(("mean ρ", "share of change points", "share of weight"), rows))
    parts.append("<details><summary>What made these labels</summary><pre>")
    parts.append(html.escape(json.dumps(identity, indent=1)) + "</pre></details>")
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
