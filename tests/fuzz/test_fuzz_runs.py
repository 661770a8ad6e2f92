"""Finished runs and recorded cells that are damaged are reported as they ended, or refused in one line."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from finished_runs import make_run
from harness import LONG_SECONDS, Target, damage_a_file, damaged_json, remove_a_file, run

from experiments.tables.ledger import Entry, Ledger
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.run_settings import of_result
from gap_vla.core.seals import DIGESTS, sealed
from gap_vla.report.runs import Run
from gap_vla.rollouts.record import EpisodeRecord


def _finished(folder: Path) -> Path:
    """With rollouts as `evaluate` leaves them, and sealed as a training does in the end."""
    path = make_run(folder, "gap", 0, [1, 0, 1, 1])
    directory = RunDirectory(path)
    directory.dataset.write_text(json.dumps({"training_version": 2, "demos": {"episodes": 4}}))
    summary = json.loads(directory.summary.read_text())
    said = summary["variants"]["default"]
    summary["rollouts"] = said = summary["variants"]["default"] = {**said, "policy": {"name": "gap"}}
    ends = zip(said["layout_seeds"], said["outcomes"], said["steps"], said["last_phases"])
    lines = [EpisodeRecord(number, seed, bool(won), *end) for number, (seed, won, *end) in enumerate(ends)]
    played = path / "rollouts" / "default"
    (played / "episodes.jsonl").write_text("".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in lines))
    (played / "evaluation.json").write_text(json.dumps({"policy": {"name": "gap"}}))
    directory.summary.write_text(json.dumps(sealed(directory, summary)))
    return path


def damage_json(draw: random.Random, path: Path) -> None:
    file = draw.choice(sorted(path.rglob("*.json")))
    file.write_text(json.dumps(damaged_json(draw, json.loads(file.read_text()))))


def edit_a_number(draw: random.Random, path: Path) -> None:
    """One digit of a file of text is another one."""
    file = draw.choice(sorted(p for p in path.rglob("*") if p.suffix in (".json", ".jsonl")))
    text = file.read_text()
    place = draw.choice([n for n, letter in enumerate(text) if letter.isdigit()] or [0])
    file.write_text(f"{text[:place]}{draw.choice('123456789')}{text[place + 1 :]}")


def _read(path: Path) -> dict[str, Any]:
    found = Run.read(path)
    return {
        "settings": of_result(found.config),
        "summary": {key: value for key, value in found.summary.items() if key != DIGESTS},
        "evaluations": found.evaluations,
        "outcomes": {variant: dict(one) for variant, one in found.rollouts.items()},
        "metrics": found.metrics if found.summary else None,
    }


def _as_it_ended(found: dict[str, Any], path: Path) -> None:
    """A run without a summary is one that has not ended, and says nothing of success."""
    healthy = _read(_healthy(path.parents[1]))
    if not found["summary"]:
        assert not (path / "summary.json").exists() and not found["outcomes"]
        return
    for part, right in healthy.items():
        assert found[part] == right, (part, found[part])


@functools.cache
def _healthy(folder: Path) -> Path:
    [path] = (folder / "healthy").iterdir()
    return path


def _recorded(folder: Path) -> Path:
    return Path(shutil.copytree(CELL.parent, folder / "cell", ignore=lambda _, names: {*names} - {CELL.name}))


def _read_cell(path: Path) -> Entry:
    [entry] = Ledger(path.parent, path.name, "").all_entries()
    return entry


def _counts_as_recorded(found: Entry, path: Path) -> None:
    """Which cell it is, how it was made, and its rollouts; with times and losses nothing is there to be compared."""
    right = Entry.from_json(json.loads(CELL.read_text()))
    for part in ("cell", "status", "task", "arm", "method", "seed", "steps", "variants", "config_hash"):
        assert getattr(found, part) == getattr(right, part), part
    assert of_result(found.config) == of_result(right.config)


CELL = Path(__file__).parents[2] / "results/octo_confirmation/cpu/threading-vp-seed10.json"
DAMAGES = [damage_a_file, damage_a_file, damage_json, edit_a_number]
TARGETS = {
    "run": Target("run", _finished, [*DAMAGES, remove_a_file], _read, _as_it_ended),
    "cell": Target("cell", _recorded, DAMAGES, _read_cell, _counts_as_recorded),
}


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    outcomes = run(TARGETS[name], tmp_path, range(100))
    assert min(outcomes.values()) > 6, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_much_damage_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    run(TARGETS[name], tmp_path, range(10_000, 10**9), LONG_SECONDS / 40)
