"""Training from the kept maps of a frozen encoder, beside the small encoder: time of the maps and of 2,500 steps.

    python benchmarks/eyes.py

54 made-up episodes of 130 steps, pictures of 80 × 80, batches of 64, float32, one thread. The policies (vp, with one
and with five frames) take turns, a step each. Prints wall time, and processor time in brackets.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gap_vla.core.columns import DELTA, POSE
from gap_vla.core.episode import Episode
from gap_vla.policies.pretrained import stored_maps
from gap_vla.rlds.store import EpisodeStore, write_store
from gap_vla.training.torch import SmallConfig
from gap_vla.training.torch_trainer import SmallTrainer

EPISODES, LENGTH, PIXELS, STEPS = 54, 130, 80, 2500


def made_up(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    quaternion = np.tile([1.0, 0, 0, 0], (LENGTH, 1))
    proprio = np.concatenate([rng.normal(size=(LENGTH, 3)), quaternion, rng.random((LENGTH, 2))], 1)
    return Episode(
        images={"image_primary": rng.integers(0, 256, (LENGTH, PIXELS, PIXELS, 3), dtype=np.uint8)},
        proprio=proprio.astype(np.float32),
        action=rng.normal(size=(LENGTH, 7)).astype(np.float32),
        columns=POSE,
        action_columns=DELTA,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="timed steps of each policy (default 50)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "store"
        directory.mkdir()
        write_store(directory, {"train": map(made_up, range(EPISODES))}, source="benchmark", source_hash="benchmark")
        store = EpisodeStore.open(directory)
        started, busy = time.perf_counter(), time.process_time()
        count = len(stored_maps(store, "train", "image_primary"))
        wall, own = time.perf_counter() - started, time.process_time() - busy
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.npy")) / 1e6
        print(f"maps of {count} pictures: {wall:.0f} s ({own:.0f}), {count / wall:.0f} pictures/s, {size:.0f} MB")
        trainers, seconds = {}, dict[str, list[tuple[float, float]]]()
        for encoder in ("small", "efficientnet_lite0"):
            for frames in (1, 5):
                model, train = {"encoder": encoder, "image_history": frames}, {"precision": "float32"}
                config = SmallConfig.from_dict({"task": "disassemble", "method": "vp", "model": model, "train": train})
                trainers[f"{encoder}, {frames} frame{'s' * (frames > 1)}"] = SmallTrainer.on(config, store)
        for step in range(options.steps + 2):  # two warm up
            for name, trainer in trainers.items():
                started, busy = time.perf_counter(), time.process_time()
                trainer.step(trainer.batch(step), step)
                seconds.setdefault(name, []).append((time.perf_counter() - started, time.process_time() - busy))
    for name, spent in seconds.items():
        wall, own = (STEPS * statistics.median(values) for values in zip(*spent[2:]))
        print(f"{name}: {STEPS:,} steps {wall:.0f} s ({own:.0f})")


if __name__ == "__main__":
    main()
