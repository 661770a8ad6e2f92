"""Time from opening a store to the first batch, for stores of 1 GB and 10 GB. The ratio should be about 1.

    python benchmarks/first_step.py                 # takes no disk: the files have holes
    python benchmarks/first_step.py --gigabytes 1 100

Prints one JSON line a size, and one with the ratio of the last to the first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from gap_vla.core.columns import DELTA, POSE
from gap_vla.core.episode import Episode
from gap_vla.core.files import read_json, write_json
from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.store import EpisodeStore, write_store

SIZE, STEPS, BATCH, REPEATS = 64, 100, 64, 5
"""Pixels of a picture's side, steps of an episode, windows of a batch, and measurements of a store."""


def sparse_store(folder: Path, gigabytes: float) -> Path:
    """A store of one real episode, and as many empty ones as make the size."""
    rng = np.random.default_rng(0)
    quaternion = np.tile([1.0, 0, 0, 0], (STEPS, 1))
    proprio = np.concatenate([rng.normal(size=(STEPS, 3)), quaternion, rng.random((STEPS, 2))], 1).astype(np.float32)
    first = Episode(
        images={"image_primary": rng.integers(0, 256, (STEPS, SIZE, SIZE, 3), dtype=np.uint8)},
        proprio=proprio,
        action=rng.normal(size=(STEPS, 7)).astype(np.float32),
        rho=rng.random(STEPS).astype(np.float32),
        change_point=np.zeros(STEPS, bool),
        columns=POSE,
        action_columns=DELTA,
    )
    folder.mkdir()
    write_store(folder, {"train": [first]}, source="benchmark", source_hash=f"{gigabytes}")
    account = read_json(folder / "store.json")
    entry = account["splits"]["train"]
    entry["episodes"] = episodes = round(gigabytes * 2**30 / first.images["image_primary"].nbytes)
    entry["steps"] = episodes * STEPS
    write_json(folder / "store.json", account)
    fields = {**entry["fields"], "language": ["<i4", []]}
    for name, (dtype, shape) in fields.items():
        with open(folder / f"train.{name}.bin", "r+b") as file:
            file.truncate(entry["steps"] * int(np.prod(shape)) * np.dtype(dtype).itemsize)
    np.arange(0, int(entry["steps"]) + 1, STEPS, dtype=np.int64).tofile(folder / "train.offsets.bin")
    return folder


def seconds_to_first_batch(store: Path) -> float:
    start = time.perf_counter()
    loader = WindowLoader(
        EpisodeStore.open(store), split="train", window_size=2, action_horizon=4, batch_size=BATCH, seed=0
    )
    next(loader)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 10])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stores = [sparse_store(Path(folder) / f"{size}", size) for size in options.gigabytes]
        seconds_to_first_batch(stores[0])  # imports grain
        taken = []
        for size, store in zip(options.gigabytes, stores):
            times = [seconds_to_first_batch(store) for _ in range(REPEATS)]
            taken.append(float(np.median(times)))
            print(json.dumps({"gigabytes": size, "seconds_to_first_batch": round(taken[-1], 4)}))
        print(json.dumps({"ratio": round(taken[-1] / taken[0], 2)}))


if __name__ == "__main__":
    main()
