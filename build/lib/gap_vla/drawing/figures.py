"""One style for charts: colours, axes, and SVG images that need nothing from elsewhere."""

from __future__ import annotations

import io
from typing import Any

from gap_vla.drawing.markup import data_uri

COLORS = ("#2b6fd9", "#d98b2b", "#3f8f4e", "#8a4fb0", "#c0392b", "#148f8f", "#7f6a3f", "#5d6d7e")


def figure_with(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """A matplotlib figure of this size (inches) and its axes, always as an array [rows, columns]."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def svg_text(figure: Any, fonts: str = "path") -> str:
    """The figure as an SVG element, the same for the same figure.

    Args:
        fonts: "path" draws letters; "none" leaves them texts, in the page's font.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "gap_vla", "svg.fonttype": fonts}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def svg(figure: Any) -> str:
    """The figure as a data URI."""
    return data_uri(svg_text(figure).encode(), "image/svg+xml")


def log_axis(axes: Any) -> None:
    """Logarithmic, with a grid and with labels at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#f0f0f0")
