"""Question 2 of docs/PROTOCOL.md: can the demonstrations alone say whether VP will be below V?

A rule is one predictor and a threshold. Eight tasks choose both, the ninth is asked.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.tables.proprio_map import Place
from gap_vla.drawing.markup import markdown_table
from gap_vla.rollouts.statistics import points

CLEAR = 0.05
"""Only places whose |VP − V| is at least so large are asked about."""

Errors = Mapping[str, Mapping[str, float]]

PREDICTORS: dict[str, Callable[[Errors, str], float]] = {
    "time, transitions": lambda errors, own: errors["time"]["transitions"],
    "state, transitions": lambda errors, own: errors[own]["transitions"],
    "state, between": lambda errors, own: errors[own]["between"],
    "pictures, transitions": lambda errors, own: errors["pictures"]["transitions"],
    "both, transitions": lambda errors, own: errors[f"{own}+pictures"]["transitions"],
    "state beyond pictures, transitions": lambda errors, own: (
        errors["pictures"]["transitions"] - errors[f"{own}+pictures"]["transitions"]
    ),
    "pictures beyond state, transitions": lambda errors, own: (
        errors[own]["transitions"] - errors[f"{own}+pictures"]["transitions"]
    ),
}
"""Error of predicting the next actions (`experiments.looks.predictors`); `own` is the state as VP has it."""

MEANING = (
    "What the demonstrations say beforehand: error of predicting the next actions, as a share of their variance in the "
    "same steps, on episodes held out. `state` has as many steps as VP sees, `time` is the number of the step alone; "
    "beyond: how much smaller the error is with both."
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """VP is below V where `sign` times the predictor is above `sign` times the threshold; `right` about so many places
    of its own tasks."""

    predictor: str
    threshold: float
    sign: int
    right: int

    def says_hurts(self, value: float) -> bool:
        return self.sign * (value - self.threshold) > 0


@dataclasses.dataclass(frozen=True)
class Judged:
    """How often rules that did not see the task were right, beside the more frequent answer of the other tasks."""

    asked: int
    right: int
    right_by_frequency: int
    rules: Mapping[str, Rule]


def predictors_of(place: Place) -> dict[str, float]:
    """Every predictor of one place."""
    own = "state" if place.history == 1 else "history"
    return {name: read(place.errors, own) for name, read in PREDICTORS.items()}


def best_rule(values: Sequence[Mapping[str, float]], hurts: Sequence[bool]) -> Rule:
    """The predictor and threshold that are right most often; the first of those that are equally good."""
    rules = []
    for name in PREDICTORS:
        column = np.array([one[name] for one in values])
        ordered = np.unique(column)
        for threshold, sign in itertools.product((ordered[0] - 1.0, *((ordered[1:] + ordered[:-1]) / 2)), (1, -1)):
            right = int(((sign * (column - threshold) > 0) == np.array(hurts)).sum())
            rules.append(Rule(name, float(threshold), sign, right))
    return max(rules, key=lambda rule: rule.right)


def judge(places: Sequence[Place]) -> Judged | None:
    """Leaves each task out in turn; None with fewer than three tasks that can be asked about."""
    asked = [
        (place, predictors_of(place), place.difference.difference < 0)
        for place in places
        if place.says_something and abs(place.difference.difference) >= CLEAR
    ]
    tasks = list(dict.fromkeys(place.task for place, *_ in asked))
    if len(tasks) < 3:
        return None
    right = frequent = 0
    rules = {}
    for task in tasks:
        others = [(values, hurts) for place, values, hurts in asked if place.task != task]
        often = 2 * sum(hurts for _, hurts in others) > len(others)
        rules[task] = best_rule(*zip(*others))
        for place, values, hurts in asked:
            if place.task == task:
                right += rules[task].says_hurts(values[rules[task].predictor]) == hurts
                frequent += often == hurts
    return Judged(len(asked), right, frequent, rules)


def rule_text(places: Sequence[Place]) -> list[str]:
    """The predictors beside VP − V, and how often a rule is right; empty where nobody has measured them."""
    places = [place for place in places if place.errors]
    if not places:
        return []
    rows = [["task", "view", "steps of state", "VP − V, points", *PREDICTORS]]
    for place in places:
        known = [f"`{place.task}`", place.view, str(place.history), points(place.difference.difference)]
        rows.append([*known, *(f"{value:.2f}".replace("-", "−") for value in predictors_of(place).values())])
    found = judge(places)
    if found is None:
        return [MEANING, markdown_table(rows)]
    chosen = [
        f"{one.predictor} {'above' if one.sign > 0 else 'below'} {one.threshold:.2f}" for one in found.rules.values()
    ]
    listing = "; ".join(f"{text} ({chosen.count(text)} of {len(chosen)})" for text in dict.fromkeys(chosen))
    return [
        MEANING,
        markdown_table(rows),
        f"A rule of thumb, leave-one-task-out: right about the sign of VP − V in {found.right} of {found.asked} places "
        f"with |VP − V| ≥ {100 * CLEAR:.0f} points; the more frequent answer of the other tasks is right in "
        f"{found.right_by_frequency}. Chosen, each without its task: VP is below V where {listing}.",
    ]
