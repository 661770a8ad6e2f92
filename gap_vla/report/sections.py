"""The parts of a report, one function each: HTML, or an empty text where the runs have nothing to show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gap_vla.core.measurements import since
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.seals import DIGESTS
from gap_vla.drawing.episode import EpisodeView, Plot, episode_figure
from gap_vla.drawing.figures import svg
from gap_vla.drawing.markup import chart_image, command_block, data_uri, escaped, film, films, html_table, note
from gap_vla.drawing.video import pictures_in, working_ffmpeg
from gap_vla.report import charts
from gap_vla.report.comparison import WITH_P, apart, compare, told_apart, words
from gap_vla.report.comparison_render import draw_comparison, tables
from gap_vla.report.runs import ReportError, Run, by_method
from gap_vla.rollouts.record import EPISODES_FILE
from gap_vla.rollouts.statistics import percent
from gap_vla.sim.specs import TASK_NAMES, task_spec

RhoOf = Callable[[Run], tuple[Any, np.ndarray] | None]
"""The training split of a run's store and ρ of its steps; None where there is nothing to show."""

CURVES = {
    "train/loss": "training loss",
    "val/action_mse": "held-out action error",
    "train/gradient_norm": "gradient norm",
}
"""Measurements that every kind of run takes, and what they are called."""


def success_section(runs: list[Run], command: str) -> str:
    outcomes = {
        method: {run.seed: run.rollouts for run in of_method if run.rollouts}
        for method, of_method in by_method(runs).items()
    }
    evaluated = [method for method, by_seed in outcomes.items() if by_seed]
    if not evaluated:
        return ""
    reference = next((method for method in ("concat", "vp") if method in evaluated), evaluated[0])
    pairs = [(method, reference) for method in evaluated if method != reference]
    played = [run for run in runs if run.rollouts]
    comparison = compare(outcomes, pairs, [run.config for run in played], [run.summary for run in played])
    chart = chart_image(svg(draw_comparison(comparison)), "success of each method, and paired differences")
    lost = []
    for run in played:
        folder = RunDirectory(run.path).rollouts
        places = {variant: (folder / variant, folder) for variant in run.rollouts}
        gone = [name for name, both in places.items() if not any((place / EPISODES_FILE).exists() for place in both)]
        if gone:
            which = f" on {', '.join(map(words, gone))}" if len(gone) < len(places) else ""
            said = f"the records of its episodes{which} are gone; how many succeeded is what its summary says."
            lost.append(f"{run.path}: {said}")
    notes = map(note, [WITH_P, *comparison.notes(), *lost])
    return "".join([chart, *map(html_table, tables(comparison)), *notes, command_block(command)])


def phases_section(runs: list[Run], command: str) -> str:
    """How far episodes got in the expert's phases, and in which of them the failed ones ended."""
    rows = [["run", "scene", "phase", "reached in % of those watched", "failed in it"]]
    for run in runs:
        for variant, found in run.evaluations.items():
            phases = found.get("phases") or {"reached": {}, "failed_in": {}}
            for name, share in in_order(phases["reached"], run.task):
                failed = str(phases["failed_in"].get(name, ""))
                rows.append([run.label, words(variant), words(name), percent(share), failed])
    return html_table(rows) + command_block(command) if len(rows) > 1 else ""


def in_order(reached: Mapping[str, float], task: str) -> list[tuple[str, float]]:
    """Phases as the expert goes through them, however a file's keys were sorted; those of other experts as given."""
    own = task_spec(task).phases if task in TASK_NAMES else ()
    return sorted(reached.items(), key=lambda one: own.index(one[0])) if {*reached} <= {*own} else [*reached.items()]


def curves_section(runs: list[Run], command: str) -> str:
    chart = charts.curve_chart(runs, CURVES)
    if chart is None:
        return ""
    differing: list[str] = []
    if not all(run.rollouts for run in runs):  # else it stands beside the success of all of them
        origins = [{"origin": run.summary["origin"]} for run in runs if "origin" in run.summary]
        differing = told_apart(apart([run.config for run in runs]) | apart(origins))
    holes = [f"{run.path} lacks {run.hole}; its curves have a hole there." for run in runs if run.hole]
    return "".join([chart_image(chart, "training curves"), *map(note, [*differing, *holes]), command_block(command)])


def branches_section(runs: list[Run], command: str) -> str:
    chart = charts.branch_chart(runs)
    if chart is None:
        return ""
    told = note(
        "Measured at single training steps. Loss with a branch alone: the other branch's features are replaced by "
        "their mean over the batch. The loss gradient at the features is taken before GAP scales it, the parameter "
        "gradient after."
    )
    return chart_image(chart, "gradients and losses of each branch") + told + command_block(command)


