"""Trajectory transforms agree with upstream's; ρ stays with its step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from gap_vla.core.errors import UserError
from gap_vla.rlds import transforms as tr

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


@pytest.mark.parametrize(
    "asked",
    [
        lambda given: tr.normalize_trajectory(given, {"action": {"mean": np.zeros(99), "std": np.ones(99)}}),
        lambda given: tr.chunk({**given, "action": tf.ones((6, 2, 7))}, 2, 4),
    ],
)
def test_what_no_trajectory_can_be_made_of_is_refused(asked: Any) -> None:
    given = trajectory()
    del given["observation"]["proprio"]
    with pytest.raises(UserError):
        asked(given)


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
