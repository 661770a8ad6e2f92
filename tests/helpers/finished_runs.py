"""Directories of runs, as a report finds them."""

import json

import numpy as np

from gap_vla.drawing.video import write_video
from tests.helpers.evaluations import evaluation_of


def make_run(folder, method, seed, wins, task="assembly", steps=20):
    """A finished run of 20 steps whose rollouts ended as `wins` says, with a film of the first two of them."""
    path = folder / f"{method}-seed{seed}"
    names = [f"videos/episode_{n:04d}_{'success' if won else 'failure'}.mp4" for n, won in enumerate(wins[:2])]
    for name in names:
        write_video(path / "rollouts" / "default" / name, np.zeros((4, 16, 16, 3), np.uint8))
    evaluation = {**evaluation_of(enumerate(wins, 5), ("reach", "insert"), 12), "videos": names}
    summary = {
        "task": task,
        "method": method,
        "seed": seed,
        "rollouts": evaluation,
        "variants": {"default": evaluation},
        "validation": {"val/action_mse": 0.5 + seed / 1e5},
        "seconds": {"train": 3.0},
        "steps": steps,
        "machine": {"commit": "abc123"},
    }
    acts = {"gap/sample_factor": 0.7} if "gap" in method else {}
    rows = [
        {"step": step, "train/loss": 1 / (step + 1), "branch/vision_gradient": 0.1 * step + 0.1, **acts}
        | {f"branch/proprio_signal_{part}": 0.2 + 0.01 * step for part in ("transition", "consistent")}
        for step in range(steps)
    ]
    rows.append({"step": steps, "val/action_mse": 0.5 + seed / 1e5})
    train = {"seed": seed, "steps": steps}
    config = {"task": task, "method": method, "train": train, "adjustment": {"window": 0.5}, "data": {"root": "data"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
