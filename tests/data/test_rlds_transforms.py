"""ρ arrives through upstream's pipeline, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from gap_vla.rlds import transforms as tr
from gap_vla.rlds.loader import WindowLoader, window_indices
from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import EpisodeStore


def upstreams_contract(trajectory: dict[str, Any]) -> dict[str, Any]:
    """What upstream keeps of a standardised trajectory: pictures, proprio, timestep, text, action. Nothing else."""
    steps = tf.shape(trajectory["action"])[0]
    return {
        "observation": {
            "image_primary": trajectory["observation"]["image_primary"],
            "proprio": tf.cast(trajectory["observation"]["proprio"], tf.float32),
            "timestep": tf.range(steps),
        },
        "task": {"language_instruction": trajectory["language_instruction"]},
        "action": tf.cast(trajectory["action"], tf.float32),
        "dataset_name": tf.repeat("toy", steps),
    }


@pytest.mark.parametrize("kind", ["normal", "bounds"])
def test_rho_arrives_exactly_and_actions_are_unchanged(version_dir: Path, store: EpisodeStore, kind: str) -> None:
    # tfds.builder(name, data_dir=…) is what upstream calls
    builder = tfds.builder("toy", data_dir=str(version_dir.parents[1]))
    assert {"train", "val"} <= set(builder.info.splits)
    config = tfds.ReadConfig(interleave_cycle_length=1)
    statistics = {k: dict(v) for k, v in store.statistics.items() if isinstance(v, dict)}
    for key, value in statistics["action"].items():
        statistics["action"][key] = np.append(value, False if key == "mask" else 0.37)
    assert list(statistics["action"]["mask"]) == tr.mask_with_rho(store.statistics["action"]["mask"])
    found = []
    for episode in builder.as_dataset(split="train", read_config=config):
        steps = episode["steps"].batch(1000).get_single_element()
        trajectory = upstreams_contract(tr.pack_rho(dict(steps)))
        assert "rho" not in trajectory
        action = normalize(trajectory["action"].numpy(), statistics["action"], kind)
        length = np.full(len(action), len(action))
        index = window_indices(np.arange(len(action)), length, 2, 3, upstream_action_mask=True)
        mask = np.repeat(index.action_pad_mask[..., None], action.shape[1], axis=-1)
        found.append(tr.unpack_rho({"action": tf.constant(action[index.action]), "action_pad_mask": mask}))
    loader = WindowLoader(
        store,
        split="train",
        window_size=2,
        action_horizon=3,
        batch_size=10_000,
        seed=0,
        train=False,
        normalization=kind,
        upstream_action_mask=True,
    )
    expected = next(loader)
    np.testing.assert_array_equal(np.concatenate([t["rho"] for t in found]), expected["rho"])
    np.testing.assert_allclose(np.concatenate([t["action"] for t in found]), expected["action"], atol=1e-6)
    masks = np.concatenate([t["action_pad_mask"] for t in found])
    np.testing.assert_array_equal(masks, expected["action_pad_mask"])
    assert tr.without_rho(statistics)["action"]["mean"].shape == (7,)
