"""Speed and memory of conversion and loading. Prints one JSON line per measurement.

python benchmarks/rlds.py                      # small: under a minute on free cores
python benchmarks/rlds.py --episodes 500 --steps 150 --size 84 --workers 2     # the stated bound: 90 s
python benchmarks/rlds.py --episodes 40 --steps 150 --size 84 --upstream /path/to/venv   # beside upstream Octo

For the last one see "Measured beside upstream's pipeline" in docs/UPSTREAM.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from gap_vla.demos.fields import Fields
from gap_vla.demos.source import open_source
from gap_vla.rlds.augmentation import Augmentation
from gap_vla.rlds.convert import build_dataset
from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.store import EpisodeStore

ROOT = Path(__file__).parents[1]
AUGMENT: dict[str, Any] = {
    "crop_scale": (0.8, 1.0),
    "crop_ratio": (0.9, 1.1),
    "brightness": 0.1,
    "contrast": (0.9, 1.1),
    "saturation": (0.9, 1.1),
    "hue": 0.05,
}
"""Upstream's fine-tuning values, see `upstream_data.py`."""

BATCH, EPOCHS = 128, 10
WINDOWS: dict = {"split": "train", "window_size": 2, "action_horizon": 4, "batch_size": BATCH, "seed": 0, "rho": False}
"""The same as `upstream_data.py` reads."""


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
            quaternion = rng.normal(size=(steps, 4))
            quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["obs/robot0_eef_pos"] = np.cumsum(rng.normal(0, 0.01, (steps, 3)), 0)
            demo["obs/robot0_eef_quat"] = quaternion
            demo["obs/robot0_gripper_qpos"] = rng.uniform(0, 0.04, (steps, 2))
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


def reading(path: Path, repeats: int = 5) -> None:
    """Seconds to the first episode and to the last, ours and of TFDS alone, in turns; the medians."""
    import tensorflow_datasets as tfds

    from gap_vla.rlds.source import RLDS

    def plain() -> Iterator[object]:
        dataset = tfds.builder_from_directory(str(path)).as_dataset(split="train")
        return (tfds.as_numpy(one["steps"].batch(10**6).get_single_element()) for one in dataset)

    taken: dict[str, list[list[float]]] = {"ours": [], "tfds": []}
    for repeat in range(repeats + 1):
        for name, episodes in (("ours", lambda: RLDS(path, Fields(episodes="train"))), ("tfds", plain)):
            wall, after = time.perf_counter(), []
            for _ in episodes():
                after.append(time.perf_counter() - wall)
            if repeat:  # the first loads TensorFlow
                taken[name].append([after[0], after[-1]])
    for place, what in enumerate(("first_episode", "all_episodes")):
        ours, theirs = (float(np.median([times[place] for times in taken[name]])) for name in taken)
        report(f"read_{what}", seconds=ours, tfds_seconds=theirs, ratio=ours / theirs)


def rate(batches: object, count: int) -> dict[str, float]:
    """Windows per wall second and per CPU second, after one batch."""
    iterator = iter(batches)  # type: ignore[call-overload]
    next(iterator)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(iterator)
    windows = count * BATCH
    return {
        "windows_per_s": windows / (time.perf_counter() - wall),
        "windows_per_cpu_s": windows / (time.process_time() - cpu),
    }


def upstream(environment: Path, dataset: Path, *arguments: object) -> str:
    """What `upstream_data.py` prints last, run by the Python of upstream's environment."""
    command = [environment / "bin" / "python", "-P", ROOT / "benchmarks" / "upstream_data.py"]
    done = subprocess.run(
        [*map(str, command), str(dataset.parents[1]), dataset.parent.name, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"error: upstream's pipeline failed\n{done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def beside_upstream(environment: Path, store: EpisodeStore, dataset: Path, count: int) -> None:
    """The same windows by both: that they are equal, and how fast they come, without and with random transforms."""
    with tempfile.TemporaryDirectory() as folder:
        upstream(environment, dataset, "--dump", f"{folder}/theirs.npz")
        theirs = dict(np.load(f"{folder}/theirs.npz"))
    report("upstream_equal", windows=equal_windows(store, theirs))
    cases: dict[str, tuple[dict, tuple[str, ...]]] = {
        "plain": ({}, ()),
        "augmentation": ({"augment": {"image_primary": Augmentation(**AUGMENT)}}, ("--augment",)),
    }
    for name, (ours, flags) in cases.items():
        there = json.loads(upstream(environment, dataset, "--batches", count, *flags))
        loader = WindowLoader(store, **WINDOWS, **ours, threads=4)  # upstream takes as many as it likes
        here = rate(loader, max(2 * count, 40))
        ratio = {f"times_{key}": here[key] / there[key] for key in here}
        upstreams = {f"upstream_{key}": value for key, value in there.items() if key != "tensorflow"}
        report(f"upstream_{name}", **upstreams, **here, **ratio)


def equal_windows(store: EpisodeStore, theirs: dict[str, np.ndarray]) -> float:
    """The number of windows, all of which upstream gives as well: pictures and masks exactly, numbers to 1e-5."""
    loader = WindowLoader(store, **{**WINDOWS, "train": False, "upstream_action_mask": True})
    observed = ("image_primary", "proprio", "timestep", "timestep_pad_mask")
    acted = ("action", "action_pad_mask")
    batches = [{**{k: b["observation"][k] for k in observed}, **{k: b[k] for k in acted}} for b in loader]
    ours = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    orders = []
    for some in (ours, theirs):
        keys = [picture.tobytes() + step.tobytes() for picture, step in zip(some["image_primary"], some["timestep"])]
        orders.append(sorted(range(len(keys)), key=keys.__getitem__))
    if len(orders[0]) != len(orders[1]):
        raise SystemExit(f"error: {len(orders[0])} windows here, {len(orders[1])} from upstream")
    for key, value in ours.items():
        mine, other = value[orders[0]], theirs[key][orders[1]]
        if not (np.allclose(mine, other, atol=1e-5) if mine.dtype.kind == "f" else np.array_equal(mine, other)):
            raise SystemExit(f"error: {key} differs from upstream's")
    return len(orders[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--upstream", type=Path, help="environment with upstream's octo and dlimp, to measure beside")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = open_source(write_demos(home / "demos.hdf5", options.episodes, options.steps, options.size))
        wall, cpu = time.perf_counter(), cpu_seconds()
        path = build_dataset(source, home, "bench", method="none", workers=options.workers)
        spent = time.perf_counter() - wall
        frames = options.episodes * options.steps
        report("convert", seconds=spent, cpu_seconds=cpu_seconds() - cpu, frames_per_s=frames / spent)
        reading(path)
        wall, cpu = time.perf_counter(), cpu_seconds()
        store = EpisodeStore.build(path)
        report("store", seconds=time.perf_counter() - wall, cpu_seconds=cpu_seconds() - cpu)
        wall = time.perf_counter()
        loader = WindowLoader(EpisodeStore.open(store.directory), **WINDOWS)
        next(loader)
        report("first_batch", seconds=time.perf_counter() - wall)
        per_epoch = store.split("train").steps // BATCH
        report("loader", **rate(loader, max(per_epoch, 50)))
        memory = []
        for _ in range(EPOCHS):
            for _ in range(per_epoch):
                next(loader)
            memory.append(anonymous_megabytes())
        report("loader_memory_mb", first_epoch=memory[0], last_epoch=memory[-1], growth=memory[-1] - memory[0])
        if options.upstream:
            beside_upstream(options.upstream, store, path, max(per_epoch, 20))


if __name__ == "__main__":
    main()
