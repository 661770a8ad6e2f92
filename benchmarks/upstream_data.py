"""Upstream Octo's data pipeline on one of our datasets; `benchmarks/rlds.py --upstream` runs it in its environment.

    PYTHONPATH=. UPSTREAM/bin/python -P benchmarks/upstream_data.py data/rlds bench --batches 100

(`-P`: this folder's `octo.py` must not be taken for upstream's package.)

It imports upstream's `octo.data` and `dlimp` as they are, builds the pipeline as upstream's `scripts/finetune.py` does,
and prints one JSON line. `--dump FILE` writes one ordered pass instead, for comparison with our reader's windows.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import dlimp as dl
import numpy as np
import tensorflow as tf
from octo.data.dataset import apply_frame_transforms, apply_trajectory_transforms, make_dataset_from_rlds
from octo.data.utils.data_utils import NormalizationType

AUGMENT = {
    "random_resized_crop": {"scale": [0.8, 1.0], "ratio": [0.9, 1.1]},
    "random_brightness": [0.1],
    "random_contrast": [0.9, 1.1],
    "random_saturation": [0.9, 1.1],
    "random_hue": [0.05],
    "augment_order": [
        "random_resized_crop",
        "random_brightness",
        "random_contrast",
        "random_saturation",
        "random_hue",
    ],
}
"""The third-person camera's in upstream's `scripts/configs/finetune_config.py`."""

WINDOW_SIZE, ACTION_HORIZON, BATCH = 2, 4, 128  # as in rlds.py
SHUFFLE = 2_000  # windows in upstream's shuffle buffer


def frames(options: argparse.Namespace, train: bool) -> tuple[dl.DLataset, dict]:
    """Windows, one element each, as upstream's `make_single_dataset(...)` gives them after `unbatch`."""
    dataset, statistics = make_dataset_from_rlds(
        options.name,
        options.data_dir,
        train=True,  # the split of that name
        shuffle=train,
        image_obs_keys={"primary": "image_primary"},
        proprio_obs_key="proprio",
        language_key="language_instruction",
        action_proprio_normalization_type=NormalizationType.NORMAL,
        action_normalization_mask=[True] * 6 + [False],
        num_parallel_reads=1,
    )
    dataset = apply_trajectory_transforms(
        dataset,
        train=train,
        window_size=WINDOW_SIZE,
        action_horizon=ACTION_HORIZON,
        goal_relabeling_strategy=None,
    )
    dataset = apply_frame_transforms(
        dataset, train=train, image_augment_kwargs={"primary": AUGMENT} if options.augment else {}
    )
    return dataset.with_ram_budget(1), statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("name")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--dump")
    options = parser.parse_args()
    if options.dump:
        dataset, _ = frames(options, train=False)
        rows = list(dataset.unbatch().as_numpy_iterator())
        keys = ("image_primary", "proprio", "timestep", "timestep_pad_mask")
        arrays: dict[str, Any] = {key: np.stack([row["observation"][key] for row in rows]) for key in keys}
        arrays |= {key: np.stack([row[key] for row in rows]) for key in ("action", "action_pad_mask")}
        np.savez(options.dump, **arrays)
        return
    dataset, _ = frames(options, train=True)
    started = time.perf_counter()
    batches = dataset.repeat().unbatch().shuffle(SHUFFLE).batch(BATCH).as_numpy_iterator()
    next(batches)
    first = time.perf_counter() - started
    for _ in range(5):  # what the buffers hold already is not the pipeline's speed
        next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(options.batches):
        next(batches)
    windows = options.batches * BATCH
    measured = {
        "first_batch_s": first,
        "windows_per_s": windows / (time.perf_counter() - wall),
        "windows_per_cpu_s": windows / (time.process_time() - cpu),
    }
    print(json.dumps({k: round(v, 3) for k, v in measured.items()} | {"tensorflow": tf.__version__}), flush=True)


if __name__ == "__main__":
    main()
