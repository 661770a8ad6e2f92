"""Trajectory transforms agree with upstream's; ρ stays with its step, and arrives through upstream's pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from gap_vla.core.errors import ConfigError, UserError
from gap_vla.rlds import transforms as tr
from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import EpisodeStore
from gap_vla.rlds.loader import WindowLoader, window_indices

GOLDEN = np.load(Path(__file__).parent / "rlds" / "octo_transforms.npz")


def trajectory() -> dict[str, Any]:
    steps = len(GOLDEN["in/action"])
    return {
        "observation": {
            "proprio": tf.constant(GOLDEN["in/proprio"]),
            "timestep": tf.range(steps),
            "image_primary": tf.constant(GOLDEN["chunk_w1_h1_nogoal/observation/image_primary"][:, 0]),
        },
        "task": {"language_instruction": tf.repeat("", steps)},
        "action": tf.constant(GOLDEN["in/action"]),
        "rho": tf.linspace(0.0, 1.0, steps),
    }


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": np.asarray(value)}
    return out


@pytest.mark.parametrize(("w", "h"), [(1, 1), (1, 4), (2, 4), (3, 2)])
def test_chunking_is_upstreams_in_every_field(w: int, h: int) -> None:
    prefix = f"chunk_w{w}_h{h}_nogoal/"
    found = flat(tr.chunk(tr.add_pad_mask_dict(trajectory()), w, h, upstream_action_mask=True))
    golden = [key for key in GOLDEN.files if key.startswith(prefix)]
    assert golden
    for key in golden:
        np.testing.assert_array_equal(found[key.removeprefix(prefix)], GOLDEN[key], err_msg=key)
    np.testing.assert_array_equal(found["rho"], np.asarray(trajectory()["rho"])[found["observation/timestep"]])


@pytest.mark.parametrize(("w", "h"), [(1, 1), (2, 4), (3, 2)])
def test_chunking_with_goals_is_upstreams(w: int, h: int) -> None:
    given = trajectory()
    given["task"]["timestep"] = tf.constant(GOLDEN["chunk_goal_timestep"], tf.int32)
    found = tr.chunk(given, w, h, upstream_action_mask=True)
    np.testing.assert_array_equal(found["action_pad_mask"], GOLDEN[f"chunk_w{w}_h{h}_goal/action_pad_mask"])
    np.testing.assert_array_equal(
        found["observation"]["task_completed"], GOLDEN[f"chunk_w{w}_h{h}_goal/task_completed"]
    )


def test_the_mask_of_chunks_says_of_each_of_their_actions_whether_it_counts() -> None:
    width = GOLDEN["in/action"].shape[1]
    recorded = np.ones((6, 4, width), bool)
    recorded[4:, 1:], recorded[0, 2, 0] = False, False
    given = {**trajectory(), "action": tf.ones((6, 4, width)), "action_pad_mask": tf.constant(recorded)}
    found = tr.chunk(given, 1, 3)["action_pad_mask"].numpy()[:, 0]
    np.testing.assert_array_equal(found[:4], recorded[:4, :3])
    assert not found[4:, 1:].any() and found[4:, 0].all()
    earlier, now = np.moveaxis(tr.chunk(given, 2, 2)["action_pad_mask"].numpy(), 1, 0)
    np.testing.assert_array_equal(earlier[1:], now[:-1])


def test_a_mask_of_steps_goes_with_their_actions_in_every_chunk() -> None:
    counts = np.ones(GOLDEN["in/action"].shape, bool)
    counts[3] = False
    found = tr.chunk({**trajectory(), "action_pad_mask": tf.constant(counts)}, 2, 3)
    steps = found["observation"]["timestep"].numpy()[..., None] + np.arange(3)
    np.testing.assert_array_equal(found["action_pad_mask"].numpy()[..., 0], (steps <= 5) & (steps != 3))
    masked = tr.chunk({**trajectory(), "action_pad_mask": tf.constant(counts)}, 2, 3, upstream_action_mask=True)
    assert not masked["action_pad_mask"][3].numpy().any() and masked["action_pad_mask"][2].numpy().all()


def test_empty_texts_and_pictures_are_marked_as_upstream_does() -> None:
    given = trajectory()
    given["observation"]["image_primary"] = tf.constant([b"png", b"png", b"", b"png", b"png", b"png"])
    given["task"]["language_instruction"] = tf.constant(["go", "go", "go", "", "", ""])
    found = tr.add_pad_mask_dict(given)
    for part in ("observation", "task"):
        for key, mask in found[part]["pad_mask_dict"].items():
            np.testing.assert_array_equal(mask, GOLDEN[f"add_pad_mask_dict/{part}/{key}"])


@pytest.mark.parametrize("kind", ["normal", "bounds"])
def test_normalisation_of_trajectories_is_upstreams(kind: str) -> None:
    statistics: dict[str, dict[str, np.ndarray]] = {"action": {}, "proprio": {}}
    for key in GOLDEN.files:
        if key.startswith("normalize/stats/"):
            field, name = key.split("/")[2:]
            statistics[field][name] = GOLDEN[key]
    found = tr.normalize_trajectory(trajectory(), statistics, kind)
    np.testing.assert_allclose(found["action"], GOLDEN[f"normalize/{kind}/action"], atol=1e-6)
    np.testing.assert_allclose(found["observation"]["proprio"], GOLDEN[f"normalize/{kind}/proprio"], atol=1e-6)


def test_statistics_of_another_width_and_short_chunks_are_refused() -> None:
    narrow = {"mean": np.zeros(1), "std": np.ones(1)}
    with pytest.raises(UserError, match="1 wide"):
        tr.normalize_trajectory(trajectory(), {"action": narrow, "proprio": narrow})
    with pytest.raises(ConfigError, match="action_horizon"):
        tr.chunk({**trajectory(), "action": tf.ones((6, 1, 7))}, 2, 4)


def test_goals_lie_ahead_and_bring_their_whole_observation() -> None:
    found = tr.relabel_goals(tr.add_pad_mask_dict(trajectory()), seed=[1, 2], max_goal_distance=3)
    goal = found["task"]["timestep"].numpy()
    assert (goal >= np.arange(6)).all() and (goal <= np.minimum(np.arange(6) + 3, 5)).all()
    np.testing.assert_array_equal(found["task"]["proprio"], GOLDEN["in/proprio"][goal])
    assert set(found["task"]["pad_mask_dict"]) == {"language_instruction", "proprio", "timestep", "image_primary"}


def test_rho_follows_its_step_through_every_transform() -> None:
    given = tr.add_pad_mask_dict(trajectory())
    given["rho"] = tf.cast(given["observation"]["timestep"], tf.float32)
    found = tr.chunk(tr.relabel_goals(given, seed=[0, 1]), 3, 2)
    assert found["rho"].shape[1:] == (3,)
    np.testing.assert_array_equal(found["rho"], found["observation"]["timestep"])


# ---- through upstream's pipeline


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


def test_packing_without_rho_and_unpacking_before_the_chunks_is_refused() -> None:
    with pytest.raises(ConfigError, match="steps/rho"):
        tr.pack_rho({"action": tf.zeros((3, 7))})
    with pytest.raises(ConfigError, match="chunking"):
        tr.unpack_rho({"action": tf.zeros([5, 8])})
