"""One self-contained HTML page about some runs. It begins with the result; nothing is fetched."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from gap_vla.core.errors import UserError
from gap_vla.drawing.episode import EpisodeView, Plot, episode_figure
from gap_vla.drawing.figures import chart
from gap_vla.drawing.markup import data_uri, html_table, note, save_page
from gap_vla.report.charts import branch_chart, curve_chart
from gap_vla.report.comparison import WITH_P, compare_runs, draw_comparison, tables, words
from gap_vla.report.runs import METHODS, Run, by_method, read_runs
from gap_vla.rollouts.statistics import mean_rate, percent, with_interval

RhoOf = Callable[[Run], tuple[Any, np.ndarray] | None]
"""The training split of a run's store and ρ of its steps; None where there is nothing to show."""


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    command: str = "",
    videos: int = 2,
    rho_of: RhoOf = lambda run: None,
) -> Path:
    """Writes the page.

    Args:
        command: that writes this page, as the user gave it.
        videos: per run and variant, at most.
        rho_of: ρ that a run was trained with, `gap_vla.training.data.training_rho`; default: none is shown.

    Raises:
        UserError: no runs, runs of several tasks, or two of a method and seed.
    """
    found, out = read_runs(runs), Path(out)
    methods = by_method(found)
    sections = [
        ("success", "Success", success_section(found)),
        ("phases", "How far episodes got", phases_section(found)),
        ("curves", "Training", _chart(curve_chart(found), "training curves")),
        ("branches", "What each branch learns", branches_section(found)),
        ("rho", "ρ over a demonstration", rho_section(found, rho_of)),
        ("runs", "The runs", runs_section(found)),
    ]
    return save_page(
        out,
        "report/templates/runs.html",
        title=f"{found[0].task}: {', '.join(methods)}",
        results=[one for of_method in methods.values() for one in results(of_method, alone=len(methods) == 1)],
        methods={method: METHODS[method] for method in methods if method in METHODS},
        films=list(films(found, videos)),
        pages=list(rollout_pages(found, out)),
        sections=[section for section in sections if section[2]],
        next=next_commands(found, command),
    )


def results(runs: Sequence[Run], alone: bool) -> Iterator[tuple[str, str]]:
    """What came out, in a sentence, and how sure that is, for each scene on which a method was rolled out.

    Args:
        runs: of one method, which is not named if it is `alone` on the page.
    """
    name = "" if alone else f"{runs[0].method}: "
    counts: dict[str, list[tuple[int, int]]] = {}
    for run in runs:
        for variant, rollouts in run.rollouts.items():
            counts.setdefault(variant, []).append((sum(rollouts.values()), len(rollouts)))
    for variant, of_seeds in counts.items():
        won, played = map(sum, zip(*of_seeds))
        seeds = "" if len(of_seeds) == 1 else f", {len(of_seeds)} training seeds"
        how = f"{with_interval(won / played, mean_rate(of_seeds))}, {words(variant)}{seeds}"
        yield f"{name}{won} of {played} rollouts succeeded", how
    if not counts:
        done = "no rollouts were made" if all(run.summary for run in runs) else "the training is not finished"
        yield f"{name}{done}", ""


def films(runs: Sequence[Run], limit: int) -> Iterator[Mapping[str, str]]:
    """Of each run and scene some films, successes and failures by turns."""
    for run, variant in [(one, variant) for one in runs for variant in one.evaluations]:
        kinds = [[path for path in run.videos(variant) if path.stem.endswith(kind)] for kind in ("success", "failure")]
        turns = [path for pair in itertools.zip_longest(*kinds) for path in pair if path]
        for path in turns[:limit]:
            yield {
                "source": data_uri(path.read_bytes(), "video/mp4"),
                "caption": f"{run.label}, {words(variant)}" if len(runs) > 1 else words(variant),
                "outcome": path.stem.rpartition("_")[2],
            }


def rollout_pages(runs: Sequence[Run], out: Path) -> Iterator[tuple[str, str]]:
    """Link and name of each page about rollouts, seen from the page `out`."""
    for run, variant in [(one, variant) for one in runs for variant in one.evaluations]:
        if page := run.rollout_page(variant):
            yield os.path.relpath(page, out.parent), f"all rollouts of {run.label}, {words(variant)}"


