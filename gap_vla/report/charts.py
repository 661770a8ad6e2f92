"""Charts of what runs measured while they trained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gap_vla.drawing.figures import distinct, figure_with, line_style, value_axis
from gap_vla.report.runs import Run, by_method

PARTS = {"transition": "-", "consistent": "--"}
"""Line style of steps with ρ > 0.5, and of the others."""

CURVES = {
    "train/loss": "training loss",
    "val/action_mse": "held-out action error",
    "train/gradient_norm": "gradient norm",
    "train/grad_norm": "gradient norm",
}
"""Measurements and what they are called; small policies and Octo have one name each for the gradient norm."""

BRANCHES = ("vision", "proprio")
BRANCH_PANELS = (
    (
        "parameter gradient, as the optimizer gets it",
        ("branch/{branch}_gradient", "train/grad_norm/{branch}"),
        "The parameter gradient is taken after GAP has scaled it.",
    ),
    ("parameter gradient of these samples", ("train/grad_norm/{branch}/{part}",), ""),
    (
        "loss gradient at the features, per sample",
        ("branch/{branch}_signal_{part}",),
        "The loss gradient at the features is taken before GAP scales it.",
    ),
    (
        "loss with this branch alone",
        ("branch/{branch}_loss_{part}",),
        "Loss with a branch alone: the other branch's features are replaced by their mean over the batch.",
    ),
)
"""Title; what small policies and Octo call the measurement, split by ρ where the name says so; what a reader needs."""


def curve_chart(runs: Sequence[Run]) -> Any:
    """A figure of one panel per measurement of `CURVES`, one line per run, one colour per method; None without any.
    A dotted line marks the step until which the branch is adjusted."""
    methods = by_method(runs)
    shown = {name: title for name, title in CURVES.items() if any(len(run.curve(name)[0]) for run in runs)}
    if not shown:
        return None
    looks = {method: line_style(*look) for method, look in distinct(methods).items()}
    figure, (panels,) = figure_with(4.4 * len(shown), 3.0, len(shown))
    for axes, (name, title) in zip(panels, shown.items()):
        for method, of_method in methods.items():
            for run in of_method:
                steps, values = run.curve(name)
                axes.plot(steps, values, **looks[method], alpha=0.85, linewidth=1.3)
                if len(steps) == 1:
                    axes.plot(steps, values, "o", color=looks[method]["color"], ms=4)
            axes.plot([], [], **looks[method], linewidth=1.3, label=method)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("training step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        value_axis(axes)
    _mark_stops(panels, runs)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _mark_stops(panels: Any, runs: Sequence[Run]) -> None:
    """A dotted line where the adjustment ends, named in the first panel."""
    for stop in sorted({run.gap_stops for run in runs if run.gap_stops is not None}):
        for axes in panels:
            axes.axvline(stop, color="#555555", linewidth=1, linestyle=":")
        panels[0].annotate(
            "adjusted until here",
            (stop, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            fontsize=7,
        )


def branch_chart(runs: Sequence[Run]) -> tuple[Any, str]:
    """A figure of the gradients and losses of each branch over training, split by ρ, means over a method's seeds; and
    what a reader needs to know about it. (None, "") where nothing was measured."""
    methods = by_method(runs)
    measured = {key for run in runs for row in run.metrics for key in row}
    rows = [panel for panel in BRANCH_PANELS if any(_names(panel[1], branch, measured) for branch in BRANCHES)]
    if not rows:
        return None, ""
    looks = {method: line_style(*look) for method, look in distinct(methods).items()}
    figure, grid = figure_with(9.4, 0.6 + 2.4 * len(rows), 2, len(rows))
    for (title, names, _), panels in zip(rows, grid):
        for axes, branch in zip(panels, BRANCHES):
            for method, of_method in methods.items():
                for name, style in _names(names, branch, measured).items():
                    steps, values = mean_curve(of_method, name)
                    if len(steps):
                        label = method if style == "-" else None
                        axes.plot(steps, values, style, **looks[method], linewidth=1.3, label=label)
            axes.set_title(f"{branch}: {title}", fontsize=9)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if axes.lines:
                value_axis(axes)
            else:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, fontsize=9)
        if "{part}" in names[0]:
            styles = [panels[1].plot([], [], style, color="#555555")[0] for style in PARTS.values()]
            panels[1].legend(styles, ["ρ > 0.5", "ρ ≤ 0.5"], frameon=False, fontsize=8)
    _mark_stops([axes for axes in grid.flat if axes.axison], runs)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    labelled = dict(pair for axes in grid.flat for pair in zip(*axes.get_legend_handles_labels()[::-1]))
    if labelled:  # a branch that is not trained has no curve
        grid[0, 0].legend(labelled.values(), labelled.keys(), frameon=False, fontsize=8)
    return figure, " ".join(filter(None, ("Measured at single training steps.", *(told for _, _, told in rows))))


def _names(templates: Sequence[str], branch: str, measured: set[str]) -> dict[str, str]:
    """The measurements of a branch that were taken, with their line styles."""
    found = {}
    for template, (part, style) in itertools.product(templates, PARTS.items()):
        name = template.format(branch=branch, part=part)
        if name in measured:
            found[name] = style if "{part}" in template else "-"
    return found


def mean_curve(runs: Sequence[Run], name: str, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the runs that measured it, over the training steps that all of them have. Measurements are of single
    batches and noisy, so neighbouring ones of a run are averaged first.
    """
    curves = [pd.DataFrame({"step": steps, "value": values}) for steps, values in (run.curve(name) for run in runs)]
    curves = [curve for curve in curves if len(curve)]
    first = max((curve.step.min() for curve in curves), default=0)
    last = min((curve.step.max() for curve in curves), default=-1)
    curves = [curve[curve.step.between(first, last)] for curve in curves]
    fewest = min((curve.step.nunique() for curve in curves), default=0)
    if not fewest:
        return np.zeros(0), np.zeros(0)
    edges = np.linspace(first, last + 1, min(bins, fewest) + 1)
    averaged = [curve.groupby(np.digitize(curve.step, edges)).mean() for curve in curves]
    by_bin = pd.concat(averaged).groupby(level=0)
    mean = by_bin.mean()[by_bin.size() == len(curves)]
    return mean["step"].to_numpy(), mean["value"].to_numpy()
