"""What `test_rlds_real_upstream.py` runs in upstream's environment: real `octo.data`; arrays come back.

PYTHONPATH=. UPSTREAM/bin/python tests/data/real_upstream.py DATA_DIR NAME OUT.npz
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from octo.data.dataset import apply_frame_transforms, apply_trajectory_transforms, make_dataset_from_rlds
from octo.utils.spec import ModuleSpec

from gap_vla.rlds.transforms import mask_with_rho

WINDOW, HORIZON = 2, 4


def rho_through_upstream(data_dir: str, name: str, kind: str) -> dict[str, np.ndarray]:
    """Upstream's own pipeline, as its `make_single_dataset` puts it together, with our two functions in it."""
    dataset, _ = make_dataset_from_rlds(
        name,
        data_dir,
        train=True,
        shuffle=False,
        standardize_fn=ModuleSpec.create("gap_vla.rlds.transforms:pack_rho"),
        image_obs_keys={"primary": "image_primary", "wrist": None},
        proprio_obs_key="proprio",
        language_key="language_instruction",
        action_proprio_normalization_type=kind,
        action_normalization_mask=mask_with_rho([True] * 6 + [False]),
    )
    dataset = apply_trajectory_transforms(
        dataset,
        train=True,
        window_size=WINDOW,
        action_horizon=HORIZON,
        goal_relabeling_strategy="uniform",
        task_augment_strategy="delete_task_conditioning",
        task_augment_kwargs={"keep_image_prob": 0.5},
        post_chunk_transforms=[ModuleSpec.create("gap_vla.rlds.transforms:unpack_rho")],
    )
    dataset = apply_frame_transforms(dataset, train=False, resize_size={"primary": (16, 16), "wrist": (8, 8)})
    return gathered(dataset.unbatch().as_numpy_iterator())


def gathered(rows: object) -> dict[str, np.ndarray]:
    found = []
    for row in rows:  # type: ignore[attr-defined]
        observation = {k: row["observation"][k] for k in ("image_primary", "proprio", "timestep", "timestep_pad_mask")}
        found.append({**observation, **{k: row[k] for k in ("action", "rho", "change_point") if k in row}})
    return {key: np.stack([row[key] for row in found]) for key in found[0]}


def main(data_dir: str, name: str, out: str) -> None:
    results = {kind: rho_through_upstream(data_dir, name, kind) for kind in ("normal", "bounds")}
    np.savez(out, **{f"{part}/{key}": value for part, arrays in results.items() for key, value in arrays.items()})
    print(json.dumps({"tensorflow": tf.__version__, "tensorflow_datasets": tfds.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
