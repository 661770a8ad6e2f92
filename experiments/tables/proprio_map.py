"""The map of docs/PROTOCOL.md: VP − V of every task, view and history, and what view and history change about it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.tables.results import BlockResult
from experiments.tables.tables import HISTORIES, IN
from gap_vla.drawing.figures import COLORS, figure_with
from gap_vla.drawing.markup import markdown_table
from gap_vla.report.comparison import in_points
from gap_vla.rollouts.statistics import PairedDifference, over_seeds, percent, points

CEILING = 0.95
"""Where V and VP both succeed at least so often, or both fail so often, their difference says nothing."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A cell of the map: success of V, and of VP with so many steps of state, on the same layouts, and VP − V.

    `errors` are what its demonstrations say beforehand (`experiments.looks.predictors`); empty if nobody looked.
    """

    task: str
    view: str
    history: int
    v: float
    vp: float
    difference: PairedDifference
    errors: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        return not (min(self.v, self.vp) >= CEILING or max(self.v, self.vp) <= 1 - CEILING)


class Effect(NamedTuple):
    """What one factor changes about VP − V: the mean over tasks of differences within a task, and its 95 % interval
    (Student's t over the tasks; None with a single one)."""

    mean: float
    interval: tuple[float, float] | None
    tasks: int


def places_of(results: Sequence[BlockResult]) -> list[Place]:
    """Every place of which V and VP have been trained, in the table's order."""
    found = []
    for result in results:
        told = [json.loads(row["predictors"]) for row in result.rows if isinstance(row["predictors"], str)]
        errors = told[0] if told else {}
        for history in HISTORIES:
            difference = result.found.differences.get((f"concat_{history}", "vision"), {}).get(IN)
            if difference:
                v, vp = (result.found.success[arm][IN].mean for arm in ("vision", f"concat_{history}"))
                found.append(Place(result.block.task, result.block.regime, history, v, vp, difference, errors))
    return found


def effect(places: Sequence[Place], factor: str, low: Any, high: Any) -> Effect | None:
    """How VP − V of places whose `factor` ("view" or "history") is `high` differs from that of places which are like
    them but for a factor of `low`. Places that say nothing are left out. None if there is no such pair.
    """
    by_task: dict[str, list[float]] = {}
    told = [place for place in places if place.says_something]
    for one, other in itertools.product(told, told):
        alike = one.task == other.task and (one.view == other.view or one.history == other.history)
        if alike and (getattr(one, factor), getattr(other, factor)) == (low, high):
            by_task.setdefault(one.task, []).append(other.difference.difference - one.difference.difference)
    if not by_task:
        return None
    values = [float(np.mean(gains)) for gains in by_task.values()]
    mean = float(np.mean(values))
    interval = over_seeds(values, (mean, mean), bounds=(-2.0, 2.0)) if len(values) > 1 else None
    return Effect(mean, interval, len(values))


def map_text(places: Sequence[Place]) -> list[str]:
    """The effects of view and history, and a table with a line for each place."""
    one, several = HISTORIES
    effects = [
        _in_words("The stock view instead of the near one", places, "view", "near", "stock"),
        _in_words(f"{several} steps of state instead of {one}", places, "history", one, several),
    ]
    rows = [["task", "view", "steps of state", "V %", "VP %", "VP − V, points", "95 % interval over layouts"]]
    for place in places:
        mean, interval, _ = in_points(place.difference)
        gain = mean + ("" if place.says_something else " (says nothing)")
        rows.append(
            [f"`{place.task}`", place.view, str(place.history), percent(place.v), percent(place.vp), gain, interval]
        )
    return [
        *effects,
        markdown_table(rows),
        "One training seed each: an interval speaks about these two policies. Where both succeed in at least 95 % or "
        "at most 5 % of rollouts, their difference says nothing and counts in no effect.",
    ]


def _in_words(what: str, places: Sequence[Place], factor: str, low: Any, high: Any) -> str:
    found = effect(places, factor, low, high)
    if found is None:
        return f"{what}: no task has a pair yet."
    over = "" if found.interval is None else f", {points(found.interval[0])} to {points(found.interval[1])}"
    return f"{what} changes VP − V by {points(found.mean)} points (mean over {found.tasks} tasks{over})."


def draw_map(places: Sequence[Place]) -> Any:
    """A matplotlib figure: a line for each task, a mark for each view and history; hollow where nothing is said."""
    tasks = list(dict.fromkeys(place.task for place in places))
    kinds = list(dict.fromkeys((place.view, place.history) for place in places))
    figure, (panels,) = figure_with(8, 1.2 + 0.45 * len(tasks), 1)
    axes = panels[0]
    axes.axvline(0, color="#999999", linewidth=1)
    for number, kind in enumerate(kinds):
        color, shift = COLORS[number % len(COLORS)], 0.16 * ((len(kinds) - 1) / 2 - number)
        for place in places:
            if (place.view, place.history) == kind:
                y, (low, high) = len(tasks) - 1 - tasks.index(place.task) + shift, place.difference.interval
                axes.plot([100 * low, 100 * high], [y, y], color=color, linewidth=1.2)
                face = color if place.says_something else "white"
                axes.plot(100 * place.difference.difference, y, "o", color=color, markerfacecolor=face, markersize=5)
        axes.plot([], [], "o", color=color, label=f"{kind[0]} view, {kind[1]} step{'s' * (kind[1] > 1)} of state")
    axes.set_yticks(range(len(tasks)), list(reversed(tasks)))
    axes.set_ylim(-0.5, len(tasks) - 0.5)
    axes.set_xlabel("VP − V, points (hollow: both near 0 or 100 %)")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2, frameon=False)
    return figure
