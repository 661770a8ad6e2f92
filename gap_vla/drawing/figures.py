"""One style for charts: colours, axes, and images that need nothing from elsewhere."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from gap_vla.drawing.markup import data_uri

COLORS = ("#2b6fd9", "#d98b2b", "#3f8f4e", "#8a4fb0", "#c0392b", "#148f8f", "#7f6a3f", "#5d6d7e")
MARKERS = ("D", "s", "^", "v", "P", "X")
"""Of points: the first for as many names as there are colours, the second for as many more."""


def distinct(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each name; no two of the first 48 have both in common.

    >>> list(distinct("abcdefghi").values())[::8]
    [('#2b6fd9', 'D'), ('#2b6fd9', 's')]
    """
    looks = itertools.cycle((color, marker) for marker in MARKERS for color in COLORS)
    return dict(zip(names, looks))


def line_style(color: str, marker: str) -> dict[str, Any]:
    """A look of `distinct` for a line; the first marker, which every line would have, is left away."""
    return {"color": color} if marker == MARKERS[0] else {"color": color, "marker": marker, "ms": 4, "markevery": 0.1}


def figure_with(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """A matplotlib figure of this size (inches) and its axes, always as an array [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def saved(figure: Any, **options: Any) -> bytes:
    """The bytes that `figure.savefig` writes with these options. A $ in a name begins no formula."""
    import matplotlib

    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def save_picture(figure: Any, path: Path, dpi: int = 130) -> None:
    """Writes a PNG of 64 colours; the same bytes for the same figure."""
    from PIL import Image

    drawn = saved(figure, dpi=dpi, format="png", metadata={"Software": None})
    with Image.open(io.BytesIO(drawn)) as image:
        image.convert("RGB").quantize(64).save(path, "PNG", optimize=True)


def svg_text(figure: Any, fonts: str = "path") -> str:
    """The figure as an SVG element, the same for the same figure.

    Args:
        fonts: "path" draws letters; "none" leaves them texts, in the page's font.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "gap_vla", "svg.fonttype": fonts}):
        return saved(figure, format="svg", metadata={"Date": None}).decode()


def chart(figure: Any, alt: str) -> Markup:
    """The figure as an image of a page."""
    return Markup('<img class="chart" alt="{}" src="{}">').format(
        alt, data_uri(svg_text(figure).encode(), "image/svg+xml")
    )


def value_axis(axes: Any) -> None:
    """A logarithmic axis for what is plotted, labelled at 1, 2 and 5 times the powers of ten; linear below the least
    positive value if there are zeros, and linear throughout if there are negative values."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, SymmetricalLogLocator

    axes.grid(color="#f0f0f0")
    values = np.concatenate([np.zeros(0), *(np.asarray(line.get_ydata(), float) for line in axes.lines)])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if (values < 0).any() or (len(values) and not len(positive)):
        return
    if len(positive) < len(values):
        axes.set_yscale("symlog", linthresh=positive.min())
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=positive.min()))
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
