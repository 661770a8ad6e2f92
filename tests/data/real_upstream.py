"""What `test_rlds_real_upstream.py` runs in upstream's environment: real `dlimp`, real `octo.data`; arrays come back.

PYTHONPATH=. UPSTREAM/bin/python tests/data/real_upstream.py DATA_DIR NAME OUT.npz
"""

from __future__ import annotations

import json
import sys
from functools import partial

import dlimp as dl
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from octo.data.dataset import apply_frame_transforms, apply_trajectory_transforms, make_dataset_from_rlds
from octo.utils.spec import ModuleSpec

from gap_vla.rlds import transforms as tr
from gap_vla.rlds.statistics import load_statistics
from gap_vla.rlds.transforms import mask_with_rho

WINDOW, HORIZON = 2, 4


def our_transforms_in_dlimp(builder: tfds.core.DatasetBuilder) -> dict[str, np.ndarray]:
    """A `DLataset` of our trajectory transforms, frames decoded by dlimp's `frame_map`."""
    from pathlib import Path

    statistics = load_statistics(Path(builder.data_dir) / "dataset_statistics.json")
    dataset = dl.DLataset.from_rlds(builder, split="train", shuffle=False)
    dataset = dataset.traj_map(partial(tr.restructure, image_keys={"image_primary": "image_primary"}, name="toy"))
    dataset = dataset.traj_map(partial(tr.normalize_trajectory, statistics=statistics))
    dataset = dataset.traj_map(tr.add_pad_mask_dict)
    dataset = dataset.traj_map(tr.relabel_goals)
    dataset = dataset.traj_map(partial(tr.chunk, window_size=WINDOW, action_horizon=HORIZON))
    assert isinstance(dataset, dl.DLataset)
    frames = dataset.flatten().frame_map(decode)
    return gathered(frames.as_numpy_iterator())


def decode(frame: dict) -> dict:
    picture = partial(tf.io.decode_image, channels=3, expand_animations=False)
    frames = tf.map_fn(picture, frame["observation"]["image_primary"], fn_output_signature=tf.uint8)
    return {**frame, "observation": {**frame["observation"], "image_primary": frames}}


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
    builder = tfds.builder(name, data_dir=data_dir)
    results = {"dlimp": our_transforms_in_dlimp(builder)}
    results |= {kind: rho_through_upstream(data_dir, name, kind) for kind in ("normal", "bounds")}
    np.savez(out, **{f"{part}/{key}": value for part, arrays in results.items() for key, value in arrays.items()})
    print(json.dumps({"tensorflow": tf.__version__, "tensorflow_datasets": tfds.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
