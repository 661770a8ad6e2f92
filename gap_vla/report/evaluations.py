"""What an evaluation and a diagnosis came to: pages that open in a browser, a table, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.drawing.markup import plain, save_page, text_table
from gap_vla.rollouts.diagnose import DESCRIPTIONS, ClosedLoop, Effect, OpenLoop
from gap_vla.rollouts.records import describe, title
from gap_vla.rollouts.statistics import percent, points, with_interval

PAGE_FILE = "index.html"


def write_page(folder: Path, summary: dict[str, Any]) -> Path:
    """Writes `folder/index.html`: the result, films (failures first), phases, errors. It links to the films beside it
    and needs nothing from elsewhere.
    """
    facts = {**summary["task"], "seed": summary["seed"], "source": summary.get("source")}
    return save_page(
        folder / PAGE_FILE,
        "report/templates/evaluation.html",
        title=title(summary),
        result=f"{summary['successes']} of {summary['episodes']} rollouts succeeded",
        how=with_interval(summary["success_rate"], summary["interval"]),
        episodes=summary["episodes"],
        films=[_film(name, summary) for name in summary["videos"]],
        phases=summary["phases"],
        percent=percent,
        errors=[("episode", "error"), *((error["episode"], error["error"]) for error in summary["errors"])],
        words=describe(summary),
        facts=plain(facts | {f"policy {key}": value for key, value in summary["policy"].items()}),
    )


def _film(name: str, summary: Mapping[str, Any]) -> dict[str, str]:
    _, number, outcome = Path(name).stem.split("_")
    phase, steps = summary["last_phases"][int(number)], summary["steps"][int(number)]
    where = f" in {phase}" if outcome == "failure" and phase else ""
    return {"source": name, "caption": f"episode {int(number)}", "outcome": outcome, "after": f"{where}, {steps} steps"}


# ---- does it look?

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
        f"{verdict(opened, closed)}\n\n{text_table(rows)}\n\n"
        f"change, error: in standard deviations of the recorded actions; {opened.steps} steps, "
        f"{transitions}; with everything swapped the actions move by "
        f"{opened.between:.3f}\n{legend}"
    )


def verdict(opened: OpenLoop, closed: Sequence[ClosedLoop] = ()) -> str:
    """What another episode's pictures cost in accuracy (also a policy that was taught to ignore its pictures is moved
    by them a little, at random), how far they move the actions, and what they cost in success.
    """
    effects = {effect.intervention: effect for effect in opened.effects}
    felt = _cost(effects["proprio_swapped"])
    if pictures := effects.get("images_swapped"):
        cost = pictures.cost or 0.0
        looks = "It looks" if cost >= LOOKS else "It hardly looks" if cost < HARDLY else "It looks a little"
        share = f"{(pictures.change or 0.0) / opened.between:.0%} as far as" if opened.between else "no more than"
        sentences = [
            f"{looks}: another episode's pictures multiply its error by {_cost(pictures)}, another episode's "
            f"proprioception by {felt}; the pictures move its actions {share} swapping everything does."
        ]
    else:
        unknown = "Whether it looks is unknown, as the recordings have no pictures"
        sentences = [f"{unknown}: another episode's proprioception multiplies its error by {felt}."]
    if opened.between < SAME:
        sentences.append("But it does nearly the same with all swapped: it may not have learned enough to be judged.")
    success = {entry.intervention: entry for entry in closed}
    if "images_swapped" in success:
        before, after = success["none"], success["images_swapped"]
        sentences.append(
            f"It succeeds in {before.successes} of {before.episodes} layouts, with another episode's pictures in "
            f"{after.successes}."
        )
    return " ".join(sentences)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cost(effect: Effect) -> str:
    if effect.cost is None or effect.cost_interval is None:
        return ""
    low, high = effect.cost_interval
    return f"{effect.cost:.2f} ({low:.2f} to {high:.2f})"


def _rate(entry: ClosedLoop) -> str:
    text = f"{entry.successes}/{entry.episodes}"
    if entry.difference is None:
        return text
    low, high = (points(end) for end in entry.difference.interval)
    return f"{text} ({points(entry.difference.difference)}, {low} to {high})"
