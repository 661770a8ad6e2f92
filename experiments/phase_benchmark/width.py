"""ρ of one recording as each variant of the LSTM gives it: how wide it is, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.phase_benchmark.recordings import Recording
from experiments.phase_benchmark.study import fitted, halves
from gap_vla.core.outputs import writing
from gap_vla.phases.methods import Options, gaussian_rho, resolved, segment_points

SHOWN = ("assembly", "threading")


def widths(tasks: Mapping[str, Sequence[Recording]], variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """ρ of the first recording of the test half, the LSTM trained on the other half.

    Returns:
        {task: {"change_points", "switches", "rho": {variant: values}}} for the tasks of `SHOWN` that are there; the
        last variant is bumps of σ 4 around the change points, without LSTM.
    """
    out = {}
    for task in SHOWN:
        if task not in tasks:
            continue
        train, test = halves(tasks[task])
        motion = test[0].motion
        points = segment_points(motion, None, resolved(Options(), [r.motion for r in train]))
        rho = {name: fitted(train, **settings).predict(motion) for name, settings in variants.items()}
        rho["bumps, σ 4"] = gaussian_rho(points, len(motion), Options())
        out[task] = {
            "change_points": points.tolist(),
            "switches": test[0].switches.tolist(),
            "rho": {name: np.round(values, 4).astype(float).tolist() for name, values in rho.items()},
        }
    return out


def draw_widths(found: Mapping[str, Any], path: Path) -> Path:
    """One column per task, one row per variant; red: change points, dashed: true switches."""
    from matplotlib.figure import Figure

    names = list(next(iter(found.values()))["rho"])
    figure = Figure(figsize=(11, 1.15 * len(names) + 0.6), layout="constrained")
    axes = figure.subplots(len(names), len(found), sharex="col", sharey=True, squeeze=False)
    for column, (task, one) in enumerate(found.items()):
        for row, name in enumerate(names):
            panel, values = axes[row, column], one["rho"][name]
            panel.fill_between(range(len(values)), values, color="#1f6feb", alpha=0.3, lw=0)
            panel.plot(values, color="#1f6feb", lw=1.2)
            for point in one["change_points"]:
                panel.axvline(point, color="#c22", lw=0.9)
            for switch in one["switches"]:
                panel.axvline(switch, color="0.2", lw=0.8, ls=(0, (4, 3)))
            panel.set_ylim(0, 1.02)
            panel.tick_params(labelsize=7)
            panel.set_title(f"{task}: {name}, mean {np.mean(values):.2f}", fontsize=8, loc="left", pad=3)
    for panel in axes[-1]:
        panel.set_xlabel("step", fontsize=8)
    with writing(path, "phase_benchmark") as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path
