"""Which measurements of a training are not in its `metrics.jsonl`, although its rhythm says that they were taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gap_vla.core.foreign import Section
from gap_vla.core.run_directory import EARLIER


def hole(rows: Sequence[Mapping[str, Any]], config: Section, done: int, steps: int) -> str:
    """What `rows`, those of the first `done` of all `steps`, lack, as "measurements of step 5"; empty if nothing.

    Of a rhythm that was changed meanwhile nobody knows when; then its rows are not missed. The held-out measurements
    after the last of all `steps` are not looked for: a training makes them again, a report refuses a run without them.

    Args:
        config: the content of the run's `config.json`, earlier values included.
    """
    train = config.section("train", {})
    earlier = config.list(EARLIER, Section.section) if EARLIER in config else ()
    due = {(0, False)} if "validate_every" in train else set()
    for key, trained in (("log_every", True), ("validate_every", False)):
        if key in train and not any(f"train.{key}" in old for old in earlier):
            every = train.whole(key, 1, 2**53)
            due |= {(step, trained) for step in range(every, done + 1, every)}
    if done == steps and "log_every" in train:
        due |= {(done, True)}
    found = {(row["step"], "train/loss" in row) for row in rows} | ({(done, False)} if done == steps else set())
    lost = sorted({step for step, _ in due - found})
    if not lost:
        return ""
    return f"measurements of steps {lost[0]} to {lost[-1]}" if len(lost) > 1 else f"measurements of step {lost[0]}"
