"""What earlier looks found, read back: values that cannot be, or that contradict each other, are on no page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.looks.takeover import window_folder
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, finite, one_line, refusing
from gap_vla.core.measurements import require_losses
from gap_vla.core.seals import EXPORTED
from gap_vla.report.runs import Run
from gap_vla.rollouts.record import EPISODES_FILE, IDENTITY_FILE, read_episodes

AGAIN = "look again with --probe"

BOUNDS = {
    "r2": (-1e9, 1.0),
    **dict.fromkeys(("auc", "balanced_accuracy", "share"), (0.0, 1.0)),
    **dict.fromkeys(("error", "mean_error", "covariate_error", "errors"), (0.0, 1e6)),
    "cost": (0.0, 1e9),
    **dict.fromkeys(("steps", "episodes"), (1, 2**53)),
}
"""Least and greatest value of what a look measures, by its key; of a list or of `errors`, of each number in it."""


def kept_probe(file: Path, runs: Sequence[Run]) -> dict[str, Any] | None:
    """What an earlier call found out about these runs, if there was one. Raises UserError: it is damaged, holds
    values that cannot be, or is of other runs, or of ones that were trained again since.
    """
    if not file.exists():
        return None
    found = Section.read(file, UserError, AGAIN)
    try:
        require_sound(found.values, str(file))
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from None
    with refusing(file, AGAIN, UserError):
        _require_agreeing(found, runs)
    folders = {run.label: run.path.resolve().name for run in runs}
    for label, path in found.section("runs", {}).values.items():
        if folders.get(label) != Path(str(path)).resolve().name:
            raise UserError(f"{file} is a probe of other runs, such as {path}; {AGAIN}, or move it away")
    exported = {run.label: run.summary[EXPORTED] for run in runs if EXPORTED in run.summary}
    for label, probed in found.section("of", {}).values.items():
        if exported.get(label, probed) != probed:
            raise UserError(f"{file} is a probe of another training of {label}; {AGAIN}, or move it away")
    return dict(found.values)


def _require_agreeing(found: Section, runs: Sequence[Run]) -> None:
    """Raises UserError for labels and losses that no probe of these runs has."""
    labels = found.values.get("labels", [])
    if labels != [*found.section("probes", {}).values]:
        raise found.error(f"{found.name('labels')} are not those of its probes, in their order; {AGAIN}")
    configs = {run.label: run.config for run in runs}
    losses = found.section("branch_losses", {})
    for label in losses.values:
        require_branches(losses.section(label), configs.get(label, {}), AGAIN)


def require_branches(found: Section, config: Mapping[str, Any], advice: str) -> None:
    """Raises the section's error for a loss that cannot be, or one over all windows that none of their parts give."""
    require_losses(found, config, "", advice)
    for heard in found.values:
        parts = dict(found.section(heard).values)
        whole, each = parts.pop("all", None), [*parts.values()]
        if len(each) > 1 and all(isinstance(one, int | float) for one in (whole, *each)):
            if not min(each) - 1e-6 <= whole <= max(each) + 1e-6:
                raise found.error(f"{found.name(heard)}.all is {whole:g}, not between those of its parts; {advice}")


def require_takeover(found: Mapping[str, Any], folder: Path, run: Run, shown: Sequence[Run] = ()) -> None:
    """Raises UserError for what a `takeover.json` says if it is of another run, of other weights than those of the
    runs `shown` beside it, or its windows are not what their rollouts, in its `folder`, give.
    """
    for key, own in (("main", run.label), ("task", run.task)):
        if found[key] != own:
            said = f"its {key} is {one_line(found[key], 60)}, the run's {own}"
            raise UserError(f"{folder}: a takeover of another run ({said}); move it away, and look again")
    if (kept := folder / window_folder(0, "never") / IDENTITY_FILE).exists():
        both = Section.read(kept, UserError).section("policy")
        taking = folder.name.split("-", 2)[2:]  # phase, variant, and the other run's folder
        others = [one for one in shown if taking == [one.path.resolve().name]]
        for part, of in (("main", run), *(("other", other) for other in others)):
            played = both.section(part, {}).values.get("parameters")
            weights = {one.get("policy", {}).get("parameters", played) for one in of.evaluations.values()}
            if played and weights - {played}:
                raise UserError(
                    f"{folder}: a takeover of other weights than those of {of.path}; move it away, and look again"
                )
    windows, episodes = found["windows"], found["episodes"]
    for number, window in enumerate(windows):
        one = Section(window, f"{folder}: window {window['window']}", UserError)
        won, never = one.whole("successes", 0, episodes), windows[0]["successes"]
        _require_interval(one, "difference", -1.0, 1.0)
        outcomes = one.text("outcomes", "1" * won + "0" * (episodes - won))
        if (len(outcomes), outcomes.count("1")) != (episodes, won):
            raise one.refuse("outcomes", f"{won} successes of {episodes} episodes")
        if (log := folder / window_folder(number, window["window"]) / EPISODES_FILE).exists():
            played = [str(int(record.success)) for _, record in sorted(read_episodes(log)[0].items())]
            if "".join(played) != outcomes:
                raise one.refuse("outcomes", f"{''.join(played)}, as {log} says")
        if abs(window["difference"] - (won - never) / episodes) > 1e-6:
            raise one.refuse("difference", f"{won} less {never} of {episodes}")


def require_sound(value: Any, where: str, key: str = "") -> None:
    """Raises UserError for a number among measurements that is none, or that cannot be one of its key; `where` is the
    file, or the file and keys.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}, no measurement")
    if isinstance(value, Mapping):
        for name in value:
            if f"{name}_interval" in value:
                _require_interval(Section(value, where, UserError), name, *BOUNDS.get(name, (-1e300, 1e300)))
    elif key in BOUNDS and not isinstance(value, list):
        finite(where, value, *BOUNDS[key], UserError)
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        below = f"{where}: {name}" if where.endswith(".json") else f"{where}.{name}"
        require_sound(part, below, key if isinstance(value, list) or key == "errors" else str(name))


def _require_interval(of: Section, key: str, least: float, greatest: float) -> None:
    """The interval of a value has two ends in order, and the value lies in it, or hardly outside (a bootstrap's)."""
    value = of.finite(key, least, greatest)
    name = f"{key}_interval"
    ends = of.list(name, lambda ends, end: ends.finite(end, least, greatest))
    if len(ends) != 2:
        raise of.refuse(name, "of two ends")
    low, high = ends
    if not low - (high - low) - 1e-6 <= value <= high + (high - low) + 1e-6:
        raise of.error(f"{of.name(name)} is {low:g} to {high:g} around {value:g}")
