"""The folder of an evaluation: what was evaluated, a JSON line for each finished episode, and the figures of all."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.files import read_json, write_json
from gap_vla.core.identity import differences, in_words
from gap_vla.rollouts.statistics import percent, wilson, with_interval
from gap_vla.rollouts.workers import SIMULATOR

IDENTITY_FILE, EPISODES_FILE, SUMMARY_FILE = "evaluation.json", "episodes.jsonl", "summary.json"


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """How one episode went.

    Attributes:
        episode: number within the evaluation; the layout depends on it and the evaluation's seed alone.
        layout_seed: what the environment was reset with.
        success: whether the task was achieved within the horizon. False if `error` is set.
        steps: control steps taken.
        phase: the last phase the watching expert got to, or None if nobody watched.
        error: why the episode was cut short and counted as failed, or None.
    """

    episode: int
    layout_seed: int
    success: bool
    steps: int
    phase: str | None = None
    error: str | None = None


def read_episodes(path: Path) -> dict[int, EpisodeRecord]:
    """Episode to its record, of an `episodes.jsonl`; a last line without its end, as a kill leaves it, is left out."""
    known = {field.name for field in dataclasses.fields(EpisodeRecord)}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    records = [EpisodeRecord(**{key: value for key, value in row.items() if key in known}) for row in rows]
    return {record.episode: record for record in records}


def require_same(path: Path, wanted: Mapping[str, Any]) -> None:
    """Raises UserError if the JSON file says other values of these keys than what is `wanted`; there may be no file."""
    if path.exists():
        there = read_json(path)
        changed = differences({key: there.get(key) for key in wanted}, json.loads(json.dumps(wanted)))
        if changed:
            raise UserError(f"{path} is of something else ({in_words(changed)}); choose another --out")


class EpisodeLog:
    """`episodes.jsonl` in `directory`, append-only; nothing is written before the first episode.

    Raises:
        UserError: the directory holds another evaluation (the differing entries are named), or other files.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any]) -> None:
        self.path = directory / EPISODES_FILE
        self._marker, self._identity = directory / IDENTITY_FILE, dict(identity)
        require_same(self._marker, self._identity)
        if not self._marker.exists() and (others := sorted(one.name for one in directory.glob("[!.]*"))):
            raise UserError(f"{directory} holds {others[0]}, but no evaluation; choose another --out")
        self.records = read_episodes(self.path) if self.path.exists() else {}
        if self.path.exists() and not (content := self.path.read_bytes()).endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)

    def append(self, record: EpisodeRecord) -> None:
        if not self._marker.exists():
            write_json(self._marker, self._identity)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records[record.episode] = record


def summarize(records: Sequence[EpisodeRecord], phases: Sequence[str] = ()) -> dict[str, Any]:
    """The figures of finished episodes.

    Returns:
        JSON-able: `episodes`, `successes`, `success_rate`, `interval` (Wilson, 95 %), `mean_steps`, `outcomes` (0/1 in
        the order of the episodes), `layout_seeds`, `steps`, `last_phases` (where each ended), `errors` (episode and
        reason), `simulator_errors` (how many of these the simulator is to blame for), `phases` (see `phase_progress`).
    """
    records = sorted(records, key=lambda record: record.episode)
    successes = sum(record.success for record in records)
    return {
        "episodes": len(records),
        "successes": successes,
        "success_rate": successes / len(records),
        "interval": list(wilson(successes, len(records))),
        "mean_steps": float(np.mean([record.steps for record in records])),
        "outcomes": [int(record.success) for record in records],
        "layout_seeds": [record.layout_seed for record in records],
        "steps": [record.steps for record in records],
        "last_phases": [record.phase for record in records],
        "errors": [{"episode": record.episode, "error": record.error} for record in records if record.error],
        "simulator_errors": sum(is_simulators(record) for record in records),
        "phases": phase_progress(records, phases),
    }


def is_simulators(record: EpisodeRecord) -> bool:
    """Whether the simulator cut the episode short."""
    return (record.error or "").partition(": ")[2].startswith(SIMULATOR)


def phase_progress(records: Sequence[EpisodeRecord], phases: Sequence[str]) -> dict[str, dict[str, float]] | None:
    """How far episodes got, by the phase of an expert that watched them.

    Returns:
        `reached`: fraction of the watched episodes that got at least to each phase, in the task's order;
        `failed_in`: how many failures ended in it. None if nobody watched.
    """
    watched = [record for record in records if record.phase is not None]
    if not watched or not phases:
        return None
    order = {name: place for place, name in enumerate(phases)}
    places = [len(order) if record.success else order[record.phase or ""] for record in watched]
    failures = Counter(record.phase for record in watched if not record.success)
    return {
        "reached": {name: sum(p >= order[name] for p in places) / len(places) for name in phases},
        "failed_in": {name: failures[name] for name in phases if failures[name]},
    }


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


def describe(summary: Mapping[str, Any]) -> str:
    """The lines that a command prints at its end."""
    success = with_interval(summary["success_rate"], summary["interval"])
    lines = [
        f"{title(summary)}: {summary['successes']} of {summary['episodes']} succeeded, {success}, "
        f"{summary['mean_steps']:.0f} steps on average"
    ]
    if summary["phases"]:
        reached = ", ".join(f"{name} {percent(share)} %" for name, share in summary["phases"]["reached"].items())
        watched = sum(phase is not None for phase in summary["last_phases"])
        of = "" if watched == summary["episodes"] else f" (of the {watched} episodes that were watched)"
        lines.append(f"phases reached{of}: {reached}")
    if told := told_cut_short({summary["policy"]["name"]: summary.get("simulator_errors", 0)}):
        lines.append(told)
    lines += [f"counted as failed, episode {one['episode']}: {one['error'][:300]}" for one in summary["errors"][:5]]
    if len(summary["errors"]) > 5:
        lines.append(f"… and {len(summary['errors']) - 5} more; see {EPISODES_FILE}")
    return "\n".join(lines)
