"""One self-contained HTML page about some runs: nothing is fetched, every figure says the command that made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gap_vla.core.foreign import whole
from gap_vla.core.outputs import require_apart, write_output
from gap_vla.drawing.markup import page
from gap_vla.report import sections as parts
from gap_vla.report.runs import ReportError, by_method, read_runs

STYLE = "h2 { margin-top: 44px; padding-top: 14px; border-top: 1px solid #e3e8ee; }"


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    command: str,
    more: Sequence[tuple[str, str, str]] = (),
    videos: int = 2,
    rho_of: parts.RhoOf = lambda run: None,
) -> Path:
    """Writes the page.

    Args:
        command: that writes this page, as the user gave it.
        more: key, title and HTML of further sections.
        videos: per run and variant, at most.
        rho_of: ρ that a run was trained with, `gap_vla.training.data.training_rho`; default: none is shown.

    Raises:
        ReportError: no runs, runs of several tasks, or two of a method and seed, or fewer than no `videos`.
    """
    whole("videos", videos, 0, 2**53, ReportError)
    found = read_runs(runs)
    require_apart(out, *(run.store for run in found))
    sections = [
        ("success", "Success", parts.success_section(found, command)),
        ("phases", "How far episodes got", parts.phases_section(found, command)),
        ("curves", "Training", parts.curves_section(found, command)),
        ("branches", "What each branch learns", parts.branches_section(found, command)),
        ("rho", "ρ over a demonstration", parts.rho_section(found, rho_of, command)),
        *more,
        ("videos", "Rollouts", parts.videos_section(found, videos, command)),
        ("runs", "The runs", parts.runs_section(found)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in shown)
    title = f"{found[0].task}: {', '.join(by_method(found))}"
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, title, text in shown)
    return write_output(out, "runs_report", page(title, f"<nav>{links}</nav>", body, style=STYLE))
