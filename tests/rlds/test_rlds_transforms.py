"""Trajectory transforms agree with upstream's and with the loader, torch with both; ρ stays with its step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from synthetic_demos import same

from gap_vla.rlds import EpisodeStore, WindowDataset, WindowLoader, torch_batches
from gap_vla.rlds import transforms as tr

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "rlds" / "octo_transforms.npz")


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


def test_empty_texts_and_pictures_are_marked_as_upstream_does() -> None:
    given = trajectory()
    given["observation"]["image_primary"] = tf.constant([b"png", b"png", b"", b"png", b"png", b"png"])
    given["task"]["language_instruction"] = tf.constant(["go", "go", "go", "", "", ""])
    found = tr.add_pad_mask_dict(given)
    for part in ("observation", "task"):
        for key, mask in found[part]["pad_mask_dict"].items():
            np.testing.assert_array_equal(mask, GOLDEN[f"add_pad_mask_dict/{part}/{key}"])


def test_padding_of_widths_is_upstreams() -> None:
    found = tr.pad_actions_and_proprio(trajectory(), 5, 4)
    np.testing.assert_array_equal(found["action"], GOLDEN["pad_dims/action"])
    np.testing.assert_array_equal(found["action_pad_mask"], GOLDEN["pad_dims/action_pad_mask"])
    np.testing.assert_array_equal(found["observation"]["proprio"], GOLDEN["pad_dims/proprio"])
    with pytest.raises(ValueError, match="action is 3 wide, more than the 2"):
        tr.pad_actions_and_proprio(trajectory(), 2)


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


def test_goals_lie_ahead_and_bring_their_whole_observation() -> None:
    found = tr.relabel_goals(tr.add_pad_mask_dict(trajectory()), seed=[1, 2], max_goal_distance=3)
    goal = found["task"]["timestep"].numpy()
    assert (goal >= np.arange(6)).all() and (goal <= np.minimum(np.arange(6) + 3, 5)).all()
    np.testing.assert_array_equal(found["task"]["proprio"], GOLDEN["in/proprio"][goal])
    assert set(found["task"]["pad_mask_dict"]) == {"language_instruction", "proprio", "timestep", "image_primary"}


def test_rho_follows_its_step_through_every_transform() -> None:
    given = tr.add_pad_mask_dict(trajectory())
    given["rho"] = tf.cast(given["observation"]["timestep"], tf.float32)
    found = tr.subsample(tr.chunk(tr.relabel_goals(given, seed=[0, 1]), 3, 2), 4, seed=[3, 4])
    assert found["rho"].shape == (4, 3)
    np.testing.assert_array_equal(found["rho"], found["observation"]["timestep"])


OPTIONS: dict[str, Any] = {"split": "train", "window_size": 2, "action_horizon": 3, "batch_size": 16, "seed": 0}


def test_torch_gets_the_same_windows(store: EpisodeStore) -> None:
    options = {k: OPTIONS[k] for k in ("split", "window_size", "action_horizon")}
    dataset = WindowDataset(store, **options)
    loader = torch.utils.data.DataLoader(dataset, 16, collate_fn=WindowDataset.collate)
    batch, expected = next(iter(loader)), next(WindowLoader(store, **OPTIONS, train=False))
    assert isinstance(batch["action"], torch.Tensor) and batch["action"].dtype == torch.float32
    np.testing.assert_array_equal(batch["observation"]["image_primary"], expected["observation"]["image_primary"])
    np.testing.assert_array_equal(batch["rho"], expected["rho"])
    assert batch["task"]["language_instruction"] == list(expected["task"]["language_instruction"])
    np.testing.assert_array_equal(dataset[5]["action"], expected["action"][5])
    first = next(torch_batches(WindowLoader(store, **OPTIONS)))
    np.testing.assert_array_equal(first["rho"], next(WindowLoader(store, **OPTIONS))["rho"])


def test_goal_relabelling_in_the_loader_is_seeded_and_ahead(store: EpisodeStore) -> None:
    options = {**OPTIONS, "goal": "uniform", "max_goal_distance": 5}
    loader, again = WindowLoader(store, **options), WindowLoader(store, **options)
    batch = next(loader)
    ahead = batch["task"]["timestep"] - batch["observation"]["timestep"][:, -1]
    assert (ahead >= 0).all() and (ahead <= 5).all() and ahead.max() > 0
    assert batch["task"]["image_primary"].shape == (16, 16, 16, 3)
    assert batch["task"]["pad_mask_dict"]["image_primary"].all()
    same(batch, next(again))
    at = batch["observation"]["timestep"][:, -1, None] + np.arange(3)
    np.testing.assert_array_equal(batch["action_pad_mask"][:, -1, :, 0], at <= batch["task"]["timestep"][:, None])
    state = loader.state()
    expected = next(loader)
    again.restore(state)
    same(next(again), expected)


def test_augmentation_changes_real_frames_only_and_alike_within_a_window(store: EpisodeStore) -> None:
    augment = {"image_primary": {"brightness": 0.2}}
    plain, changed = next(WindowLoader(store, **OPTIONS)), next(WindowLoader(store, **OPTIONS, augment=augment))
    before, after = (b["observation"]["image_primary"].astype(float) for b in (plain, changed))
    real = plain["observation"]["timestep_pad_mask"]
    assert (before != after)[real].any()
    np.testing.assert_array_equal(before[~real], after[~real])
    middle = (before > 60) & (before < 195)
    shift = np.where(middle, after - before, np.nan)
    both = real.all(1)
    np.testing.assert_allclose(
        np.nanmean(shift[both, 0], axis=(1, 2, 3)), np.nanmean(shift[both, 1], axis=(1, 2, 3)), atol=1
    )
    crop = {"image_primary": {"crop_scale": (0.5, 0.9)}}
    cropped = next(WindowLoader(store, **OPTIONS, augment=crop))["observation"]["image_primary"]
    assert cropped.shape == before.shape and (cropped != before).any()
    with pytest.raises(ValueError, match="augment names image_third"):
        WindowLoader(store, **OPTIONS, augment={"image_third": {}})


def test_several_datasets_are_mixed_by_weight(store: EpisodeStore) -> None:
    loader = WindowLoader([(store, 0.75), (store, 0.25)], **{**OPTIONS, "batch_size": 200})
    batch = next(loader)
    assert batch["action"].shape == (200, 2, 3, 7) and len(batch["task"]["language_instruction"]) == 200
    addresses = np.array([[1, 0, 3], [0, 0, 5], [1, 0, 0]])
    mixed, single = loader.windows.gather(addresses), loader.windows._parts[0].gather(np.array([3, 5, 0]))
    same(mixed, single)
    ordered = WindowLoader([(store, 1.0), (store, 1.0)], **{**OPTIONS, "train": False})
    assert sum(len(b["rho"]) for b in ordered) == 2 * store.split("train").steps
