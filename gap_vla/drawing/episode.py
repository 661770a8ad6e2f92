"""An episode as a picture or a page: frames at its change points over ρ and its signals."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from markupsafe import Markup

from gap_vla.core.episode import Episode
from gap_vla.core.files import replacing
from gap_vla.drawing.figures import COLORS, saved, svg_text
from gap_vla.drawing.markup import render

CHANGE, SWITCH, BELOW_RHO, BAND = "#cc2222", "#333333", "#c7dbfa", "#f2f4f7"
MOST_FRAMES = 9


@dataclasses.dataclass(frozen=True)
class Plot:
    """Lines over the steps of an episode, label to f64[T]; `name` says the quantity and its unit. `ρ` goes from 0 to
    1."""

    name: str
    lines: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class EpisodeView:
    """What is shown of one episode.

    Attributes:
        frames: camera to uint8[T, h, w, 3]; pages show the first one.
        phases: name per step, or None; its switches are the true change points.
        signals: further plots, in order.
        facts: lines under the heading.
    """

    title: str
    length: int
    frames: Mapping[str, UInt8[np.ndarray, "T h w 3"]] = dataclasses.field(default_factory=dict)
    rho: Float[np.ndarray, " T"] | None = None
    change_points: Int[np.ndarray, " K"] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    phases: np.ndarray | None = None
    signals: tuple[Plot, ...] = ()
    facts: tuple[str, ...] = ()

    @classmethod
    def of(cls, episode: Episode, **others: Any) -> EpisodeView:
        """All cameras, ρ, change points and phases of an episode, under its name; `others` replace fields."""
        fields = {
            "title": episode.name,
            "length": len(episode),
            "frames": dict(sorted(episode.images.items())),
            "rho": episode.rho,
            "change_points": np.flatnonzero(() if episode.change_point is None else episode.change_point),
            "phases": episode.phase,
        }
        return cls(**{**fields, **others})

    def __len__(self) -> int:
        return self.length

    @property
    def switches(self) -> np.ndarray:
        """int64[L]: where the true phase changes."""
        names = np.zeros(0) if self.phases is None else np.asarray(self.phases)
        return 1 + np.flatnonzero(names[1:] != names[:-1])

    @property
    def plots(self) -> list[Plot]:
        """ρ, if there is any, and the signals."""
        rho = [] if self.rho is None else [Plot("ρ", {"ρ": np.asarray(self.rho, np.float64)})]
        return [*rho, *self.signals]

    @property
    def shown_frames(self) -> np.ndarray | None:
        """uint8[T, h, w, 3] of the first camera, or None."""
        return next(iter(self.frames.values()), None)


def episode_figure(view: EpisodeView, *, with_frames: bool = True) -> Any:
    """A matplotlib figure: a row of frames for each camera, at the start and at change points or, where there are none,
    at equal distances; below them the plots.
    """
    from matplotlib.figure import Figure

    plots, cameras = view.plots, list(view.frames.items()) if with_frames else []
    figure = Figure(figsize=(11, 0.4 + 1.5 * len(cameras) + 1.6 * len(plots)), layout="constrained")
    grid = figure.add_gridspec(max(len(cameras) + len(plots), 1), 1)
    steps = np.unique([0, *view.change_points]) if len(view.change_points) else np.arange(len(view))
    shown = np.linspace(0, len(steps) - 1, min(len(steps), MOST_FRAMES))
    steps = steps[shown.round().astype(int)]
    for row, (camera, frames) in enumerate(cameras):
        places = grid[row].subgridspec(1, MOST_FRAMES)
        for place, step in enumerate(steps):
            axes = figure.add_subplot(places[place])
            axes.imshow(frames[step])
            axes.set_title(f"step {step}" if place or len(cameras) == 1 else camera, fontsize=8)
            axes.set_axis_off()
    first = None
    for row, plot in enumerate(plots, len(cameras)):
        axes = figure.add_subplot(grid[row], sharex=first)
        first = first or axes
        draw_plot(axes, plot, view)
        axes.set_ylabel(plot.name, fontsize=8)
        axes.tick_params(labelsize=7)
        if len(plot.lines) > 1:
            axes.legend(fontsize=7, ncols=6, loc="upper right", frameon=False)
    if first is not None:
        _name_phases(first, view)
        dashed = "; dashed: true switches" if view.phases is not None else ""
        axes.set_xlabel(f"step (red: change points{dashed})", fontsize=8)
    if with_frames and view.title:
        figure.suptitle(view.title[:150], fontsize=9)
    return figure


def draw_plot(axes: Any, plot: Plot, view: EpisodeView) -> None:
    """One plot with the marks of the episode: change points in red, true switches dashed, true phases as bands."""
    for colour, (label, values) in zip(COLORS * len(plot.lines), plot.lines.items()):
        axes.plot(values, lw=1.3, label=label, color=colour)
    if plot.name == "ρ":
        axes.set_ylim(0, 1.02)
        if len(plot.lines) == 1:
            axes.fill_between(range(len(values)), values, color=BELOW_RHO, lw=0)
    axes.set_xlim(0, max(len(view) - 1, 1))
    for start, end in list(_phases(view))[1::2]:
        axes.axvspan(start, end, color=BAND, lw=0, zorder=0)
    for switch in view.switches:
        axes.axvline(switch, color=SWITCH, lw=0.9, ls=(0, (4, 3)))
    for point in view.change_points:
        axes.axvline(point, color=CHANGE, lw=1.0)


def _phases(view: EpisodeView) -> Iterator[tuple[int, int]]:
    """Start and end of each true phase."""
    return itertools.pairwise([0, *view.switches.tolist(), len(view)] if view.phases is not None else [])


def _name_phases(axes: Any, view: EpisodeView) -> None:
    """The names of the true phases above a plot, where there is room for them."""
    for start, end in _phases(view):
        name = str(view.phases[start])  # type: ignore[index]
        if 700 * (end - start) / len(view) > 4 * len(name):
            place = {"ha": "center", "va": "bottom", "transform": axes.get_xaxis_transform()}
            axes.text((start + end) / 2, 1.02, name, fontsize=7, color=SWITCH, **place)


def episode_png(view: EpisodeView, dpi: int = 120) -> bytes:
    """`episode_figure` as a PNG."""
    return saved(episode_figure(view), dpi=dpi, format="png", metadata={"Software": None})


def write_picture(view: EpisodeView, path: Path) -> Path:
    """Writes `episode_figure` as PNG."""
    with replacing(path) as temporary:
        temporary.write_bytes(episode_png(view))
    return path


def episodes_page(title: str, views: Sequence[EpisodeView], *before: Markup) -> str:
    """The page of some episodes: a slider moves through frames and plots.

    Args:
        before: pieces of the page above the episodes.
    """
    return render(
        "drawing/templates/episodes.html",
        title=title,
        parts=before,
        switches=any(view.phases is not None for view in views),
        episodes=[_on_page(view) for view in views],
    )


def _on_page(view: EpisodeView) -> dict[str, Any]:
    frames = view.shown_frames
    data = {
        "steps": len(view),
        "start": int(view.change_points[0]) if len(view.change_points) else 0,
        "rho": None if view.rho is None else [round(float(r), 4) for r in view.rho],
        "phases": None if view.phases is None else [str(name) for name in view.phases],
        "frames": None if frames is None else [_jpeg(frame) for frame in frames],
    }
    figure = episode_figure(view, with_frames=False)
    text = svg_text(figure, fonts="none")
    idle = r'<metadata>.*?</metadata>| xmlns(:\w+)?="[^"]*"| font-family: [^;]*;'
    plots = Markup(re.sub(idle, "", text[text.index("<svg") :], flags=re.DOTALL))
    place = figure.axes[0].get_position()  # where the cursor moves, as shares of the width; known once it is drawn
    ends = {"left": f"{place.x0:.4f}", "right": f"{place.x1:.4f}"}
    return {"title": view.title, "facts": view.facts, "data": data, "plots": plots, **ends}


def _jpeg(frame: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()
