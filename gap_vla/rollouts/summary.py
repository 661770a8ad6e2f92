"""From episode records to the numbers of `summary.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.foreign import Section, one_line, shown
from gap_vla.rollouts.record import DAY, SIMULATOR, EpisodeRecord, EvaluationError, cut_elsewhere
from gap_vla.rollouts.statistics import clopper_pearson, percent, wilson
from gap_vla.sim import TASK_NAMES, task_spec

INTERVAL_METHOD = "wilson 95 %"
PARTS = ("simulation", "rendering", "policy")
"""Of an episode, whose seconds are measured."""


def summarize(records: Sequence[EpisodeRecord], phases: Sequence[str] = ()) -> dict[str, Any]:
    """The figures of finished episodes.

    Returns:
        JSON-able: `episodes`, `successes`, `success_rate`, `interval` (Wilson, 95 %),
        `interval_clopper_pearson`, `mean_steps`, `mean_steps_success`, `outcomes` (0/1 in the order of the
        episodes), `layout_seeds`, `steps`, `last_phases` (where each ended), `errors` (episode and reason),
        `simulator_errors` (how many of these the simulator is to blame for), `phases` (see `phase_progress`),
        `seconds_per_step` (simulation, rendering, policy).

    Raises:
        EvaluationError: no episodes, one twice, or one that ended in a phase which is none of `phases`.
    """
    records = [*records]
    if odd := [one for one in records if not isinstance(one, EpisodeRecord)]:
        raise EvaluationError(f"a record is {shown(odd[0])}; give EpisodeRecord, as read_episodes does")
    ordered = sorted(records, key=lambda record: record.episode)
    if not ordered:
        raise EvaluationError("no episodes, so nothing was measured")
    if len({record.episode for record in ordered}) < len(ordered):
        raise EvaluationError("an episode is there twice; count each once")
    successes = sum(record.success for record in ordered)
    won = [record.steps for record in ordered if record.success]
    steps = sum(record.steps for record in ordered)
    seconds = _seconds(ordered)
    return {
        "episodes": len(ordered),
        "successes": successes,
        "success_rate": successes / len(ordered),
        "interval": list(wilson(successes, len(ordered))),
        "interval_method": INTERVAL_METHOD,
        "interval_clopper_pearson": list(clopper_pearson(successes, len(ordered))),
        "mean_steps": float(np.mean([record.steps for record in ordered])),
        "mean_steps_success": float(np.mean(won)) if won else None,
        "outcomes": [int(record.success) for record in ordered],
        "episode_numbers": [record.episode for record in ordered],
        "layout_seeds": [record.layout_seed for record in ordered],
        "steps": [record.steps for record in ordered],
        "last_phases": [record.phase for record in ordered],
        "errors": [{"episode": record.episode, "error": record.error} for record in ordered if record.error],
        "simulator_errors": sum((record.error or "").partition(": ")[2].startswith(SIMULATOR) for record in ordered),
        "phases": phase_progress(ordered, phases),
        "seconds": seconds,
        "seconds_per_step": {part: total / steps if steps else None for part, total in seconds.items()},
    }


def read_outcomes(found: Section) -> dict[int, bool]:
    """Layout seed to success, from what `evaluate` returned.

    Raises:
        The section's error: not one outcome, number of steps and phase for each of some layouts, or a figure of
            `summarize` that they do not give.
    """
    layouts = found.list("layout_seeds", lambda items, name: items.whole(name, 0, 2**53))
    horizon = found.section("task", {}).whole("horizon", 1, 2**53, 2**53)
    steps = found.list("steps", lambda items, name: items.whole(name, 0, horizon))
    outcomes = found.list("outcomes", lambda items, name: items.whole(name, 0, 1) == 1)
    errors = _read_errors(found, len(outcomes))
    ends = found.list("last_phases", lambda items, name: None if items.values[name] is None else items.text(name))
    if not outcomes or {len(set(layouts)), len(layouts), len(steps), len(ends)} != {len(outcomes)}:
        raise found.error(
            f"{found.where}: {len(outcomes)} outcomes of {len(set(layouts))} layouts; copy the file again"
        )
    rows = enumerate(zip(layouts, outcomes, steps, ends))
    most = DAY * (sum(steps) + len(steps))  # the start is one answer more
    took = [found.section("seconds").finite(part, 0, most) for part in PARTS if "seconds" in found]  # of all episodes
    records = [EpisodeRecord(number, *row, errors.get(number), *([] if number else took)) for number, row in rows]
    for record in records:
        if told := cut_elsewhere(record.error, record.steps):
            raise found.error(f"{found.where}: of episode {record.episode} {told}; copy the file again")
    if odd := [record.episode for record in records if cannot_end_so(record, found.section("task", {}).values)]:
        raise found.error(f"{found.where}: episode {odd[0]} {CANNOT_END_SO}; copy the file again")
    phases = list(found.section("phases").section("reached").values) if found.values.get("phases") else []
    task = found.section("task", {}).values.get("task")
    if task in TASK_NAMES and {*phases} == {*task_spec(task).phases}:
        phases = list(task_spec(task).phases)  # keys of JSON have no order that a formatter keeps
    if phases and (unknown := {*ends} - {None, *phases}):
        raise found.error(
            f"{found.name('last_phases')} has {one_line(unknown, 80)}, no phase of the task; copy it again"
        )
    parts = {key: value for key, value in found.section("seconds_per_step", {}).values.items() if value is not None}
    Section(parts, found.name("seconds_per_step"), found.error).require_numbers(0, most / max(1, sum(steps)))
    again = summarize(records, phases)
    added = ["interval_method", "interval_clopper_pearson", "simulator_errors", "episode_numbers"]
    added += ["seconds_per_step"] if "seconds" in found else []
    later = [key for key in added if key in found.values]
    needed = ("episodes", "successes", "success_rate", "interval", "mean_steps", "mean_steps_success", "phases")
    for key in (*needed, *later):
        found.require(key)
        if differ(found.values[key], again[key]):
            given, right = (json.dumps(values[key]) for values in (found.values, again))
            raise found.error(f"{found.name(key)} is {one_line(given, 80)}, its episodes give {right}; copy it again")
    return dict(zip(layouts, outcomes))


CANNOT_END_SO = (
    "ended without success or error before its horizon, with both, or with a success that had no time to hold"
)


def cannot_end_so(record: EpisodeRecord, task: Mapping[str, Any]) -> bool:
    """Whether no episode ends in this way: one of our simulated tasks only ends by a success that held, at its horizon
    (or at that of the evaluation, if it is shorter), or with an error. Tasks of others may end early.

    Args:
        task: what the evaluation says of it.
    """
    if record.error is not None:
        return record.success
    name, horizon = task.get("task"), task.get("horizon")
    of_ours = name in TASK_NAMES and {"image_size", "cameras", "variant"} <= task.keys() and "class" not in task
    if not of_ours or not isinstance(horizon, int):
        return False
    if record.success:  # in robosuite it must have held; elsewhere it counts at the horizon too
        least = task_spec(name).least_steps
        return record.steps < (least if task_spec(name).family == "robosuite" else min(least, horizon))
    return record.steps < min(horizon, task_spec(name).horizon)


def _read_errors(found: Section, episodes: int) -> dict[int, str]:
    """Episode to why it was cut short."""
    listed = found.list("errors", Section.section) if "errors" in found else ()
    errors = {one.whole("episode", 0, episodes - 1): one.text("error") for one in listed}
    if len(errors) < len(listed):
        raise found.error(f"{found.name('errors')} names an episode twice; copy the file again")
    found.whole("simulator_errors", 0, len(errors), 0)
    return errors


def odd_parts(summary: Mapping[str, Any], records: Iterable[EpisodeRecord]) -> list[str]:
    """What of a summary, which `read_outcomes` took, the records of its layouts do not give, such as "episode 3": how
    episodes ended, by their numbers, and the seconds of all, where it tells them.
    """
    keys = ("layout_seeds", "outcomes", "steps", "last_phases")
    errors = {one["episode"]: one["error"] for one in summary.get("errors", ())}
    ends = enumerate(zip(*(summary[key] for key in keys)))
    said = {layout: [number, *end, errors.get(number)] for number, (layout, *end) in ends}
    own = [r for r in records if r.layout_seed in said]
    ended = [(r, [r.episode, r.success, r.steps, r.phase, r.error]) for r in own]
    odd = [f"episode {r.episode}" for r, end in ended if said[r.layout_seed] != end]
    took = _seconds(own) if len(own) == len(said) and "seconds" in summary else {}
    return odd + [f"seconds.{part}" for part, value in took.items() if abs(summary["seconds"][part] - value) > 0.01]


def _seconds(records: Iterable[EpisodeRecord]) -> dict[str, float]:
    """What the parts of all episodes took."""
    return {part: sum(getattr(record, f"{part}_seconds") for record in records) for part in PARTS}


def differ(one: Any, other: Any) -> bool:
    """Whether two values are not the same in JSON, but for what rounding does."""
    first, second = (
        json.loads(json.dumps(v), parse_float=lambda digits: round(float(digits), 6)) for v in (one, other)
    )
    return bool(first != second)


def phase_progress(records: Sequence[EpisodeRecord], phases: Sequence[str]) -> dict[str, dict[str, float]] | None:
    """How far episodes got, by the phase of an expert that watched them.

    Returns:
        `reached`: fraction of the watched episodes that got at least to each phase, in the task's order;
        `failed_in`: how many failures ended in it. None if nobody watched.

    Raises:
        EvaluationError: an episode ended in another phase, or what `require_phases` refuses.
    """
    watched = [record for record in records if record.phase is not None]
    if not watched or not phases:
        return None
    require_phases(phases)
    order = {name: place for place, name in enumerate(phases)}
    if odd := [record for record in watched if record.phase not in order]:
        what = f"episode {odd[0].episode} ended in phase {odd[0].phase!r:.60}"
        raise EvaluationError(f"{what}, none of {', '.join(phases)}; give the phases of its task")
    places = [len(order) if record.success else order[record.phase or ""] for record in watched]
    failures = Counter(record.phase for record in watched if not record.success)
    return {
        "reached": {name: sum(p >= order[name] for p in places) / len(places) for name in phases},
        "failed_in": {name: failures[name] for name in phases if failures[name]},
    }


def require_phases(phases: Sequence[str]) -> None:
    """Raises EvaluationError for phases that are no texts, or of which two have one name: nobody could tell which of
    them an episode has reached."""
    texts = all(isinstance(name, str) and name for name in phases)
    if not texts or len({*phases}) < len(phases):
        what = f"phases are {one_line([*phases], 200)}"
        raise EvaluationError(f"{what}; give each a name of its own, as 'grasp the first', 'grasp the second'")


def title(summary: Mapping[str, Any]) -> str:
    """Who was evaluated on what: `vp_gap on assembly, light`; the default variant goes unnamed."""
    task, variant = summary["task"]["task"], summary["task"].get("variant", "default")
    return f"{summary['policy']['name']} on {task}" + ("" if variant == "default" else f", {variant}")


def told_cut_short(counts: Mapping[str, int | None]) -> str:
    """How many rollouts of each name the simulator cut short, in a sentence; "" where none was.

    >>> told_cut_short({"vp": 2, "v": 0})
    'Rollouts that were cut short by the simulator, not by the policy, count as failed: vp 2.'
    """
    told = [f"{name} {count}" for name, count in counts.items() if count]
    which = "Rollouts that were cut short by the simulator, not by the policy, count as failed"
    return f"{which}: {', '.join(told)}." if told else ""


def cut_short_by_simulator(summary: Mapping[str, Any]) -> list[str]:
    """How many episodes were, in words; nothing where none was."""
    if not (count := summary.get("simulator_errors", 0)):
        return []
    played = summary["episodes"] - count
    return [
        f"{count} of {summary['episodes']} episodes were cut short by the simulator, not by the policy, and count "
        f"as failed; of the other {played}, {summary['successes']} succeeded"
    ]


def describe(summary: Mapping[str, Any]) -> str:
    """The lines that a command prints at its end."""
    low, high = summary["interval"]
    rate = summary["success_rate"]
    lines = [
        f"{title(summary)}: "
        f"{summary['successes']} of {summary['episodes']} "
        f"succeeded, {percent(rate)} % (95 % interval {percent(low)} to {percent(high)} %), "
        f"{summary['mean_steps']:.0f} steps on average"
    ]
    per_step = summary["seconds_per_step"]
    if per_step.get("simulation") and all(value is not None for value in per_step.values()):
        lines.append("ms per step: " + ", ".join(f"{part} {1000 * value:.1f}" for part, value in per_step.items()))
    if summary["phases"]:
        reached = ", ".join(f"{name} {percent(share)} %" for name, share in summary["phases"]["reached"].items())
        watched = sum(phase is not None for phase in summary["last_phases"])
        of = "" if watched == summary["episodes"] else f" (of the {watched} episodes that were watched)"
        lines.append(f"phases reached{of}: {reached}")
    lines += cut_short_by_simulator(summary)
    lines += [f"counted as failed, episode {one['episode']}: {one_line(one['error'])}" for one in summary["errors"][:5]]
    if len(summary["errors"]) > 5:
        lines.append(f"… and {len(summary['errors']) - 5} more; see episodes.jsonl")
    return "\n".join(lines)
