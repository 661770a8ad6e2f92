"""Saved annotators that are damaged label as before or are refused in one line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from harness import LONG_SECONDS, Target, damage_a_file, damaged_json, remove_a_file, run
from safetensors.numpy import load_file, save_file
from synthetic_demos import make_episode

from gap_vla.phases import annotate, load_annotator

EPISODES = [make_episode(i, steps=12, size=4, annotated=False) for i in range(2)]


def _annotator(folder: Path) -> Path:
    return annotate(EPISODES, epochs=1, hidden=4, seed=0, workers=1).annotator.save(folder / "annotator")


def damage_json(draw: random.Random, path: Path) -> None:
    """As it was saved before 0.2, without a hash of the record: what is looked at is what it says."""
    file = path / draw.choice(("annotator.json", "estimator.json", "estimator.json"))
    written = json.loads(file.read_text())
    written.pop("record_hash", None)
    changed = damaged_json(draw, written)
    file.write_text(json.dumps(changed))


def damage_weights(draw: random.Random, path: Path) -> None:
    arrays = load_file(path / "estimator.safetensors")
    name = draw.choice(sorted(arrays))
    old = arrays[name]
    new = draw.choice((None, old[:-1], old.astype(np.float64), np.full_like(old, np.nan), old[None], old.T.copy()))
    del arrays[name]
    if new is not None:
        arrays[name] = new
    save_file(arrays, path / "estimator.safetensors")
    record = json.loads((path / "annotator.json").read_text()) | {"version": "0.0.0"}
    (path / "annotator.json").write_text(json.dumps(record))


def _label(path: Path) -> list[np.ndarray]:
    try:
        return load_annotator(path).annotate(EPISODES, workers=1).rho
    except FileNotFoundError as error:  # named by the commands as it is
        from gap_vla.core.errors import UserError

        raise UserError(str(error)) from error


def _whole(rho: list[np.ndarray], _: Path) -> None:
    assert [len(r) for r in rho] == [12, 12]
    assert all(np.isfinite(r).all() and r.min() >= 0 and r.max() <= 1 for r in rho)


TARGET = Target(
    "annotator", _annotator, [damage_a_file, remove_a_file, damage_json, damage_json, damage_weights], _label, _whole
)


def test_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    outcomes = run(TARGET, tmp_path, range(80))
    assert min(outcomes.values()) > 8, outcomes


@pytest.mark.slow
def test_much_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    run(TARGET, tmp_path, range(10_000, 10**9), LONG_SECONDS / 8)
