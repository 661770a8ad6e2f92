"""A comparison shown: as tables in text and Markdown, as a picture, and as files beside the runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json, replacing, write_json
from gap_vla.drawing.figures import MARKERS, distinct, figure_with, save_picture
from gap_vla.drawing.markup import markdown_table, text_table, untagged
from gap_vla.report.comparison import (
    LABELS,
    WITH_P,
    BySeed,
    Comparison,
    Name,
    Success,
    compare,
    label,
    read_rollouts,
    shared_seeds,
    words,
)
from gap_vla.rollouts.statistics import PairedDifference, percent, points

TABLES = ("table.md", "table.json", "table.png")
"""What a comparison is written as."""

Marks = Mapping[tuple[str, str], float]
"""(method, variant) to a figure in % that others published."""


def percents(found: Success) -> tuple[str, str, str]:
    """Mean, interval and the rate of each seed, as texts in per cent."""
    low, high = found.interval
    per_seed = ", ".join(map(percent, found.per_seed.values()))
    return percent(found.mean), f"{percent(low)} to {percent(high)}", per_seed


def in_points(found: PairedDifference) -> tuple[str, str, str]:
    """Difference, interval and the difference of each seed, as texts in points."""
    low, high = found.interval
    return points(found.difference), f"{points(low)} to {points(high)}", ", ".join(map(points, found.per_seed))


def tables(comparison: Comparison, name: Name = str) -> list[list[list[str]]]:
    """Success, and paired differences if there are any, as rows of texts, headings first."""
    success = [["method", "scene", "success %", "95 % interval", "rollouts", "per seed %"]]
    for method, found in comparison.success.items():
        for variant, one in found.items():
            mean, interval, _ = percents(one)
            per_seed = ", ".join(f"{seed}: {percent(rate)}" for seed, rate in one.per_seed.items())
            success.append([name(method), words(variant), mean, interval, str(one.episodes), per_seed])
    pairs = [["difference", "scene", "points", "95 % interval", "seeds × layouts", "per seed", "McNemar p"]]
    for (first, second), differences in comparison.differences.items():
        title = f"{name(first)} − {name(second)}"
        for variant, difference in differences.items():
            mean, interval, per_seed = in_points(difference)
            count = f"{difference.seeds} × {difference.layouts}"
            pairs.append([title, words(variant), mean, interval, count, per_seed, f"{difference.p_mcnemar:.2g}"])
        if not differences:
            pairs.append([title, "", "", "", "nothing shared", "", ""])
    return [success, pairs] if len(pairs) > 1 else [success]


def as_text(comparison: Comparison) -> str:
    """The tables for a terminal."""
    blocks = map(text_table, tables(comparison, label))
    return "\n\n".join([*blocks, *(f"Note: {note}" for note in comparison.notes(label))])


def as_markdown(comparison: Comparison, title: str) -> str:
    """The same tables for a README or a report."""
    blocks = [f"# {untagged(title)}", *(markdown_table(table) for table in tables(comparison, label)), WITH_P]
    return "\n\n".join([*blocks, *(f"Note: {untagged(note)}" for note in comparison.notes(label))]) + "\n"


def draw_comparison(comparison: Comparison, *, title: str = "", name: Name = str, marks: Marks | None = None) -> Any:
    """A matplotlib figure, the same for the same comparison; `name` is what a method is called, `marks` stand as ×
    beside ours.
    """
    pairs = [pair for pair, found in comparison.differences.items() if found]
    rows = max(len(comparison.success), len(pairs), 2)
    variants = comparison.variants
    step = 0.22 if len(variants) <= 4 else 0.8 / len(variants)  # of a row, which is higher where this is less
    columns = min(len(variants), 6)
    height = 1.5 + 0.42 * rows * (0.22 / step) + 0.2 * (-(-len(variants) // max(columns, 1)) - 1)
    figure, (panels,) = figure_with(10, height, 2 if pairs else 1)
    offset = {v: step * ((len(variants) - 1) / 2 - place) for place, v in enumerate(variants)}
    looks = distinct(variants)
    left = panels[0]
    methods = list(reversed(list(comparison.success)))
    for place, method in enumerate(methods):
        for variant, found in comparison.success[method].items():
            y, each = place + offset[variant], list(found.per_seed.values())
            _draw_one(left, y, found.mean, found.interval, each, *looks[variant])
            if marks and (method, variant) in marks:
                left.plot(marks[method, variant], y, "x", color="#222222", markersize=6)
    left.set_yticks(range(len(comparison.success)), [name(method) for method in methods])
    left.set_ylim(-0.6, len(comparison.success) - 0.4)
    left.set_xlim(-3, 103)
    left.set_xlabel("success, %")
    mean = "diamond" if {marker for _, marker in looks.values()} <= {MARKERS[0]} else "large"
    left.set_title(f"mean ({mean}), seeds, 95 % interval{'; ×: the paper' if marks else ''}", fontsize=9)
    if pairs:
        right = panels[1]
        right.axvline(0, color="#999999", linewidth=1)
        for place, pair in enumerate(reversed(pairs)):
            for variant, one in comparison.differences[pair].items():
                y = place + offset[variant]
                _draw_one(right, y, one.difference, one.interval, one.per_seed, *looks[variant])
        right.set_yticks(range(len(pairs)), [f"{name(first)} − {name(second)}" for first, second in reversed(pairs)])
        right.set_ylim(-0.6, len(pairs) - 0.4)
        right.set_xlabel("difference in success, points")
        seeds = [one.seeds for pair in pairs for one in comparison.differences[pair].values()]
        over = "seeds" if max(seeds) > 1 else "layouts (one seed)"
        over += "; of one seed over layouts" if min(seeds) == 1 < max(seeds) else ""
        right.set_title(f"paired; 95 % interval over {over}", fontsize=9)
    for axes in panels:
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
    for variant in variants:
        color, marker = looks[variant]
        left.plot([], [], marker, color=color, label=words(variant))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw_one(
    axes: Any, y: float, mean: float, interval: tuple[float, float], seeds: Any, color: str, marker: str
) -> None:
    """An interval with its mean and the seeds on it, all in per cent."""
    axes.hlines(y, *(100 * end for end in interval), color=color, linewidth=2.5)
    each = [100 * value for value in seeds]
    axes.plot(each, [y] * len(each), "o", color=color, alpha=0.4, markersize=5, markeredgewidth=0)
    axes.plot(100 * mean, y, marker, color=color, markersize=6)


def render(
    summaries: Iterable[str | Path], out_dir: str | Path, failed: Sequence[str] = ()
) -> tuple[str, dict[str, Any]]:
    """Compares finished runs; writes `table.md`, `table.json` and `table.png` into `out_dir`, and returns the tables as
    text, and what `table.json` holds.

    Args:
        summaries: `summary.json` files of training runs.
        failed: names of further runs, which failed: a note says that they are in no figure.

    Raises:
        UserError: no runs, runs of different tasks, or without rollouts, or two of a method and seed.
    """
    paths = [Path(path) for path in summaries]
    runs = [read_json(path) for path in paths]
    tasks = sorted({run["task"] for run in runs})
    if len(tasks) != 1:
        raise UserError(f"a comparison needs runs of one task; these are of {', '.join(tasks) or 'none'}")
    beside = [path.parent / "config.json" for path in paths]
    settings = [read_json(path) for path in beside if path.exists()]
    comparison = dataclasses.replace(compare(_outcomes(paths, runs), None, settings, runs), failed=failed)
    title = f"{tasks[0]}: {', '.join(map(label, comparison.success))}"

    def seeds(first: str, second: str, variant: str) -> list[int]:
        return shared_seeds(comparison.success[first], comparison.success[second], variant)

    content = {
        "title": title,
        "methods": [
            {"method": method, "scene": variant, **dataclasses.asdict(one), "mean": one.mean}
            for method, found in comparison.success.items()
            for variant, one in found.items()
        ],
        "pairs": [
            {"first": a, "second": b, "scene": variant, "of_seeds": seeds(a, b, variant)}
            | {"found": dataclasses.asdict(one)}
            for (a, b), found in comparison.differences.items()
            for variant, one in found.items()
        ],
        "notes": comparison.notes(label),
    }
    out = Path(out_dir)
    with replacing(out / "table.md") as temporary:
        temporary.write_text(as_markdown(comparison, title), encoding="utf-8")
    write_json(out / "table.json", content)
    with replacing(out / "table.png") as temporary:
        save_picture(draw_comparison(comparison, title=title, name=label), temporary)
    return as_text(comparison), content


def _outcomes(paths: Sequence[Path], runs: Sequence[Mapping[str, Any]]) -> dict[str, BySeed]:
    """Method to training seed to variant to outcomes: the paper's methods in its order, then the others by name."""
    found: dict[str, dict[int, Any]] = {}
    for path, run in zip(paths, runs):
        if not (rollouts := read_rollouts(run)):
            raise UserError(f"{path}: the run was not evaluated (eval.episodes is 0); there is nothing to compare")
        if run["seed"] in found.setdefault(run["method"], {}):
            raise UserError(f"{path}: another run of method {run['method']}, seed {run['seed']}; give one of them")
        found[run["method"]][run["seed"]] = rollouts
    order = list(LABELS)
    return {m: found[m] for m in sorted(found, key=lambda m: (order.index(m) if m in order else len(order), m))}
