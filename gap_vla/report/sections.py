"""The parts of a report, one function each: HTML, or an empty text where the runs have nothing to show."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gap_vla.drawing.episode import EpisodeView, Plot, episode_figure
from gap_vla.drawing.figures import svg
from gap_vla.drawing.markup import chart_image, command_block, data_uri, film, films, html_table, note
from gap_vla.report import charts
from gap_vla.report.comparison import WITH_P, compare, words
from gap_vla.report.comparison_render import draw_comparison, tables
from gap_vla.report.runs import Run, by_method

RhoOf = Callable[[Run], tuple[Any, np.ndarray] | None]
"""The training split of a run's store and ρ of its steps; None where there is nothing to show."""

CURVES = {
    "train/loss": "training loss",
    "val/action_mse": "held-out action error",
    "train/gradient_norm": "gradient norm",
}
"""Measurements that every kind of run takes, and what they are called."""

PARTS = {"transition": "near change points", "consistent": "elsewhere"}
"""How probes that were kept by earlier versions call the windows near change points, and what they are called now."""


def success_section(runs: list[Run], command: str) -> str:
    outcomes = {
        method: {run.seed: run.rollouts for run in of_method if run.rollouts}
        for method, of_method in by_method(runs).items()
    }
    evaluated = [method for method, by_seed in outcomes.items() if by_seed]
    if not evaluated:
        return ""
    reference = next((method for method in ("concat", "vp") if method in evaluated), evaluated[0])
    comparison = compare(outcomes, [(method, reference) for method in evaluated if method != reference])
    chart = chart_image(svg(draw_comparison(comparison)), "success of each method, and paired differences")
    notes = map(note, [WITH_P, *comparison.notes()])
    return "".join([chart, *map(html_table, tables(comparison)), *notes, command_block(command)])


def phases_section(runs: list[Run], command: str) -> str:
    """How far episodes got in the expert's phases, and in which of them the failed ones ended."""
    rows = [["run", "scene", "phase", "reached in %", "failed in it"]]
    for run in runs:
        for variant, found in run.evaluations.items():
            phases = found.get("phases") or {"reached": {}, "failed_in": {}}
            for name, share in phases["reached"].items():
                failed = phases["failed_in"].get(name, 0)
                rows.append(
                    [run.label, words(variant), words(name), f"{100 * share:.0f}", str(failed) if failed else ""]
                )
    return html_table(rows) + command_block(command) if len(rows) > 1 else ""


def curves_section(runs: list[Run], command: str) -> str:
    chart = charts.curve_chart(runs, CURVES)
    return chart_image(chart, "training curves") + command_block(command) if chart else ""


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
    split, lines = None, {}
    for method, of_method in by_method(runs).items():
        found = rho_of(of_method[0])
        if found is not None and (split is None or found[0].steps == split.steps):
            split = split or found[0]
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
    return chart + note(f"Mean ρ over all training steps: {means}.") + command_block(command)


def probe_section(probe: Mapping[str, Any] | None) -> str:
    if not probe:
        return ""
    told = note(
        f"{probe['episodes']} episodes of the expert, {probe['steps']} steps; every step is predicted by a ridge "
        "regression that saw no step of its episode. Before the grasp only the pictures tell where an object is; "
        "afterwards it moves with the hand. Beyond proprioception: what the features explain of what the hand's pose, "
        "gripper and motion leave open. The figure's intervals are bootstrapped over episodes. The paper's probe on "
        "assembly is another one (its text gives concat 61 %, gap 74 %)."
    )
    chart = chart_image(charts.probe_chart(probe), "probe results")
    return chart + html_table(_probe_rows(probe)) + told + command_block(probe["command"])


def _probe_rows(probe: Mapping[str, Any]) -> list[list[str]]:
    """What is read off, one line each; R² and error in cm, or AUC, of every run's features."""
    found = probe["probes"]
    of_all = {label: one["positions"] for label, one in found.items()}
    kinds = dict.fromkeys((name, part) for of_run in of_all.values() for name in of_run for part in of_run[name])
    rows = [["held-out", *found, "guessing the mean"]]
    for name, part in kinds:
        ones = [of_run.get(name, {}).get(part) for of_run in of_all.values()]
        cells = ["" if one is None else f"R² {one['r2']:.2f}, {100 * one['error']:.1f} cm" for one in ones]
        guess = next(one["mean_error"] for one in ones if one is not None)
        rows.append([f"position of {name}, {part}", *cells, f"{100 * guess:.1f} cm"])
    for what, figures in _beyond_proprioception(found).items():
        cells = ["" if one is None else f"R² {one['r2']:.2f}" for one in figures]
        rows.append([f"{what}, beyond proprioception", *cells, "R² 0"])
    areas = [one["transition"] for one in found.values()]
    cells = [f"AUC {one['auc']:.3f}, {100 * one['balanced_accuracy']:.0f} %" for one in areas]
    return [*rows, ["near a switch of phase (balanced accuracy)", *cells, "50 %"]]


