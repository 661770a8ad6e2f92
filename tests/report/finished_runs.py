"""Directories of finished runs, as a report finds them."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
from evaluations import evaluation_of

from gap_vla.drawing.video import write_video


@functools.cache
def film() -> bytes:
    """A whole MP4 of four pictures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        return write_video(path, np.zeros((4, 16, 16, 3), np.uint8), "evaluation").read_bytes()


def make_run(folder, method, seed, wins, task="assembly"):
    config = {"task": task, "method": method, "train": {"seed": seed, "steps": 20}, "data": {"root": "data"}}
    path = folder / f"{method}-seed{seed}"
    videos = path / "rollouts" / "default" / "videos"
    videos.mkdir(parents=True)
    number = min(1, len(wins) - 1)
    name = f"episode_{number:04d}_{'success' if wins[number] else 'failure'}.mp4"
    (videos / name).write_bytes(film())
    evaluation = {**evaluation_of(enumerate(wins, 5), ("reach", "insert"), 12), "videos": [f"videos/{name}"]}
    summary = {
        "task": task,
        "method": method,
        "seed": seed,
        "rollouts": evaluation,
        "variants": {"default": evaluation},
        "validation": {"val/action_mse": 0.5 + seed / 1e5, "val/mean_action_mse": 0.5},
        "seconds": {"train": 3.0},
        "steps": 20,
        "machine": {"commit": "abc123"},
    }
    rows = [
        {"step": step, "train/loss": 1 / (step + 1), "branch/vision_gradient": 0.1 * step + 0.1}
        | {f"branch/proprio_signal_{part}": 0.2 + 0.01 * step for part in ("transition", "consistent")}
        for step in range(20)
    ]
    rows.append({"step": 20, "val/action_mse": 0.5 + seed / 1e5})
    (path / "config.json").write_text(json.dumps(config))
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
