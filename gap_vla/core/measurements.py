"""What a training measured: the lines of its `metrics.jsonl`, read, and which of them are missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, content, parsed
from gap_vla.core.identity import flat
from gap_vla.core.run_directory import EARLIER
from gap_vla.core.typed_config import STEPS

SIZES = re.compile(r"_mse$|grad(ient)?(_norm)?(/|$)|_signal_|update_ratio|learning_rate$|per_second$")
"""Names of measurements that are never negative."""

SHARES = re.compile(r"^gap/[a-z]*_factor$|(^|_)(rho|share)$")
"""Names of measurements from 0 to 1."""


CUT_OFF = 1 << 20
"""Bytes behind the last whole line from which on they are no line that a kill, or a machine without power, cut off."""


def require_measurements(found: Section) -> None:
    """Raises the section's error for the first value that is no number, or none that its name allows."""
    for names, least, most in ((re.compile(""), -1e300, 1e300), (SIZES, 0, 1e300), (SHARES, 0, 1 + 1e-6)):
        of_these = {key: value for key, value in found.values.items() if names.search(key)}
        Section(of_these, found.where, found.error).require_numbers(least, most)


def require_losses(found: Section, config: Mapping[str, Any], named: str, advice: str) -> None:
    """Raises the section's error for a loss (what is `named` so) below 0, unless the policy's is a log-likelihood."""
    if config.get("model", {}).get("head") != "gmm":
        for key, loss in flat(found.values):
            if named in key and isinstance(loss, int | float) and loss < 0:
                raise found.error(f"{found.name(key)} is negative; {advice}")


def since(summary: Mapping[str, Any]) -> str:
    """What to write behind the seconds of a run that was taken up again, which are those of its last call.

    >>> since({"training": {"resumed_after": 2_000_000}})
    ' since step 2000000'
    """
    step = summary.get("training", {}).get("resumed_after")
    return f" since step {step}" if step else ""


def read_metrics(path: Path | str, finished: bool = False) -> list[dict[str, Any]]:
    """Every whole line of a metrics file, oldest first; a last one that a kill cut off is left out.

    Args:
        finished: the file is that of a finished run, and so ends with a whole line.

    Raises:
        UserError: a line that is no measurement, of an earlier step than the one before, or of a quantity twice.
    """
    rows: list[dict[str, Any]] = [{"step": 0}]
    lines = content(Path(path)).split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = Section(parsed(line), where)
        except ValueError:
            if not line and number == len(lines):
                break
            if not finished and number == len(lines) and len(line) < CUT_OFF and re.fullmatch(rb"\0*|\{[ -~]*", line):
                break
            raise UserError(f"{where}: not valid JSON; copy the file again") from None
        require_measurements(row)
        step = row.whole("step", 0, STEPS)
        before = rows[-1]
        if step < before["step"] or (step == before["step"] and row.values.keys() & before.keys() > {"step"}):
            how = "again" if step == before["step"] else f"after step {before['step']}"
            raise UserError(f"{where}: step {step} comes {how}; copy the file again, or take the line out")
        rows.append(dict(row.values))
    return rows[1:]


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
