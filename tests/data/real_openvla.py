"""What `test_openvla.py` runs for OpenVLA and OpenVLA-OFT: their own data pipeline on a dataset of ours.

    PYTHONPATH=. UPSTREAM/bin/python tests/data/real_openvla.py CHECKOUT STEPS_AHEAD DATA_DIR NAME OUT.npz

STEPS_AHEAD is what `RLDSDataset` gives as `future_action_window_size`: 0 in OpenVLA, 7 in OpenVLA-OFT (for LIBERO).

Only `prismatic/vla/datasets/rlds` and `prismatic/vla/constants.py` of the checkout are used, unchanged; the packages
above them, which import the models, are left empty.
"""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from gap_vla.rlds.transforms import pack_rho


def import_pipeline(checkout: Path) -> None:
    for name in ("prismatic", "prismatic.vla", "prismatic.vla.datasets"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(checkout / name.replace(".", "/"))]
    overwatch: Any = types.ModuleType("prismatic.overwatch")
    overwatch.initialize_overwatch = logging.getLogger
    sys.modules["prismatic.overwatch"] = overwatch
    try:
        import tensorflow_graphics  # noqa: F401
    except ImportError:  # only DROID's transforms use it
        for name in ("tensorflow_graphics", "tensorflow_graphics.geometry"):
            sys.modules[name] = types.ModuleType(name)
        leaf: Any = types.ModuleType("tensorflow_graphics.geometry.transformation")
        sys.modules["tensorflow_graphics.geometry.transformation"] = leaf
        sys.modules["tensorflow_graphics.geometry"].transformation = leaf  # type: ignore[attr-defined]


def gap_vla_transform(trajectory: dict[str, Any]) -> dict[str, Any]:
    """The entry of `OXE_STANDARDIZATION_TRANSFORMS` that docs/UPSTREAM.md shows."""
    closes = trajectory["action"][:, -1:]  # +1 closes; theirs: 1 open, 0 closed
    opens = 1 - tf.clip_by_value(closes, 0, 1)
    trajectory["action"] = tf.concat([trajectory["action"][:, :6], opens], axis=1)
    return pack_rho(trajectory)


def main(checkout: str, steps_ahead: str, data_dir: str, name: str, out: str) -> None:
    import_pipeline(Path(checkout))
    from prismatic.vla.datasets.rlds import make_single_dataset
    from prismatic.vla.datasets.rlds.oxe import get_oxe_dataset_kwargs_and_weights
    from prismatic.vla.datasets.rlds.oxe.configs import OXE_DATASET_CONFIGS, ActionEncoding, StateEncoding
    from prismatic.vla.datasets.rlds.oxe.transforms import OXE_STANDARDIZATION_TRANSFORMS
    from prismatic.vla.datasets.rlds.utils.data_utils import NormalizationType

    OXE_DATASET_CONFIGS[name] = {
        "image_obs_keys": {"primary": "image_primary", "secondary": None, "wrist": "image_wrist"},
        "depth_obs_keys": {"primary": None, "secondary": None, "wrist": None},
        "state_obs_keys": ["proprio"],
        "state_encoding": StateEncoding.POS_QUAT,
        "action_encoding": ActionEncoding.EEF_POS,
        "aux_kwargs": {
            "absolute_action_mask": [False] * 6 + [True, True],
            "action_normalization_mask": [True] * 6 + [False, False],
        },
    }
    OXE_STANDARDIZATION_TRANSFORMS[name] = gap_vla_transform
    kwargs, _ = get_oxe_dataset_kwargs_and_weights(
        Path(data_dir),
        [(name, 1.0)],
        load_camera_views=("primary", "wrist"),
        load_depth=False,
        load_proprio=True,
        load_language=True,
        action_proprio_normalization_type=NormalizationType.BOUNDS_Q99,
    )
    dataset = make_single_dataset(
        kwargs[0],
        train=True,
        traj_transform_kwargs={
            "window_size": 1,
            "future_action_window_size": int(steps_ahead),
            "skip_unlabeled": True,
            "goal_relabeling_strategy": "uniform",
        },
        frame_transform_kwargs={"resize_size": (16, 16), "num_parallel_calls": 2},
    )
    if isinstance(dataset, tuple):
        dataset = dataset[0]
    rows: list[dict[str, Any]] = []
    for trajectory in dataset.as_numpy_iterator():
        chunk = trajectory["action"]  # [T, H, 8]
        rows.append({"action": chunk[..., :-1], "rho": chunk[:, 0, -1]})
        rows[-1]["image_primary"] = trajectory["observation"]["image_primary"][:, 0]
        rows[-1]["proprio"] = trajectory["observation"]["proprio"][:, 0]
    np.savez(out, **{key: np.concatenate([row[key] for row in rows]) for key in rows[0]})


if __name__ == "__main__":
    main(*sys.argv[1:])
