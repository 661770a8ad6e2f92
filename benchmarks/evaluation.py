"""Measure the evaluation: rollouts per minute, and what the policy server adds to a call.

    python benchmarks/evaluation.py                                         # the server alone, in seconds
    python benchmarks/evaluation.py --task assembly --episodes 100          # and the expert's rollouts
    python benchmarks/evaluation.py --checkpoint runs/threading/NAME --episodes 100

Prints JSON: what this call measured, with its machine.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import tempfile
import threading
import time

import numpy as np


class Instant:
    """A policy that takes no time, so that what is measured is the way there and back."""

    name = "instant"

    def reset(self, episode_ids):
        pass

    def act(self, observations, episode_ids):
        return np.zeros((len(episode_ids), 7), np.float32)


def server_overhead(image_size: int, calls: int = 300) -> dict[str, float]:
    """Milliseconds that one call over loopback takes with a policy that takes none; the CPU time is robust to load."""
    from gap_vla.serving.client import RemotePolicy
    from gap_vla.serving.server import PolicyServer

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(PolicyServer(Instant(), whole_chunks=False).start("127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    policy = RemotePolicy(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    batch: dict[str, np.ndarray] = {
        "image_primary": np.zeros((1, image_size, image_size, 3), np.uint8),
        "proprio": np.zeros((1, 9), np.float32),
        "language_instruction": np.array(["go"]),
    }
    policy.reset([0])
    taken = []
    policy.act(batch, [0])
    worked = time.process_time()
    for _ in range(calls):
        started = time.perf_counter()
        policy.act(batch, [0])
        taken.append(1e3 * (time.perf_counter() - started))
    worked = time.process_time() - worked
    policy.close()
    cpu = {"cpu_ms_client_and_server": 1e3 * worked / calls}
    return {**cpu, "median_ms": float(np.median(taken[20:])), "p95_ms": float(np.quantile(taken[20:], 0.95))}


def processor_seconds() -> dict[str, float]:
    """Of this process (the policy, and the loop), and of its finished children (simulators, video encoders)."""
    whose = {"policy_and_loop": resource.RUSAGE_SELF, "simulators": resource.RUSAGE_CHILDREN}
    return {part: sum(resource.getrusage(who)[:2]) for part, who in whose.items()}


def rollouts(checkpoint: str | None, task: str | None, episodes: int) -> dict[str, object]:
    """Wall and processor time of an evaluation with two workers.

    Processor time hardly depends on what else the machine does. Simulators wait while the policy decides, so that on a
    quiet machine with two cores the wall time is about half the simulators' time and the policy's.
    """
    from gap_vla.rollouts.evaluation import evaluate
    from gap_vla.rollouts.policy import ExpertPolicy
    from gap_vla.serving.loading import load_checkpoint

    loaded = load_checkpoint(checkpoint, task=task) if checkpoint else None
    policy = loaded.policy if loaded else ExpertPolicy()
    name = task or (loaded.task if loaded else None) or "assembly"
    size = (loaded.image_size if loaded else None) or 64
    cameras = (loaded.cameras if loaded else None) or ("primary",)
    with tempfile.TemporaryDirectory() as out:
        started, before = time.perf_counter(), processor_seconds()
        summary = evaluate(policy, name, episodes=episodes, seed=100_000, out_dir=out, image_size=size, cameras=cameras)
        wall = time.perf_counter() - started
        used = {part: round(after - before[part], 1) for part, after in processor_seconds().items()}
    per_step = {part: 1e3 * (value or 0) for part, value in summary["seconds_per_step"].items()}
    kept = {key: summary[key] for key in ("episodes", "successes", "interval", "mean_steps")}
    return {
        "policy": policy.name,
        "task": name,
        **kept,
        "wall_s": round(wall, 1),
        "processor_s": used,
        "ms_per_step": per_step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a run or checkpoint directory; default: the expert")
    parser.add_argument("--task", help="default: the checkpoint's")
    parser.add_argument("--episodes", type=int, default=0, help="rollouts to time (default 0: none)")
    options = parser.parse_args()
    results: dict[str, object] = {}
    load = os.getloadavg()[0]
    machine = {"cores": os.cpu_count(), "processor": platform.machine(), "load_at_start": round(load, 1)}
    for size in (64, 224):
        results[f"server_{size}px"] = {**server_overhead(size), "machine": machine}
    if options.episodes:
        found = rollouts(options.checkpoint, options.task, options.episodes)
        results[f"rollouts_{found['policy']}_{found['task']}_{options.episodes}"] = {**found, "machine": machine}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