def rho_section(runs: list[Run], rho_of: RhoOf, command: str) -> str:
    split, seen, lines, apart = None, None, {}, []
    for method, of_method in by_method(runs).items():
        found, own = rho_of(of_method[0]), of_method[0].summary.get("origin", {}).get("episodes")
        if found is not None and split is not None and found[0].steps != split.steps:
            steps = f"{found[0].steps} steps, not the {split.steps} of those shown"
            apart.append(note(f"{method} was trained on {steps}; its ρ is not here."))
        elif found is not None and seen and own and own != seen:
            apart.append(note(f"{method} was trained on other demonstrations than those shown; its ρ is not here."))
        elif found is not None:
            split, seen = split or found[0], seen or own
            lines[method] = found[1]
    if split is None:
        return ""
    shown, first = split.episode(0), slice(int(split.offsets[0]), int(split.offsets[1]))
    camera = dict(list(shown.images.items())[:1])
    plot = Plot("ρ", {name: values[first] for name, values in lines.items()})
    view = EpisodeView.of(shown, title="", frames=camera, rho=None, signals=(plot,))
    strip = svg(episode_figure(view))
    chart = chart_image(strip, "frames of a demonstration and ρ of every step")
    means = ", ".join(f"{method} {values.mean():.3f}" for method, values in lines.items())
    mean = note(f"Mean ρ over all training steps of the first run of each method: {means}.")
    return "".join([chart, mean, *apart, command_block(command)])


_AGAIN = "`gap-vla evaluate --checkpoint RUN` films episodes again, for a page of its own"


def videos_section(runs: list[Run], limit: int, command: str) -> str:
    figures, cut = [], []
    scenes = [(run, variant) for run in runs for variant in run.evaluations]
    paths = [(f"{r.label}, {words(v)}", path) for r, v in scenes for path in r.videos(v)[:limit]]
    there = [path for _, path in paths if path.is_file()]
    try:
        if there:
            working_ffmpeg(there[0], ReportError)  # which looks whether they are whole
    except ReportError as error:
        cut.append(note(f"{error}; without one, films are not shown."))
        paths = [one for one in paths if one[1] not in there]
    for caption, path in paths:
        if not path.exists() and not path.is_symlink():
            cut.append(note(f"{path} is not there any more; {_AGAIN}."))
            continue
        # a link may lead out of the run, into a page that is given away; `evaluate` writes films of a few MB
        if not path.is_symlink() and path.is_file() and path.stat().st_size < 2**26 and pictures_in(path):
            figures.append(film(data_uri(path.read_bytes(), "video/mp4"), caption, path.stem.rsplit("_", 1)[-1]))
        else:
            said = f"{path} is a link, huge or no whole MP4 and is not shown; {_AGAIN}."
            cut.append(note(said))
    told = note("Films are those that lie in the runs; their names, and what they say of themselves, are compared.")
    return films(figures) + "".join([*cut, told]) + command_block(command) if figures or cut else ""


def runs_section(runs: list[Run]) -> str:
    rows = [["run", "method", "seed", "steps", "seconds", "commit"]]
    for run in runs:
        seconds = f"{sum(run.summary['seconds'].values()):.0f}{since(run.summary)}" if run.summary else "not finished"
        commit = run.summary.get("machine", {}).get("commit", "")
        commit += since(run.summary) if commit else ""  # what came before may be of another
        steps = str(run.summary.get("steps", ""))
        rows.append([str(run.path), run.method, str(run.seed), steps, seconds, commit])
    bare = [run.lost for run in runs if run.summary and run.lost]
    told = [f"{file} is not here: this policy cannot be rolled out again." for file in bare]
    for run in runs:
        if run.summary and (others := run.not_looked_at):
            told.append(f"{run.path}: not looked at: {', '.join(others)} (evaluations that its summary does not name).")
        if DIGESTS not in run.summary:
            why = "version 0.1.0" if run.summary else "not finished"
            told.append(f"{run.path} holds no digests ({why}): edits of its files are not seen.")
    command = " or ".join(dict.fromkeys("train-small" if run.small else "finetune" for run in runs))
    settings = json.dumps(runs[0].config, indent=1, ensure_ascii=False)
    return (
        html_table(rows)
        + "".join(map(note, told))
        + command_block(f"gap-vla {command} --config …  (each run's settings: its config.json)")
        + f"<details><summary>configuration of {escaped(runs[0].path)}</summary>"
        + f"{command_block(settings)}</details>"
    )
