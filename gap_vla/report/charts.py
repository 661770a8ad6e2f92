"""The report's figures, as SVG images that need nothing from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from gap_vla.drawing.figures import distinct, figure_with, line_style, svg, value_axis
from gap_vla.report.runs import Run, by_method

PARTS = {"transition": "-", "consistent": "--"}
"""Line style of steps with ρ > 0.5, and of the others."""


def curve_chart(runs: Sequence[Run], names: Mapping[str, str]) -> str | None:
    """One panel per measurement (key to title), one line per run, one colour per method."""
    methods = by_method(list(runs))
    shown = {name: title for name, title in names.items() if any(len(run.curve(name)[0]) for run in runs)}
    if not shown:
        return None
    looks = {method: line_style(*look) for method, look in distinct(methods).items()}
    figure, (panels,) = figure_with(4.4 * len(shown), 3.0, len(shown))
    for axes, (name, title) in zip(panels, shown.items()):
        for method, of_method in methods.items():
            for run in of_method:
                axes.plot(*run.curve(name), **looks[method], alpha=0.85, linewidth=1.3)
            axes.plot([], [], **looks[method], linewidth=1.3, label=method)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("training step")
        value_axis(axes)
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
    looks = {method: line_style(*look) for method, look in distinct(methods).items()}
    figure, grid = figure_with(9.4, 0.6 + 2.4 * len(rows), 2, len(rows))
    for (title, names), panels in zip(rows, grid):
        for axes, branch in zip(panels, ("vision", "proprio")):
            for method, of_method in methods.items():
                for name, style in _names(names, measured, branch).items():
                    steps, values = _mean_curve(of_method, name)
                    if len(steps):
                        label = method if style == "-" else None
                        axes.plot(steps, values, style, **looks[method], linewidth=1.3, label=label)
            axes.set_title(f"{branch}: {title}", fontsize=9)
            value_axis(axes)
        if "{part}" in names[0]:
            styles = [panels[1].plot([], [], style, color="#555555")[0] for style in PARTS.values()]
            panels[1].legend(styles, ["ρ > 0.5", "ρ ≤ 0.5"], frameon=False, fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    labelled = dict(pair for axes in grid.flat for pair in zip(*axes.get_legend_handles_labels()[::-1]))
    if labelled:  # a branch that is not trained has no curve
        grid[0, 0].legend(labelled.values(), labelled.keys(), frameon=False, fontsize=8)
    return svg(figure)


def _names(templates: Sequence[str], measured: set[str], *branches: str) -> dict[str, str]:
    """Measurements of these branches (none given: of any) that were taken, with their line styles."""
    asked = itertools.product(templates, branches or ("vision", "proprio"), PARTS.items())
    styles = {t.format(branch=branch, part=part): style if "{part}" in t else "-" for t, branch, (part, style) in asked}
    return {name: style for name, style in styles.items() if name in measured}


def _mean_curve(runs: Sequence[Run], name: str, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the runs that measured it, each averaged over neighbouring measurements first, which are of single
    batches and noisy; of the training steps that all of them have."""
    found = [(steps, values) for steps, values in (run.curve(name) for run in runs) if len(steps)]
    first = max((steps.min() for steps, _ in found), default=0)
    last = min((steps.max() for steps, _ in found), default=-1)
    inside = [(steps >= first) & (steps <= last) for steps, _ in found]
    found = [(steps[here], values[here]) for (steps, values), here in zip(found, inside)]
    fewest = min((len(np.unique(steps)) for steps, _ in found), default=0)
    if not fewest:
        return np.zeros(0), np.zeros(0)
    edges = np.linspace(first, last + 1, min(bins, fewest) + 1)
    places = [np.digitize(steps, edges) - 1 for steps, _ in found]
    kept = [b for b in range(len(edges) - 1) if all((place == b).any() for place in places)]
    means = [[(s[p == b].mean(), v[p == b].mean()) for b in kept] for (s, v), p in zip(found, places)]
    at, of = np.reshape(means, (len(found), len(kept), 2)).mean(0).T
    return at, of
