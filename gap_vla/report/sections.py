"""The parts of a report, one function each: HTML, or an empty text where the runs have nothing to show."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from typing import Any

from experiments.tables.analysis import differences_of, success_of
from experiments.tables.paper import PAPER_PROBE
from experiments.tables.tables_text import words
from gap_vla.drawing import charts
from gap_vla.drawing.markup import chart_image, command_block, html_table
from gap_vla.drawing.rho_strip import rho_strip, training_rho
from gap_vla.report.compare import HOW_INTERVALS
from gap_vla.report.runs import Run, by_method
from gap_vla.rollouts.statistics import points

CURVES = {
    "train/loss": "training loss",
    "val/action_mse": "held-out action error",
    "train/gradient_norm": "gradient norm",
}
"""Measurements that every kind of run takes, and what they are called."""


def success_section(runs: list[Run], command: str) -> str:
    evaluated = {
        method: {run.seed: run.rollouts for run in of_method if run.rollouts}
        for method, of_method in by_method(runs).items()
    }
    evaluated = {method: by_seed for method, by_seed in evaluated.items() if by_seed}
    if not evaluated:
        return ""
    success = {method: success_of(by_seed) for method, by_seed in evaluated.items()}
    rows = [["method", "scene", "success %", "95 % interval", "rollouts", "per seed %"]]
    for method, of_method in success.items():
        for variant, one in of_method.items():
            low, high = (f"{100 * end:.0f}" for end in one.interval)
            per_seed = ", ".join(f"{seed}: {100 * rate:.0f}" for seed, rate in one.per_seed.items())
            rows.append(
                [method, words(variant), f"{100 * one.mean:.0f}", f"{low} to {high}", str(one.episodes), per_seed]
            )
    parts = [chart_image(charts.success_chart(success), "success of each method"), html_table(rows)]
    reference = "concat" if "concat" in evaluated else "vp" if "vp" in evaluated else next(iter(evaluated))
    differences = [["difference", "scene", "points", "95 % interval", "per seed", "McNemar p"]]
    for method in evaluated:
        if method != reference:
            for variant, pair in differences_of(evaluated[method], evaluated[reference]).items():
                low, high = map(points, pair.interval)
                each = ", ".join(map(points, pair.per_seed))
                name = f"{method} − {reference}"
                differences.append(
                    [name, words(variant), points(pair.difference), f"{low} to {high}", each, f"{pair.p_mcnemar:.2g}"]
                )
    if len(differences) > 1:
        parts.append(html_table(differences))
    parts.append(f'<p class="note">{HOW_INTERVALS} McNemar\'s test counts all pairs as independent.</p>')
    return "".join(parts) + command_block(command)


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
    note = (
        '<p class="note">Measured at single training steps. Loss with a branch alone: the other branch\'s features are '
        "replaced by their mean over the batch. The loss gradient at the features is taken before GAP scales it, the "
        "parameter gradient after.</p>"
    )
    return chart_image(chart, "gradients and losses of each branch") + note + command_block(command)


def rho_section(runs: list[Run], command: str) -> str:
    split, lines = None, {}
    for method, of_method in by_method(runs).items():
        found = training_rho(of_method[0])
        if found is not None and (split is None or found[0].steps == split.steps):
            split = split or found[0]
            lines[method] = found[1]
    if split is None:
        return ""
    chart = chart_image(rho_strip(split, lines), "frames of a demonstration and ρ of every step")
    means = ", ".join(f"{method} {values.mean():.3f}" for method, values in lines.items())
    return f'{chart}<p class="note">Mean ρ over all training steps: {means}.</p>{command_block(command)}'


def probe_section(probe: Mapping[str, Any] | None) -> str:
    if not probe:
        return ""
    rows = _probe_rows(probe)
    paper = ", ".join(f"{method} {value:.0f} %" for method, value in PAPER_PROBE.items())
    note = (
        f'<p class="note">{probe["episodes"]} episodes of the expert, {probe["steps"]} steps; every step is predicted '
        "by a ridge regression that saw no step of its episode. Before the grasp only the pictures tell where an "
        "object is; afterwards it moves with the hand. Beyond proprioception: what the features explain of what the "
        "hand's pose, gripper and motion leave open. The figure's intervals are bootstrapped over episodes. The "
        f"paper's probe on assembly is another one (its text gives {paper}).</p>"
    )
    return (
        chart_image(charts.probe_chart(probe), "probe results")
        + html_table(rows)
        + note
        + command_block(probe["command"])
    )


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
    return [*rows, ["motion transitions (balanced accuracy)", *cells, "50 %"]]


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
            rows.append([label, part, *(f"{found[heard][part]:.4f}" for heard in ("both", "vision", "proprio"))])
    note = (
        '<p class="note">Finished policies on the held-out episodes of their own dataset. Alone: the other branch\'s '
        "features are replaced by their mean. A large loss with vision alone means that the policy leans on "
        "proprioception, and the other way round. Transition: the window ends within three steps of a change point.</p>"
    )
    return html_table(rows) + note + command_block(probe["command"])


def similarity_section(probe: Mapping[str, Any] | None) -> str:
    if not probe or len(probe["labels"]) < 3:
        return ""
    chart = chart_image(charts.similarity_chart(probe["labels"], probe["cka"]), "similarity of the features")
    note = (
        '<p class="note">Linear CKA on the same pictures: 1 for features that differ by a rotation and a scale only. '
        "Untrained: a network of the same architecture with random weights.</p>"
    )
    return chart + note + command_block(probe["command"])


def takeovers_section(runs: list[Run]) -> str:
    parts = []
    for run in runs:
        for path in sorted((run.path / "takeover").glob("*/takeover.json")):
            found, settings = json.loads(path.read_text()), json.loads((path.parent / "settings.json").read_text())
            never = found["windows"][0]
            parts.append(
                f"<h3>{html.escape(found['other'])} takes over from {html.escape(found['main'])}, "
                f"{words(settings['variant'])}</h3>"
                + chart_image(charts.takeover_chart(found), "change of success for each window")
                + f'<p class="note">{found["episodes"]} rollouts per window on the same layouts; without any takeover '
                f"{never['successes']} succeed. Lines: 95 % intervals of the paired difference. Always: the other "
                "policy alone.</p>" + command_block(settings.get("command", ""))
            )
    return "".join(parts)


def videos_section(runs: list[Run], limit: int, command: str) -> str:
    figures = []
    for run in runs:
        for variant in run.evaluations:
            for path in run.videos(variant)[:limit]:
                outcome = path.stem.rsplit("_", 1)[-1]
                data = base64.b64encode(path.read_bytes()).decode()
                caption = f"{html.escape(run.label)}, {words(variant)}: <b>{html.escape(outcome)}</b>"
                figures.append(
                    f'<figure class="{html.escape(outcome)}"><video controls loop muted playsinline '
                    f'src="data:video/mp4;base64,{data}"></video><figcaption>{caption}</figcaption></figure>'
                )
    return f'<div class="videos">{"".join(figures)}</div>{command_block(command)}' if figures else ""


def runs_section(runs: list[Run]) -> str:
    rows = [["run", "method", "seed", "steps", "seconds", "commit"]]
    for run in runs:
        seconds = f"{sum(run.summary['seconds'].values()):.0f}" if run.summary else "not finished"
        commit = run.summary.get("machine", {}).get("commit", "")
        steps = str(run.summary.get("steps", ""))
        rows.append([str(run.path), run.method, str(run.seed), steps, seconds, commit])
    script = "train_small.py" if runs[0].small else "finetune.py"
    settings = json.dumps(runs[0].config, indent=1, ensure_ascii=False)
    return (
        html_table(rows)
        + command_block(f"python scripts/{script} --config …  (each run's settings: its config.json)")
        + f"<details><summary>configuration of {html.escape(str(runs[0].path))}</summary>"
        + f"{command_block(settings)}</details>"
    )
