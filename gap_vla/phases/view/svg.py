"""Plots over the steps of an episode as SVG text, one under the other, on a common axis."""

from __future__ import annotations

import html
import itertools

import numpy as np

from gap_vla.phases.view.episode_view import EpisodeView, Signal

WIDTH, LEFT, RIGHT = 1000, 96, 12
PLOT, STRIP, GAP = 92, 22, 26
LINES = ("#1f6feb", "#d4572a", "#2f8f4e", "#8a5cc2", "#b8860b", "#008b8b")
BANDS = ("#e3ecf8", "#f7ead9", "#e2f1e6", "#efe5f7", "#f6f0d2", "#dcf0f0")


def x_of(step: float | int, steps: int) -> float:
    """Horizontal place of a step."""
    return LEFT + (WIDTH - LEFT - RIGHT) * step / max(steps - 1, 1)


def episode_svg(view: EpisodeView) -> str:
    """All plots of an episode; the element of class `cursor` is moved by the page's script."""
    steps, y, parts = len(view), 18, []
    names: list[str] = []  # drawn last, over the marks
    if view.phases is not None:
        parts.append(_phase_strip(view, y))
        y += STRIP + GAP
    plots = []
    if view.rho is not None:
        plots.append(Signal("ρ", {"ρ": view.rho.astype(np.float64)}))
    plots += view.signals
    for plot in plots:
        parts.append(_plot(plot, y, steps, bounds=(0.0, 1.0) if plot.name == "ρ" else None))
        names.append(_names(plot, y))
        y += PLOT + GAP
    height = y - GAP + 22
    top, bottom = 18, height - 22
    below_strip = top + (STRIP if view.phases is not None else 0)
    marks = [_line(x_of(s, steps), top, bottom, "switch", f"true switch at step {s}") for s in view.switches.tolist()]
    marks += [
        _line(x_of(p, steps), below_strip, bottom, "change", f"change point at step {p}")
        for p in view.change_points.tolist()
    ]
    marks += [_tick(x_of(s, steps), bottom + 16, str(s)) for s in _round_steps(steps)]
    cursor = f'<line class="cursor" x1="{LEFT}" x2="{LEFT}" y1="{top}" y2="{bottom}"/>'
    return (
        f'<svg class="plots" viewBox="0 0 {WIDTH} {height}" data-left="{LEFT}" data-right="{WIDTH - RIGHT}" '
        f'role="img" aria-label="signals over steps">{"".join(parts)}{"".join(marks)}{"".join(names)}{cursor}</svg>'
    )


def _plot(signal: Signal, y: float | int, steps: int, bounds: tuple[float | int, float | int] | None) -> str:
    low, high = bounds or _bounds(signal)
    scale = PLOT / (high - low)
    out = [
        f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{PLOT}" class="frame"/>',
        f'<text x="{LEFT - 6}" y="{y + 9}" class="tick" text-anchor="end">{_number(high)}</text>',
        f'<text x="{LEFT - 6}" y="{y + PLOT}" class="tick" text-anchor="end">{_number(low)}</text>',
    ]
    for k, values in enumerate(signal.lines.values()):
        colour = LINES[k % len(LINES)]
        places = [(x_of(i, steps), y + PLOT - (v - low) * scale) for i, v in enumerate(values)]
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        if signal.name == "ρ":
            base = y + PLOT
            out.append(
                f'<polygon points="{LEFT},{base} {points} {places[-1][0]:.1f},{base}" fill="{colour}" opacity=".25"/>'
            )
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    return "".join(out)


def _names(signal: Signal, y: float | int) -> str:
    """The name of a plot and, where there are several, of its lines."""
    out = [f'<text x="{LEFT}" y="{y - 6}" class="name">{html.escape(signal.name)}</text>']
    x = LEFT + 190
    for k, label in enumerate(signal.lines if len(signal.lines) > 1 else ()):
        style = f"fill:{LINES[k % len(LINES)]}"
        out.append(f'<text x="{x}" y="{y - 6}" class="name" style="{style}">{html.escape(label)}</text>')
        x += 12 + 7 * len(label)
    return "".join(out)


def _phase_strip(view: EpisodeView, y: float | int) -> str:
    assert view.phases is not None
    steps = len(view)
    edges = [0, *view.switches.tolist(), steps]
    out = [f'<text x="{LEFT - 6}" y="{y + 15}" class="tick" text-anchor="end">true phase</text>']
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        left, right = x_of(a, steps), x_of(min(b, steps - 1), steps)
        name = html.escape(str(view.phases[a]))
        out.append(
            f'<rect x="{left:.1f}" y="{y}" width="{max(right - left, 0.5):.1f}" height="{STRIP}" '
            f'fill="{BANDS[k % len(BANDS)]}"><title>{name}: steps {a} to {b - 1}</title></rect>'
        )
        if right - left > 7 * len(name):
            out.append(f'<text x="{(left + right) / 2:.1f}" y="{y + 15}" class="phase">{name}</text>')
    return "".join(out)


def _line(x: float | int, top: float | int, bottom: float | int, kind: str, title: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"><title>{title}</title></line>'


def _tick(x: float | int, y: float | int, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="tick" text-anchor="middle">{text}</text>'


def _bounds(signal: Signal) -> tuple[float, float]:
    values = np.concatenate([np.asarray(v, np.float64) for v in signal.lines.values()])
    low, high = float(min(values.min(), 0)), float(values.max())
    return (low, high) if high - low > 1e-9 else (low - 1, low + 1)


def _number(value: float | int) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _round_steps(steps: int) -> list[int]:
    """About ten round numbers from 0 to the last step."""
    unit = 10 ** int(np.floor(np.log10(max(steps / 10, 1))))
    spacing = next(unit * k for k in (1, 2, 5, 10) if steps / (unit * k) <= 12)
    return list(range(0, steps, spacing))