def _beyond_proprioception(found: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What is asked to the result of each run's features, None where it was not asked."""
    flat: list[dict[str, Any]] = []
    for one in found.values():
        objects = one.get("beyond_proprio", {}).items()
        of_run = {f"position of {name}, {part}": result for name, parts in objects for part, result in parts.items()}
        flat.append(of_run | {f"expert's action, {part}": result for part, result in one.get("actions", {}).items()})
    names = dict.fromkeys(name for of_run in flat for name in of_run)
    return {name: [of_run.get(name) for of_run in flat] for name in names}


def silenced_section(probe: Mapping[str, Any] | None) -> str:
    if not probe or not probe.get("branch_losses"):
        return ""
    rows = [["held-out loss of", "windows", "both branches", "vision alone", "proprioception alone"]]
    for label, found in probe["branch_losses"].items():
        for part in found["both"]:
            losses = [f"{found[heard][part]:.4f}" for heard in ("both", "vision", "proprio")]
            rows.append([label, PARTS.get(part, part), *losses])
    told = note(
        "Finished policies on the held-out episodes of their own dataset. Alone: the other branch's features are "
        "replaced by their mean. A large loss with vision alone means that the policy leans on proprioception, and the "
        "other way round. Near change points: the window ends within three steps of one."
    )
    return html_table(rows) + told + command_block(probe["command"])


def similarity_section(probe: Mapping[str, Any] | None) -> str:
    if not probe or len(probe["labels"]) < 3:
        return ""
    chart = chart_image(charts.similarity_chart(probe["labels"], probe["cka"]), "similarity of the features")
    told = note(
        "Linear CKA on the same pictures: 1 for features that differ by a rotation and a scale only. Untrained: a "
        "network of the same architecture with random weights."
    )
    return chart + told + command_block(probe["command"])


def takeovers_section(runs: list[Run]) -> str:
    parts = []
    for run in runs:
        for path in sorted((run.path / "takeover").glob("*/takeover.json")):
            found, settings = json.loads(path.read_text()), json.loads((path.parent / "settings.json").read_text())
            title = f"{found['other']} takes over from {found['main']}, {words(settings['variant'])}"
            told = note(
                f"{found['episodes']} rollouts per window on the same layouts; without any takeover "
                f"{found['windows'][0]['successes']} succeed. Lines: 95 % intervals of the paired difference. Always: "
                "the other policy alone."
            )
            chart = chart_image(charts.takeover_chart(found), "change of success for each window")
            parts += [f"<h3>{html.escape(title)}</h3>", chart, told, command_block(settings.get("command", ""))]
    return "".join(parts)


def videos_section(runs: list[Run], limit: int, command: str) -> str:
    figures = [
        film(data_uri(path.read_bytes(), "video/mp4"), f"{run.label}, {words(variant)}", path.stem.rsplit("_", 1)[-1])
        for run in runs
        for variant in run.evaluations
        for path in run.videos(variant)[:limit]
    ]
    return films(figures) + command_block(command) if figures else ""


def runs_section(runs: list[Run]) -> str:
    rows = [["run", "method", "seed", "steps", "seconds", "commit"]]
    for run in runs:
        seconds = f"{sum(run.summary['seconds'].values()):.0f}" if run.summary else "not finished"
        commit = run.summary.get("machine", {}).get("commit", "")
        steps = str(run.summary.get("steps", ""))
        rows.append([str(run.path), run.method, str(run.seed), steps, seconds, commit])
    command = "train-small" if runs[0].small else "finetune"
    settings = json.dumps(runs[0].config, indent=1, ensure_ascii=False)
    return (
        html_table(rows)
        + command_block(f"gap-vla {command} --config …  (each run's settings: its config.json)")
        + f"<details><summary>configuration of {html.escape(str(runs[0].path))}</summary>"
        + f"{command_block(settings)}</details>"
    )
