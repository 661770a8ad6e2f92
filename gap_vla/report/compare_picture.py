"""The comparison as a picture: success of each method with its seeds, and the paired differences beside it."""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.whole import replacing
from gap_vla.report.compare import Comparison, label

_COLORS = {"v": "#8a8a8a", "vp": "#d98b2b", "vp_gap": "#2b6fd9"}


def draw_comparison(comparison: Comparison, path: Path, *, title: str) -> Path:
    """Writes a PNG; under a temporary name first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = [pair for pair in comparison.pairs if pair.found is not None]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    for place, row in enumerate(comparison.methods):
        color = _COLORS.get(row.method, "#555555")
        low, high = (100 * end for end in row.interval)
        mean = 100 * row.mean
        left.bar(place, mean, width=0.6, color=color, alpha=0.35)
        left.vlines(place, low, high, color=color, linewidth=2.5)
        count = len(row.per_seed)
        spread = [place + 0.09 * (index - (count - 1) / 2) for index in range(count)]
        left.plot(spread, [100 * rate for rate in row.per_seed.values()], "o", color=color, markeredgecolor="white")
        left.annotate(
            f"{mean:.0f} %",
            (place, max(high, 100 * max(row.per_seed.values()))),
            (0, 3),
            textcoords="offset points",
            ha="center",
        )
    left.set_xticks(range(len(comparison.methods)), [label(row.method) for row in comparison.methods])
    left.set_ylim(0, 110)
    left.set_yticks(range(0, 101, 25))
    left.set_ylabel("success, %")
    left.set_title("mean over seeds; line: 95 % interval; dots: seeds", fontsize=9)
    right.axvline(0, color="#999999", linewidth=1)
    for place, pair in enumerate(reversed(pairs)):
        assert pair.found is not None
        color = _COLORS.get(pair.first, "#555555")
        low, high = (100 * end for end in pair.found.interval)
        right.hlines(place, low, high, color=color, linewidth=2.5)
        per_seed = [100 * value for value in pair.found.per_seed]
        right.plot(per_seed, [place] * pair.found.seeds, "o", color=color, alpha=0.4)
        right.plot(100 * pair.found.difference, place, "D", color=color)
    names = [f"{label(pair.first)} − {label(pair.second)}" for pair in reversed(pairs)]
    right.set_yticks(range(len(pairs)), names)
    right.set_ylim(-0.6, max(len(pairs), 1) - 0.4)
    right.set_xlabel("difference in success, points")
    right.set_title("paired on layouts; line: 95 % interval over seeds; dots: seeds", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
    return path
