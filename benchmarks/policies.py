"""What a training step of the small policies costs on one core, what GAP adds to it, and how fast they act.

    python benchmarks/policies.py                         # threads 1, profile cpu of small_assembly, made-up data
    python benchmarks/policies.py --precision float32     # or --threads 2, --config FILE:PROFILE
    python benchmarks/policies.py --config finetune_configs/small_assembly.py:paper   # train.device is cuda there

Times are processor time, which other programs on the machine disturb least, and wall time on a GPU; shares and ratios
are within this one run.
docs/PERFORMANCE.md names the bounds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gap_vla.adjustment.torch import attach
from gap_vla.cli.configured import load_config
from gap_vla.core.episode import Episode
from gap_vla.policies import build_policy
from gap_vla.policies.encoders import ProprioEncoder
from gap_vla.policies.windows import SmallWindows
from gap_vla.rlds import EpisodeStore
from gap_vla.rlds.store import write_store
from gap_vla.training.torch import SmallConfig
from gap_vla.training.torch_trainer import SmallTrainer


def made_up_store(directory: Path, size: int, episodes: int = 40, length: int = 113) -> EpisodeStore:
    """A store of the size of the assembly demonstrations, of random numbers."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(episodes):
        proprio = rng.normal(size=(length, 9)).astype(np.float32)
        action = rng.uniform(-1, 1, (length, 7)).astype(np.float32)
        pictures = rng.integers(0, 256, (length, size, size, 3), np.uint8)
        rho, points = rng.uniform(0, 1, length).astype(np.float32), rng.uniform(size=length) < 0.03
        made.append(
            Episode(images={"image_primary": pictures}, proprio=proprio, action=action, rho=rho, change_point=points)
        )
    write_store(directory, {"train": made}, source="made up", source_hash="made up")
    return EpisodeStore.open(directory)


