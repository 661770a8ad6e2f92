"""A diagnosis in words: the table of all interventions, and a sentence on whether the policy looks."""

from __future__ import annotations

from collections.abc import Sequence

from gap_vla.drawing.markup import text_table
from gap_vla.rollouts.diagnose import DESCRIPTIONS, ClosedLoop, Effect, OpenLoop
from gap_vla.rollouts.records import told_cut_short
from gap_vla.rollouts.statistics import points

LOOKS, HARDLY = 1.25, 1.1
"""Verdicts: another episode's pictures multiply its error by at least the first, or by less than the second. A
convention; the second was set after seeing a policy that had been trained on shuffled pictures (1.07)."""


SAME = 0.02
"""Standard deviations: actions that differ by less between episodes do not depend on what the policy is shown."""


def report(opened: OpenLoop, closed: Sequence[ClosedLoop] = ()) -> str:
    """Both results as a table, and what they say in a sentence."""
    success = {entry.intervention: entry for entry in closed}
    heading = ["intervention", "change", "transition", "consistent", "error", "× error (95 %)"]
    rows = [[*heading, *(["success"] if closed else [])]]
    rows.append(["none", "", "", "", _figure(opened.error), "", *([_rate(success["none"])] if closed else [])])
    for effect in opened.effects:
        figures = [effect.change, effect.change_transition, effect.change_consistent, effect.error]
        row = [effect.intervention, *map(_figure, figures), _cost(effect)]
        rows.append([*row, *([_rate(success[effect.intervention])] if effect.intervention in success else [])])
    measured = [effect.intervention for effect in opened.effects]
    played = [name for name in success if name not in ("none", *measured)]  # as what recordings cannot show
    rows += [[name, *[""] * (len(heading) - 1), _rate(success[name])] for name in played]
    legend = "\n".join(f"  {name}: {DESCRIPTIONS[name]}" for name in [*measured, *played])
    known = any(e.change_transition is not None or e.change_consistent is not None for e in opened.effects)
    transitions = f"{opened.transition_steps} of them transitions" if known else "not known which are transitions"
    return (
        f"{text_table(rows)}\n\nchange, error: in standard deviations of the recorded actions; {opened.steps} steps, "
        f"{transitions}; with everything swapped the actions move by "
        f"{opened.between:.3f}{opened.left_out and f'; {opened.left_out}'}\n{legend}\n\n{verdict(opened, closed)}"
    )


def verdict(opened: OpenLoop, closed: Sequence[ClosedLoop] = ()) -> str:
    """What another episode's pictures cost in accuracy (also a policy that was taught to ignore its pictures is moved
    by them a little, at random), how far they move the actions, and what they cost in success.
    """
    effects = {effect.intervention: effect for effect in opened.effects}
    state = effects["proprio_swapped"]
    exact = state.cost is None  # nothing is a multiple of its error
    felt = _figure(state.error) if exact else _cost(state)
    if pictures := effects.get("images_swapped"):
        moved = (pictures.change or 0.0) >= SAME
        cost = pictures.cost if pictures.cost is not None else LOOKS if moved else 0.0
        looks = "It looks" if cost >= LOOKS else "It hardly looks" if cost < HARDLY else "It looks a little"
        seen, also = (
            (f"give it an error of {_figure(pictures.error)}", "one of")
            if exact
            else (f"multiply its error by {_cost(pictures)}", "by")
        )
        share = f"{(pictures.change or 0.0) / opened.between:.0%} as far as" if opened.between else "no more than"
        sentences = [
            f"{looks}: another episode's pictures {seen}, another episode's proprioception {also} {felt}; the pictures "
            f"move its actions {share} swapping everything does."
        ]
    else:
        unknown = "Whether it looks is unknown, as the recordings have no pictures"
        does = "gives it an error of" if exact else "multiplies its error by"
        sentences = [f"{unknown}: another episode's proprioception {does} {felt}."]
    if opened.between < SAME:
        sentences.append("But it does nearly the same with all swapped: it may not have learned enough to be judged.")
    success = {entry.intervention: entry for entry in closed}
    if "images_swapped" in success:
        before, after = success["none"], success["images_swapped"]
        sentences.append(
            f"It succeeds in {before.successes} of {before.episodes} layouts, with another episode's pictures in "
            f"{after.successes}."
        )
    sentences.append(told_cut_short({entry.intervention: entry.simulator_errors for entry in closed}))
    return " ".join(filter(None, sentences))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cost(effect: Effect) -> str:
    if effect.cost is None or effect.cost_interval is None:
        return "" if effect.cost is None else f"{effect.cost:.2f}"
    low, high = effect.cost_interval
    return f"{effect.cost:.2f} ({low:.2f} to {high:.2f})"


def _rate(entry: ClosedLoop) -> str:
    text = f"{entry.successes}/{entry.episodes}"
    if entry.difference is None:
        return text
    low, high = (points(end) for end in entry.difference.interval)
    return f"{text} ({points(entry.difference.difference)}, {low} to {high})"
