"""An episode as one picture: frames at the change points over ρ and the motion signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gap_vla.core.outputs import writing
from gap_vla.phases.view.episode_view import EpisodeView, Signal

MOST_FRAMES = 9


def write_picture(view: EpisodeView, path: str | Path) -> Path:
    """Writes a PNG: frames at the start and the change points (at most nine), ρ, and the signals.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    plots = [*([] if view.rho is None else [Signal("ρ", {"ρ": view.rho})]), *view.signals]
    with_frames = view.frames is not None
    figure = Figure(figsize=(11, 1.6 * len(plots) + (1.9 if with_frames else 0.4)), layout="constrained")
    grid = figure.add_gridspec(len(plots) + with_frames, 1)
    if view.frames is not None:
        steps = np.unique([0, *view.change_points])
        chosen = steps[np.linspace(0, len(steps) - 1, min(len(steps), MOST_FRAMES)).round().astype(int)]
        row = grid[0].subgridspec(1, MOST_FRAMES)
        for k, step in enumerate(chosen):
            axes = figure.add_subplot(row[k])
            axes.imshow(view.frames[step])
            axes.set_title(f"step {step}", fontsize=8)
            axes.set_axis_off()
    first = None
    for k, plot in enumerate(plots):
        axes = figure.add_subplot(grid[k + with_frames], sharex=first)
        first = first or axes
        for label, values in plot.lines.items():
            axes.plot(values, lw=1.3, label=label)
        if plot.name == "ρ":
            axes.set_ylim(0, 1.02)
        elif len(plot.lines) > 1:
            axes.legend(fontsize=7, ncols=6, loc="upper right", frameon=False)
        axes.set_ylabel(plot.name, fontsize=8)
        axes.tick_params(labelsize=7)
        for switch in view.switches.tolist():
            axes.axvline(switch, color="0.2", lw=0.9, ls=(0, (4, 3)))
        for point in view.change_points.tolist():
            axes.axvline(point, color="#c22", lw=1.0)
    assert first is not None
    first.set_title("red: change points" + ("; dashed: true switches" if view.phases is not None else ""), fontsize=8)
    figure.axes[-1].set_xlabel("step", fontsize=8)
    figure.suptitle(view.title, fontsize=9)
    with writing(path, "episode") as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return Path(path)