def clocked(action: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of an action that waits for its result."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def trained(trainer: SmallTrainer, batch: Any) -> float:
    """A step that is over: its loss is known."""
    return float(trainer.step(batch, 0).loss)


def branch_alone(config: SmallConfig, pairs: int) -> float:
    """Seconds that GAP adds to a step of the proprioceptive branch by itself (forward, backward and AdamW, median over
    pairs), where they are not lost in the noise of the image encoder.
    """
    model, device = config.model, config.train.device
    proprio = torch.randn(config.train.batch_size, model.proprio_history, 9, device=device)
    rho = torch.rand(config.train.batch_size, model.proprio_history, device=device)
    steps: list[Callable[[], Any]] = []
    for adjusted in (False, True):
        branch = torch.nn.Module()
        branch.proprio_encoder = ProprioEncoder(
            9, model.proprio_history, model.feature_dim, model.proprio_layers, model.temporal == "transformer"
        )
        optimizer = torch.optim.AdamW(branch.to(device).parameters(), foreach=True)
        gap = None
        if adjusted:
            gap = attach(branch, "proprio_encoder", config.adjustment, total_steps=10)
            gap.watch(optimizer)

        def step(branch: Any = branch, optimizer: Any = optimizer, gap: Any = gap) -> None:
            with gap.adjusting(rho, 0) if gap else contextlib.nullcontext():
                branch.proprio_encoder(proprio).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        steps.append(step)
    found = [[clocked(step, device) for step in steps] for _ in range(10 * pairs)]
    return statistics.median(with_gap - plain for plain, with_gap in found[10:])


def steps_per_second(trainer: SmallTrainer, steps: int) -> float:
    """Of the loop that `train_small` runs: data are gathered while the device works, which is waited for at the end."""
    start = time.perf_counter()
    for step in range(steps):
        last = trainer.step(trainer.batch(step), step)
    float(last.loss)
    return steps / (time.perf_counter() - start)


def measure(config: SmallConfig, pairs: int) -> None:
    torch.set_num_threads(config.train.threads)
    size, device = config.demos.image_size, config.train.device
    with tempfile.TemporaryDirectory() as folder:
        store = made_up_store(Path(folder), size)
        windows = SmallWindows(config, store, "train", np.asarray(store.split("train").fields["rho"]))
        trainers = {
            method: SmallTrainer(
                dataclasses.replace(config, method=method),
                build_policy(config.model, method, (size, size, 3), 9, 7),
                10_000,
                windows,
                windows,
            )
            for method in ("concat", "gap")
        }
        seconds: dict[str, list[float]] = {"concat": [], "gap": [], "data": []}
        for number in range(-3, pairs):
            batch = trainers["gap"].batch(number + 3)
            gathering = clocked(functools.partial(windows.batch, number + 3))
            found = {
                method: clocked(functools.partial(trained, trainers[method], batch), device)
                for method in sorted(trainers, reverse=bool(number % 2))
            }
            if number >= 0:
                seconds["data"].append(gathering)
                for method, value in found.items():
                    seconds[method].append(value)
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        ratios = [gap / plain for gap, plain in zip(seconds["gap"], seconds["concat"])]
        print(
            f"step: {1e3 * middle['concat']:.1f} ms (concat), {1e3 * middle['gap']:.1f} ms (gap), batch "
            f"{config.train.batch_size}, {size} × {size}, {config.train.precision}, {config.train.threads} thread(s), "
            f"{torch.cuda.get_device_name() if device == 'cuda' else device}"
        )
        print(
            f"data: {1e3 * middle['data']:.2f} ms a batch, {middle['data'] / (middle['data'] + middle['concat']):.1%}"
        )
        print(
            f"GAP: {100 * (statistics.median(ratios) - 1):+.2f} % of a step (median of {pairs} pairs; middle half "
            f"from {100 * (np.quantile(ratios, 0.25) - 1):+.1f} to {100 * (np.quantile(ratios, 0.75) - 1):+.1f} %)"
        )
        added = branch_alone(config, pairs)
        print(
            f"GAP on the proprioceptive branch alone: {1e3 * added:.2f} ms, {added / middle['concat']:.2%} of that step"
        )
        rate = steps_per_second(trainers["gap"], pairs)
        print(f"training: {rate:.1f} steps/s of wall time, data gathered meanwhile ({pairs} steps)")
        if device == "cuda":
            peak, two = torch.cuda.max_memory_allocated() / 1e9, len(trainers)
            print(f"memory: {peak:.2f} GB of the GPU at most, with {two} policies and their optimizers there")
        policy = trainers["gap"].policy.eval()
        policy.autocast_dtype = None
        for rows in (1, 8):
            seen = {key: value[:rows] for key, value in trainers["gap"].batch(0).items()}
            with torch.inference_mode():
                times = [clocked(functools.partial(policy, seen), device) for _ in range(30)]
            print(f"inference: {1e3 * statistics.median(times):.2f} ms for {rows} observation(s)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )  # a half-written --huge_pages would stand in the calls that it starts
    parser.add_argument("--config", default="finetune_configs/small_assembly.py", help="FILE[:PROFILE]")
    parser.add_argument("--pairs", type=int, default=60, help="paired steps (default 60)")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), help="of the image encoder")
    parser.add_argument("--image_size", type=int, help="pixels of a side")
    parser.add_argument("--huge_pages", action="store_true", help="all of it with ordinary pages, then with huge ones")
    options = parser.parse_args()
    if options.huge_pages:
        call = [sys.executable, *(word for word in sys.argv if word != "--huge_pages")]
        for value in ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=1"):
            print(f"GLIBC_TUNABLES={value}", flush=True)
            subprocess.run(call, env=os.environ | {"GLIBC_TUNABLES": value}, check=True)
        return
    config = load_config(options.config)
    train = {k: v for k in ("threads", "precision") if (v := getattr(options, k)) is not None}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    if options.image_size:
        config = dataclasses.replace(config, demos=dataclasses.replace(config.demos, image_size=options.image_size))
    measure(config, options.pairs)


if __name__ == "__main__":
    main()
