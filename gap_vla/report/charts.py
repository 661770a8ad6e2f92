"""The report's figures, as SVG images that need nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.drawing.figures import COLORS, figure_with, log_axis, svg
from gap_vla.report.runs import Run, by_method

LOWEST = -0.25
"""Of the axes for R²; what is worse stands at the edge as an arrow (the table has its value)."""
PARTS = {"transition": "-", "consistent": "--"}
"""Line style of steps with ρ > 0.5, and of the others."""


def curve_chart(runs: Sequence[Run], names: Mapping[str, str]) -> str | None:
    """One panel per measurement (key to title), one line per run, one colour per method."""
    methods = list(by_method(list(runs)))
    shown = {name: title for name, title in names.items() if any(len(run.curve(name)[0]) for run in runs)}
    if not shown:
        return None
    figure, (panels,) = figure_with(4.4 * len(shown), 3.0, len(shown))
    for axes, (name, title) in zip(panels, shown.items()):
        for method_number, method in enumerate(methods):
            for number, run in enumerate(r for r in runs if r.method == method):
                steps, values = run.curve(name)
                if len(steps):
                    color = COLORS[method_number % len(COLORS)]
                    axes.plot(steps, values, color=color, alpha=0.85, linewidth=1.3, label=None if number else method)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("training step")
        log_axis(axes)
        axes.grid(color="#f0f0f0")
    panels[0].legend(frameon=False, fontsize=8)
    return svg(figure)


BRANCH_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("parameter gradient, as the optimizer gets it", ("branch/{branch}_gradient", "train/grad_norm/{branch}")),
    ("parameter gradient of these samples", ("train/grad_norm/{branch}/{part}",)),
    ("loss gradient at the features, per sample", ("branch/{branch}_signal_{part}",)),
    ("loss with this branch alone", ("branch/{branch}_loss_{part}",)),
)
"""Title, and what small policies and Octo call the measurement; split by ρ where the name says so."""


def branch_chart(runs: Sequence[Run]) -> str | None:
    """Gradients and losses of each branch over training, split by ρ; means over a method's seeds. None without any."""
    methods = by_method(list(runs))
    measured = {key for run in runs for row in run.metrics for key in row}
    rows = [(title, names) for title, names in BRANCH_PANELS if any(_names(names, measured).values())]
    if not rows:
        return None
    figure, grid = figure_with(9.4, 0.6 + 2.4 * len(rows), 2, len(rows))
    for (title, names), panels in zip(rows, grid):
        for axes, branch in zip(panels, ("vision", "proprio")):
            for number, (method, of_method) in enumerate(methods.items()):
                for name, style in _names(names, measured, branch).items():
                    steps, values = _mean_curve(of_method, name)
                    if len(steps):
                        label = method if style == "-" else None
                        axes.plot(steps, values, style, color=COLORS[number % len(COLORS)], linewidth=1.3, label=label)
            axes.set_title(f"{branch}: {title}", fontsize=9)
            log_axis(axes)
            axes.grid(color="#f0f0f0")
        if "{part}" in names[0]:
            styles = [panels[1].plot([], [], style, color="#555555")[0] for style in PARTS.values()]
            panels[1].legend(styles, ["ρ > 0.5", "ρ ≤ 0.5"], frameon=False, fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    grid[0, 0].legend(frameon=False, fontsize=8)
    return svg(figure)


def _names(templates: Sequence[str], measured: set[str], *branches: str) -> dict[str, str]:
    """Measurements of these branches (none given: of any) that were taken, with their line styles."""
    found = {}
    for template in templates:
        for branch in branches or ("vision", "proprio"):
            for part, style in PARTS.items():
                name = template.format(branch=branch, part=part)
                if name in measured:
                    found[name] = style if "{part}" in template else "-"
    return found


def _mean_curve(runs: Sequence[Run], name: str, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Mean over runs and over neighbouring measurements, which are of single batches and noisy."""
    found = [run.curve(name) for run in runs]
    steps = np.concatenate([s for s, _ in found]) if found else np.zeros(0)
    values = np.concatenate([v for _, v in found]) if found else np.zeros(0)
    if not len(steps):
        return steps, values
    edges = np.linspace(steps.min(), steps.max() + 1, min(bins, len(np.unique(steps))) + 1)
    place = np.digitize(steps, edges) - 1
    kept = [b for b in range(len(edges) - 1) if (place == b).any()]
    return (np.array([np.mean(x[place == b]) for b in kept]) for x in (steps, values))  # type: ignore[return-value]


def probe_chart(result: Mapping[str, Any]) -> str:
    """R² of each object before the grasp, and AUC of steps near a switch of phase, with bootstrap intervals."""
    labels = result["labels"]
    objects = list(dict.fromkeys(name for found in result["probes"].values() for name in found["positions"]))
    panels: list[tuple[str, list[Any]]] = []
    for name in objects:
        for part in ("before grasp", "all steps"):
            found = [result["probes"][label]["positions"].get(name, {}).get(part) for label in labels]
            if any(found):
                values = [None if f is None else (f["r2"], *f["r2_interval"]) for f in found]
                panels.append((f"position of {name}\n{part}: R²", values))
    areas = [result["probes"][label]["transition"] for label in labels]
    panels.append(("near a switch\nof phase: AUC", [(f["auc"], *f["auc_interval"]) for f in areas]))
    figure, (row,) = figure_with(2.0 + 2.1 * len(panels), 1.0 + 0.36 * len(labels), len(panels), sharey=True)
    for axes, (title, values) in zip(row, panels):
        for place, value in enumerate(reversed(values)):
            if value is not None:
                color = "#999999" if labels[-1 - place] == "untrained" else COLORS[0]
                axes.hlines(place, value[1], value[2], color=color, linewidth=2.5)
                inside = value[0] >= LOWEST
                axes.plot(max(value[0], LOWEST + 0.04), place, "D" if inside else "<", color=color)
        axes.set_title(title, fontsize=9)
        axes.set_xlim(max(axes.get_xlim()[0], LOWEST), 1.03)
        axes.grid(axis="x", color="#eeeeee")
    row[0].set_yticks(range(len(labels)), list(reversed(labels)))
    return svg(figure)


def similarity_chart(labels: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """CKA between all pairs."""
    size = 1.8 + 0.55 * len(labels)
    figure, ((axes,),) = figure_with(size + 1.2, size)
    axes.imshow(np.array(matrix), vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for y, row in enumerate(matrix):
        for x, value in enumerate(row):
            axes.text(
                x, y, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "#222", fontsize=8
            )
    return svg(figure)


def takeover_chart(result: Mapping[str, Any]) -> str:
    """Change of success for each window, with paired intervals."""
    windows = [w for w in result["windows"] if w["window"] != "never"]
    figure, ((axes,),) = figure_with(max(5.0, 1.6 + 0.62 * len(windows)), 3.4)
    for place, window in enumerate(windows):
        color = "#999999" if window["window"] == "always" else COLORS[0]
        low, high = (100 * end for end in window["difference_interval"])
        axes.vlines(place, low, high, color=color, linewidth=3)
        axes.plot(place, 100 * window["difference"], "D", color=color)
    axes.axhline(0, color="#555555", linewidth=1)
    axes.set_xticks(range(len(windows)), [w["window"] for w in windows], rotation=35, ha="right")
    axes.set_ylabel("change of success, points")
    axes.grid(axis="y", color="#eeeeee")
    return svg(figure)
