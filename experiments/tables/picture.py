"""A block's results as a picture: success of each arm on each variant, and the paired differences beside it."""

from __future__ import annotations

from pathlib import Path

from experiments.tables.analysis import BlockResult, pairs_of
from experiments.tables.paper import paper_success
from experiments.tables.tables import IN, OUT
from experiments.tables.tables_text import words
from gap_vla.core.outputs import writing

COLORS = ("#2b6fd9", "#d98b2b", "#3f8f4f", "#8a4fb0")
"""Of the variants, in their order."""


def draw_block(result: BlockResult, path: Path, *, title: str) -> Path:
    """Writes a PNG, the same bytes for the same ledger."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = [arm for arm in result.block.arms if arm.name in result.success]
    pairs = [pair for pair in pairs_of(result.block) if result.differences_on(*pair)]
    rows = max(len(arms), len(pairs), 2)
    figure = Figure(figsize=(10, 1.5 + 0.42 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    variants = result.variants
    offset = {v: 0.22 * ((len(variants) - 1) / 2 - place) for place, v in enumerate(variants)}
    color = dict(zip(variants, COLORS))
    paper = dict(zip((IN, OUT), result.block.paper))
    for place, arm in enumerate(reversed(arms)):
        for variant, found in result.success[arm.name].items():
            y = place + offset[variant]
            low, high = (100 * end for end in found.interval)
            left.hlines(y, low, high, color=color[variant], linewidth=2.5)
            seeds = [100 * rate for rate in found.per_seed.values()]
            left.plot(seeds, [y] * len(seeds), "o", color=color[variant], alpha=0.4, markersize=5, markeredgewidth=0)
            left.plot(100 * found.mean, y, "D", color=color[variant], markersize=6)
            figure_of_paper = paper_success(paper.get(variant, ""), result.block.task, arm.method)
            if figure_of_paper is not None and not arm.changes:
                left.plot(figure_of_paper, y, "x", color="#222222", markersize=6)
    left.set_yticks(range(len(arms)), [arm.name for arm in reversed(arms)])
    left.set_ylim(-0.6, len(arms) - 0.4)
    left.set_xlim(-3, 103)
    left.set_xlabel("success, %")
    left.set_title("mean (diamond), seeds, 95 % interval; ×: the paper", fontsize=9)
    right.axvline(0, color="#999999", linewidth=1)
    for place, pair in enumerate(reversed(pairs)):
        for variant, difference in result.differences_on(*pair).items():
            y = place + offset[variant]
            low, high = (100 * end for end in difference.interval)
            right.hlines(y, low, high, color=color[variant], linewidth=2.5)
            each = [100 * value for value in difference.per_seed]
            right.plot(each, [y] * len(each), "o", color=color[variant], alpha=0.4, markersize=5, markeredgewidth=0)
            right.plot(100 * difference.difference, y, "D", color=color[variant], markersize=6)
    right.set_yticks(range(len(pairs)), [f"{first} − {second}" for first, second in reversed(pairs)])
    right.set_ylim(-0.6, max(len(pairs), 1) - 0.4)
    right.set_xlabel("difference in success, points")
    right.set_title("paired on layouts; 95 % interval over seeds", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
    for variant in variants:
        left.plot([], [], "D", color=color[variant], label=words(variant))
    figure.legend(loc="outside lower center", ncols=len(variants), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    with writing(path, "results_picture") as temporary:
        figure.savefig(temporary, dpi=130, format="png", metadata={"Software": None})
    return path
