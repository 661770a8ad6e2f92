"""What a training step of a small Octo costs (by default the one of one camera), and what GAP adds to it.

    python benchmarks/training.py                 # GAP against a program without it, in turns, in one process

Prints medians of paired runs; docs/PERFORMANCE.md names the bounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any


def measure(pairs: int, batch_size: int, profile: str) -> None:
    import jax
    import numpy as np

    from gap_vla.cli.configured import load_config
    from gap_vla.octo.presets import example_batch
    from gap_vla.training.octo_model import build
    from gap_vla.training.step import TrainStep

    config: Any = load_config(f"finetune_configs/threading.py:{profile}")
    size, window, horizon = config.demos.image_size, config.model.window_size, config.model.action_horizon
    cameras = [f"image_{camera}" for camera in config.demos.cameras]
    batch = example_batch(
        cameras, image_size=size, window_size=window, action_horizon=horizon, batch_size=batch_size
    )  # 9-D proprioception, 7-D actions
    batch["rho"] = np.random.default_rng(0).uniform(0, 1, (batch_size, window)).astype(np.float32)
    trainer = build(config, batch, {})
    inputs = trainer.inputs(batch)
    factors = config.schedule.factors(batch["rho"], 0, config.train.steps)
    seconds: dict[str, list[float]] = {"with GAP": [], "without": []}
    processor: dict[str, list[float]] = {"with GAP": [], "without": []}
    steps, states = {}, {}
    for name, adjust in (("with GAP", True), ("without", False)):
        steps[name] = TrainStep(trainer.model.module, trainer.tx, trainer.packing, trainer.adam, adjust=adjust)
        start = time.perf_counter()
        fresh = jax.tree_util.tree_map(lambda leaf: leaf.copy(), trainer.state)  # a step donates its state
        states[name], measured = steps[name](fresh, inputs, factors)
        jax.block_until_ready(measured)
        print(f"{name}: first step (tracing and compilation) {time.perf_counter() - start:.1f} s")
    for pair in range(pairs):
        for name in sorted(steps, reverse=bool(pair % 2)):
            start, busy = time.perf_counter(), time.process_time()
            states[name], measured = steps[name](states[name], inputs, factors)
            jax.block_until_ready((states[name], measured))
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - busy)
    for name, values in seconds.items():
        print(f"{name}: median {1e3 * statistics.median(values):.1f} ms a step (batch {batch_size})")
    for kind, spent in (("time", seconds), ("processor time", processor)):
        ratios = [a / b for a, b in zip(spent["with GAP"], spent["without"])]
        print(f"GAP costs {100 * (statistics.median(ratios) - 1):+.2f} % of a step's {kind} (median of {pairs} pairs)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="paired steps (default 60)")
    parser.add_argument("--batch_size", type=int, default=64, help="samples in a step (default 64)")
    parser.add_argument("--profile", default="one_camera", help="of finetune_configs/threading.py (default one_camera)")
    options = parser.parse_args()
    measure(options.pairs, options.batch_size, options.profile)


if __name__ == "__main__":
    main()
