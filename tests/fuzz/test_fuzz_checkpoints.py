"""Damaged checkpoints and key files are loaded whole, or refused in one line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import LONG_SECONDS, Target, damage_a_file, damaged_json, run

from gap_vla.policies.config import SmallModelConfig
from gap_vla.policies.methods import build_policy
from gap_vla.policies.saving import save_policy
from gap_vla.serving.key_mapping import OBSERVATION, KeyMapping
from gap_vla.serving.loading import LoadedPolicy, load_checkpoint

STATISTICS = {
    name: {"mean": np.zeros(width), "std": np.ones(width), "mask": np.ones(width, bool)}
    for name, width in (("action", 7), ("proprio", 9))
}
RUN = {"task": "stack", "method": "gap", "eval": {"execute": 2, "ensemble": False}, "train": {"threads": 1}}


def octo(folder: Path) -> Path:
    shutil.copytree(Path(__file__).parents[1] / "data" / "octo" / "b" / "checkpoint", folder / "checkpoint")
    (folder / "config.json").write_text(json.dumps(RUN))
    return folder


def small(folder: Path) -> Path:
    sizes = {"encoder_width": 8, "feature_dim": 16, "head_dim": 16, "head_layers": 1, "action_horizon": 3}
    policy = build_policy(SmallModelConfig(**sizes, proprio_history=2), "gap", (32, 32, 3), 9, 7)
    save_policy(policy, folder / "checkpoint", STATISTICS, "normal")
    (folder / "config.json").write_text(json.dumps(RUN))
    return folder


def keys(folder: Path) -> Path:
    folder.mkdir(parents=True)
    file = folder / "keys.json"
    file.write_text(json.dumps({"observation": OBSERVATION, "actions": "actions", "execute": 8, "image_size": 224}))
    return file


def damage_json(draw: random.Random, path: Path) -> None:
    file = draw.choice(sorted(path.rglob("*.json"))) if path.is_dir() else path
    content = json.loads(file.read_text())
    for _ in range(draw.choice((1, 1, 2))):
        content = damaged_json(draw, content)
    file.write_text(json.dumps(content))


def load(path: Path) -> LoadedPolicy:
    return load_checkpoint(path, batch_size=1)


def acts(loaded: LoadedPolicy, path: Path) -> None:
    """What was loaded has finite statistics and weights, and knows its task or does not claim to."""
    statistics = loaded.policy._statistics  # type: ignore[attr-defined]
    assert np.isfinite(np.asarray(statistics["action"]["mean"], np.float32)).all()
    assert loaded.task in (None, "stack") or isinstance(loaded.task, str)
    assert 1 <= loaded.policy.action_dim <= 7  # type: ignore[attr-defined]


TARGETS = {
    "octo": Target("octo", octo, (damage_json, damage_json, damage_a_file), load, acts),
    "small": Target("small", small, (damage_json, damage_json, damage_a_file), load, acts),
    "keys": Target("keys", keys, (damage_json, damage_a_file), KeyMapping.read),
}


@pytest.mark.parametrize(("name", "rounds"), [("octo", 3), ("small", 25), ("keys", 300)])
def test_damaged_ones_are_read_or_refused(tmp_path: Path, name: str, rounds: int) -> None:
    outcomes = run(TARGETS[name], tmp_path, range(rounds))
    assert outcomes["refused"] > rounds // 4, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_very_many_damaged_ones_are_read_or_refused(tmp_path: Path, name: str) -> None:
    run(TARGETS[name], tmp_path, range(10_000, 10_000_000), LONG_SECONDS / 20)
