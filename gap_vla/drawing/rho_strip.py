"""ρ of one demonstration under its frames."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gap_vla.drawing.figures import COLORS, figure_with, svg

FRAMES = 14


def rho_strip(
    rho: Mapping[str, Float[np.ndarray, " T"]],
    images: np.ndarray | None = None,
    change_point: np.ndarray | None = None,
    phase: Sequence[str] | None = None,
) -> str:
    """Frames of one demonstration, and below them ρ of every step, change points and the expert's phases.

    Args:
        rho: name to ρ of all steps; one line each.
        images: uint8[T, h, w, 3].
        change_point: bool[T].
        phase: the phase at each step.

    Returns:
        An SVG as a data URI.
    """
    steps = len(next(iter(rho.values())))
    figure, ((above,), (below,)) = figure_with(11, 2.9, rows=2, height_ratios=(1, 1.6))
    above.axis("off")
    if images is not None:
        chosen = np.linspace(0, steps - 1, FRAMES).round().astype(int)
        above.imshow(np.concatenate(list(images[chosen]), axis=1), aspect="equal")
    for number, (name, values) in enumerate(rho.items()):
        below.plot(values, color=COLORS[number % len(COLORS)], linewidth=1.6, label=name)
    if change_point is not None:
        for step in np.flatnonzero(change_point):
            below.axvline(step, color="#c22222", linewidth=0.8, alpha=0.6)
    if phase is not None:
        names = list(phase)
        edges = [0, *[s for s in range(1, steps) if names[s] != names[s - 1]], steps]
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            below.axvspan(start, end, color="#f2f4f7" if number % 2 else "#ffffff", zorder=0)
            below.text((start + end) / 2, 1.08, names[start], ha="center", va="bottom", fontsize=8, color="#555555")
    below.set_xlim(0, steps - 1)
    below.set_ylim(-0.02, 1.05)
    below.set_ylabel("ρ")
    below.set_xlabel("step of the demonstration (red: change points)")
    below.legend(frameon=False, fontsize=8, loc="upper right")
    return svg(figure)
