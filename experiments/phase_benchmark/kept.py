"""What the stages measured before, read back: values that cannot be, or that contradict each other, are in no table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.phase_benchmark.tables import counts_of, pooled_f1
from gap_vla.cli.arguments import MANY
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, one_line, refusing, shown

AGAIN = "remove it, and run the stage again"

SHARES = ("f1@", "precision@", "recall@", "tuning_f1@", "auprc", "rho_mean", "calibration")
BOUNDS = {**dict.fromkeys(SHARES, (0, 1)), "timing_error": (0, 10), "rho_width": (0, 1e6), "held_out_loss": (0, 1e6)}
"""Beginnings of keys to the least and greatest value that a measurement gives."""
ALL_SHARES = ("sensitivity", "demonstrations")
"""Stages whose numbers are all shares."""
NEARLY = 1e-6

Scores = Mapping[str, Any]


def read_stage(out: Path, stage: str) -> dict[str, Any]:
    """What a stage has measured: `recordings`, `content` where it was kept, and `results`; empty before it has run.
    Raises UserError: it is damaged, or holds values that no measurement gives; names file and key.
    """
    path = out / f"{stage}.json"
    if not path.exists():
        return {}
    found = Section.read(path)
    results = found.section("results")
    kept: dict[str, Any] = {"recordings": _recordings(found)}
    if "content" in found:
        kept["content"] = dict(found.section("content").values)
    kept["results"] = {name: dict(results.section(name).values) for name in results.values}
    with refusing(path, AGAIN):
        if problem := next(_problems(kept["results"], "", kept["recordings"], stage), None):
            raise UserError(f"{path}: {''.join(problem)}; {AGAIN}")
    return kept


def require_same_recordings(path: Path, held: Mapping[str, Any], asked: Mapping[str, Any], advice: str) -> None:
    """Raises UserError where a file's measurements (`held`) are of other recordings than `asked`: `recordings` is the
    number of each task, `content` their digests where they are known.
    """
    if held["recordings"] != asked["recordings"]:
        these = f"{asked['recordings']}"
    elif held.get("content", asked.get("content")) != asked.get("content", held.get("content")):
        these = "these of them"
    else:
        return
    raise UserError(f"{path}: what is there was measured on {held['recordings']}, not on {these}; {advice}")


def _recordings(of: Section) -> dict[str, int]:
    counts = of.section("recordings")
    return {task: counts.whole(task, 1, MANY) for task in counts.values}


def _problems(tree: Scores, prefix: str, recordings: Mapping[str, int], stage: str) -> Iterator[tuple[str, str]]:
    """Dotted key and what is wrong with it, for everything below `prefix` that no measurement gives."""
    if "recordings" in tree:  # a set of the stage `untouched` has its own
        recordings = _recordings(Section(tree, f"{stage}.json: {prefix.rstrip('.')}"))
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if one_line(name) != name or {*"|<>"} & {*name}:
            yield one_line(key), " is a name that breaks the tables"
        elif isinstance(value, Mapping):
            yield from _problems(value, f"{key}.", recordings, stage)
        elif problem := _odd_value(stage, name, key, value, tree):
            yield key, problem
    if "mean" in tree and not isinstance(tree.get("tasks"), Mapping):
        yield f"{prefix}tasks", " are missing"
    if isinstance(tasks := tree.get("tasks"), Mapping):
        yield from ((f"{prefix}{key}", problem) for key, problem in _contradictions(tree, tasks, recordings))


def _odd_value(stage: str, name: str, key: str, value: Any, beside: Scores) -> str:
    if isinstance(value, str | bool) or (value is None and name in ("value", "tuning_f1@5")):
        return ""
    low, high = next((bounds for start, bounds in BOUNDS.items() if name.startswith(start)), (-1e300, 1e300))
    if stage in ALL_SHARES or (stage == "width" and ".rho." in key):
        low, high = 0, 1
    if name == "timing_error" and value != value and not beside.get("f1@10"):  # nothing was matched
        return ""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, bool) or not isinstance(one, int | float) or not low <= one <= high:
            return f" is {shown(one)}, which no measurement gives"
    return ""


def _contradictions(line: Scores, tasks: Scores, recordings: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Keys whose values do not follow from the others of a line: scores of each of the `tasks`, and their mean."""
    if {*tasks} != {*recordings}:
        yield "tasks", f" are {', '.join(tasks)}, the recordings are of {', '.join(recordings)}"
        return
    for task, scores in tasks.items():
        if isinstance(scores, Mapping) and "counts@5" in scores:
            for key, problem in _odd_counts(scores, recordings[task] // 2):
                yield f"tasks.{task}.{key}", problem
    means: Scores = line["mean"] if isinstance(line["mean"], Mapping) else {"": line["mean"]}
    for key, said in means.items():
        each = [scores[key] if key else scores for scores in tasks.values()]
        there = [one for one in each if not math.isnan(one)]
        right = float(np.mean(there)) if there else math.nan
        if not (abs(said - right) <= NEARLY or (math.isnan(said) and math.isnan(right))):
            yield f"mean{'.' if key else ''}{key}", f" is {said:g}, its tasks give {right:g}"


def _odd_counts(scores: Scores, recordings: int) -> Iterator[tuple[str, str]]:
    text = scores["counts@5"]
    if not re.fullmatch(r"\d{1,6}/\d{1,6}/\d{1,6}( \d{1,6}/\d{1,6}/\d{1,6})*", text):
        yield "counts@5", " must be matched/found/true of each recording"
        return
    counts = counts_of(text)
    if len(counts) != recordings or (counts[:, 0] > counts[:, 1:].min(1)).any():
        yield "counts@5", f" must be of {recordings} recordings, and none with more matched than found or true"
        return
    matched, found, true = (int(total) for total in counts.sum(0))
    f1 = [scores[key] for key in ("f1@2", "f1@5", "f1@10") if key in scores]
    if f1 != sorted(f1):
        yield "f1@2", " to f1@10 must not fall: what is matched within 2 steps is so within 10"
    precision, recall = matched / found if found else true == 0, matched / true if true else found == 0
    for key, right in (("f1@5", float(pooled_f1(counts))), ("precision@5", precision), ("recall@5", recall)):
        if key in scores and abs(scores[key] - right) > NEARLY:
            yield key, f" is {scores[key]:g}, its counts@5 give {right:g}"
