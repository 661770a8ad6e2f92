"""Speed and memory of conversion and loading. Prints one JSON line per measurement.

python benchmarks/rlds.py                      # small: under a minute on free cores
python benchmarks/rlds.py --episodes 500 --steps 150 --size 84 --workers 2     # the stated bound: 90 s
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from gap_vla.demos import open_source
from gap_vla.rlds import EpisodeStore, StreamingLoader, WindowLoader, build_dataset


def scene(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """Smooth pictures with a little noise: rendered scenes compress about as well, white noise would not."""
    base = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size)))
    shifts = rng.integers(0, 6, steps)
    noise = rng.integers(0, 6, (steps, size, size, 1), dtype=np.uint8)
    return np.stack([np.roll(base, s, axis=1) for s in shifts]) // 2 + noise


def write_demos(path: Path, episodes: int, steps: int, size: int) -> Path:
    """A robomimic-layout file."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i in range(episodes):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["language_instruction"] = "benchmark"
            quaternion = np.tile([0, 0, 0, 1.0], (steps, 1))
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["obs/robot0_eef_pos"] = np.cumsum(rng.normal(0, 0.01, (steps, 3)), 0)
            demo["obs/robot0_eef_quat"] = quaternion
            demo["obs/robot0_gripper_qpos"] = np.zeros((steps, 2))
            demo["obs/agentview_image"] = scene(rng, steps, size)
    return path


def anonymous_megabytes() -> float:
    """Resident memory that is not a mapped file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_seconds() -> float:
    """Of this process and its finished children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def report(name: str, **values: float) -> None:
    print(json.dumps({"measurement": name, **{k: round(v, 3) for k, v in values.items()}}), flush=True)


def rate(batches: object, batch_size: int, count: int) -> dict[str, float]:
    """Windows per wall second and per CPU second, after one batch."""
    iterator = iter(batches)  # type: ignore[call-overload]
    next(iterator)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(iterator)
    windows = count * batch_size
    return {
        "windows_per_s": windows / (time.perf_counter() - wall),
        "windows_per_cpu_s": windows / (time.process_time() - cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--window-size", type=int, default=2)
    parser.add_argument("--action-horizon", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = open_source(write_demos(home / "demos.hdf5", options.episodes, options.steps, options.size))
        wall, cpu = time.perf_counter(), cpu_seconds()
        path = build_dataset(source, home, "bench", method="none", workers=options.workers)
        spent = time.perf_counter() - wall
        frames = options.episodes * options.steps
        report("convert", seconds=spent, cpu_seconds=cpu_seconds() - cpu, frames_per_s=frames / spent)
        wall, cpu = time.perf_counter(), cpu_seconds()
        store = EpisodeStore.build(path)
        report("store", seconds=time.perf_counter() - wall, cpu_seconds=cpu_seconds() - cpu)
        windows = {
            "split": "train",
            "window_size": options.window_size,
            "action_horizon": options.action_horizon,
            "batch_size": options.batch_size,
            "seed": 0,
            "rho": "none",
        }
        wall = time.perf_counter()
        loader = WindowLoader(EpisodeStore.open(store.directory), **windows)
        next(loader)
        report("first_batch", seconds=time.perf_counter() - wall)
        per_epoch = loader.windows_per_epoch // options.batch_size
        report("loader", **rate(loader, options.batch_size, max(per_epoch, 50)))
        memory = []
        for _ in range(options.epochs):
            for _ in range(per_epoch):
                next(loader)
            memory.append(anonymous_megabytes())
        report("loader_memory_mb", first_epoch=memory[0], last_epoch=memory[-1], growth=memory[-1] - memory[0])
        stream = StreamingLoader(path, **windows)
        report("streaming", **rate(stream, options.batch_size, max(per_epoch // 2, 10)))


if __name__ == "__main__":
    main()
