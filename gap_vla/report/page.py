"""One self-contained HTML page about some runs: nothing is fetched, every figure says the command that made it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.outputs import write_output
from gap_vla.report import sections as parts
from gap_vla.report.runs import ReportError, Run, by_method

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1080px; padding: 20px 24px 64px;
  color: #1c2430; background: #fff; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 44px 0 8px; padding-top: 14px;
  border-top: 1px solid #e3e8ee; } h3 { font-size: 16px; margin: 24px 0 6px; }
nav { margin: 10px 0 0; } nav a { margin-right: 16px; color: #2b6fd9; }
table { border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums; }
td, th { padding: 4px 18px 4px 0; text-align: left; border-bottom: 1px solid #e3e8ee; vertical-align: top; }
th { font-weight: 600; }
img.chart { max-width: 100%; height: auto; display: block; margin: 10px 0; }
pre { background: #f5f7fa; padding: 8px 12px; border-radius: 4px; font-size: 13px; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: 8px 0; }
p.note { color: #4a5666; }
.wide { overflow-x: auto; }
.videos { display: flex; flex-wrap: wrap; gap: 14px; } figure { margin: 0; width: 190px; }
video { width: 190px; height: 190px; background: #111; display: block; }
figcaption { font-size: 13px; color: #4a5666; } .failure figcaption b { color: #b3261e; }
.success figcaption b { color: #1a7f37; }
"""


def write_report(
    runs: Sequence[Path], out: Path, *, command: str, probe: Mapping[str, Any] | None = None, videos: int = 2
) -> Path:
    """Writes the page.

    Args:
        runs: run directories of one task.
        command: that writes this page, as the user gave it.
        probe: what `probe_runs` returned, with the `command` that made it.
        videos: per run and variant, at most.

    Raises:
        ReportError: no runs, or runs of several tasks.
    """
    found = [Run.read(path) for path in runs]
    tasks = sorted({run.task for run in found})
    if len(tasks) != 1:
        raise ReportError(f"a report needs runs of one task; these are of {', '.join(tasks) or 'none'}")
    sections = [
        ("success", "Success", parts.success_section(found, command)),
        ("phases", "How far episodes got", parts.phases_section(found, command)),
        ("curves", "Training", parts.curves_section(found, command)),
        ("branches", "What each branch learns", parts.branches_section(found, command)),
        ("rho", "ρ over a demonstration", parts.rho_section(found, command)),
        ("probe", "Linear probe of the frozen visual features", parts.probe_section(probe)),
        ("silenced", "What the policies need", parts.silenced_section(probe)),
        ("similarity", "How alike the visual features are", parts.similarity_section(probe)),
        ("takeover", "Another policy takes over", parts.takeovers_section(found)),
        ("videos", "Rollouts", parts.videos_section(found, videos, command)),
        ("runs", "The runs", parts.runs_section(found)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in shown)
    title = f"{tasks[0]}: {', '.join(by_method(found))}"
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in shown)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<nav>{links}</nav>{body}</body></html>\n"
    )
    return write_output(out, "runs_report", page)
