"""The evaluation: wall and processor time of rollouts with two workers, of the expert or of a checkpoint.

    python benchmarks/evaluation.py --task assembly --episodes 100
    python benchmarks/evaluation.py --checkpoint runs/threading/NAME --episodes 100

Prints JSON. Processor time hardly depends on what else the machine does. Simulators wait while the policy decides, so
that on a quiet machine with two cores the wall time is about half the simulators' time and the policy's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from typing import Any


def processor_seconds() -> dict[str, float]:
    """Of this process (the policy, and the loop), and of its finished children (simulators)."""
    whose = {"policy_and_loop": resource.RUSAGE_SELF, "simulators": resource.RUSAGE_CHILDREN}
    return {part: sum(resource.getrusage(who)[:2]) for part, who in whose.items()}


def measure(checkpoint: str | None, task: str | None, episodes: int) -> dict[str, Any]:
    from gap_vla.rollouts.evaluation import evaluate
    from gap_vla.rollouts.policy import ExpertPolicy
    from gap_vla.serving.loading import load_checkpoint

    loaded = load_checkpoint(checkpoint, task=task) if checkpoint else None
    policy = loaded.policy if loaded else ExpertPolicy()
    name = task or (loaded.task if loaded else None) or "assembly"
    scene: dict[str, Any] = (
        {"image_size": loaded.image_size or 64, "cameras": loaded.cameras or ("primary",)} if loaded else {}
    )
    with tempfile.TemporaryDirectory() as out:
        started, before = time.perf_counter(), processor_seconds()
        summary = evaluate(policy, name, episodes=episodes, seed=100_000, out_dir=out, videos=0, **scene)
        wall = time.perf_counter() - started
    return {
        "policy": policy.name,
        "task": name,
        **{key: summary[key] for key in ("episodes", "successes", "mean_steps")},
        "wall_s": round(wall, 1),
        "processor_s": {part: round(after - before[part], 1) for part, after in processor_seconds().items()},
        "ms_per_step": {part: 1e3 * (value or 0) for part, value in summary["seconds_per_step"].items()},
        "load_after": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a run or checkpoint directory; default: the expert")
    parser.add_argument("--task", help="default: the checkpoint's")
    parser.add_argument("--episodes", type=int, default=100, help="rollouts to time (default 100)")
    options = parser.parse_args()
    print(json.dumps(measure(options.checkpoint, options.task, options.episodes), indent=2))