def success_section(runs: Sequence[Run]) -> Markup:
    """Success and paired differences, where there is something to compare."""
    played = [run for run in runs if run.rollouts]
    if sum(len(run.rollouts) for run in played) < 2:
        return Markup()
    evaluated = list(by_method(played))
    reference = next((method for method in ("concat", "vp") if method in evaluated), evaluated[0])
    comparison = compare_runs(played, [(method, reference) for method in evaluated if method != reference])
    drawn = chart(draw_comparison(comparison), "success of each method, and paired differences")
    return Markup().join([drawn, *map(html_table, tables(comparison)), *map(note, [WITH_P, *comparison.notes()])])


def phases_section(runs: Sequence[Run]) -> Markup:
    """How far episodes got in the expert's phases, and in which of them the failed ones ended."""
    rows = [["run", "scene", "phase", "reached in % of those watched", "failed in it"]]
    scenes = [(run, variant, found) for run in runs for variant, found in run.evaluations.items()]
    for run, variant, found in scenes:
        phases = found.get("phases") or {"reached": {}, "failed_in": {}}
        for name, share in phases["reached"].items():
            failed = str(phases["failed_in"].get(name, ""))
            rows.append([run.label, words(variant), words(name), percent(share), failed])
    if len(rows) == 1:
        return Markup()
    return html_table([row[2:] for row in rows] if len(scenes) == 1 else rows)


def branches_section(runs: Sequence[Run]) -> Markup:
    figure, told = branch_chart(runs)
    return _chart(figure, "gradients and losses of each branch") + (note(told) if told else "")


def _chart(figure: Any, alt: str) -> Markup:
    return chart(figure, alt) if figure is not None else Markup()


def rho_section(runs: Sequence[Run], rho_of: RhoOf) -> Markup:
    """The first demonstration with the ρ that each method was trained with."""
    split, lines, notes = None, {}, []
    for method, of_method in by_method(runs).items():
        try:
            found = rho_of(of_method[0])
        except UserError as error:  # such as a store of another version; the rest of the page does not need it
            notes.append(note(f"{method}: {error}"))
            continue
        if found is None:
            continue
        if split is not None and found[0].steps != split.steps:
            notes.append(note(f"{method} was trained on other demonstrations than those shown; its ρ is not here."))
            continue
        split = split or found[0]
        lines[method] = found[1]
    if split is None:
        return Markup().join(notes)
    shown, first = split.episode(0), slice(int(split.offsets[0]), int(split.offsets[1]))
    plot = Plot("ρ", {name: values[first] for name, values in lines.items()})
    camera = dict(list(shown.images.items())[:1])
    view = EpisodeView.of(shown, title="", frames=camera, rho=None, signals=(plot,))
    means = ", ".join(f"{method} {values.mean():.3f}" for method, values in lines.items())
    mean = note(f"Mean ρ over all training steps of the first run of each method: {means}.")
    return Markup().join([chart(episode_figure(view), "frames of a demonstration and ρ of every step"), mean, *notes])


def runs_section(runs: Sequence[Run]) -> Markup:
    rows = [["run", "method", "seed", "steps", "seconds", "commit"]]
    for run in runs:
        resumed = run.summary.get("training", {}).get("resumed_after")
        since = f" since step {resumed}" if resumed else ""
        seconds = f"{sum(run.summary['seconds'].values()):.0f}{since}" if run.summary else "not finished"
        commit = run.summary.get("machine", {}).get("commit", "")
        steps = str(run.summary.get("steps", ""))
        rows.append([str(run.path), run.method, str(run.seed), steps, seconds, commit])
    return html_table(rows) + note("Settings of a run: its config.json.")


def next_commands(runs: Sequence[Run], command: str) -> list[tuple[str, str]]:
    """What to do next: command and purpose."""
    if len(runs) > 1 or not runs[0].summary:
        return [(command, "writes this page again")] if command else []
    path = shlex.quote(str(runs[0].path))
    return [
        (f"gap-vla diagnose --checkpoint {path}", "does the policy look at its pictures?"),
        (f"gap-vla evaluate --checkpoint {path} --episodes 100", "more rollouts"),
        (f"gap-vla report {path} OTHER_RUN --out report.html", "compare it with another run"),
    ]
