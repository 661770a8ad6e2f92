"""Windows, chunks, masks and normalisation of the data are upstream's (golden files; no TensorFlow needed)."""

from __future__ import annotations

import numpy as np
import octo_golden as golden
import pytest

from gap_vla.rlds import normalize
from gap_vla.rlds.windows import window_indices

DATA = golden.arrays(golden.DATA / "data_transforms.npz")
SHAPES = [(1, 1), (1, 4), (2, 4), (3, 2)]


@pytest.mark.parametrize("window, horizon", SHAPES)
def test_windows_and_chunks_are_upstreams(window: int, horizon: int) -> None:
    expected = f"chunk_w{window}_h{horizon}_nogoal"
    proprio, action = DATA["in/proprio"], DATA["in/action"]
    steps, length = np.arange(len(action)), np.full(len(action), len(action))
    indices = window_indices(steps, length, window, horizon, upstream_action_mask=True)
    np.testing.assert_array_equal(proprio[indices.observation], DATA[f"{expected}/observation/proprio"])
    np.testing.assert_array_equal(indices.timestep_pad_mask, DATA[f"{expected}/observation/timestep_pad_mask"])
    np.testing.assert_array_equal(action[indices.action], DATA[f"{expected}/action"])
    mask = np.broadcast_to(indices.action_pad_mask[..., None], DATA[f"{expected}/action_pad_mask"].shape)
    np.testing.assert_array_equal(mask, DATA[f"{expected}/action_pad_mask"])
    np.testing.assert_array_equal(~indices.action_pad_mask, DATA[f"{expected}/observation/task_completed"])


@pytest.mark.parametrize("window, horizon", SHAPES)
def test_actions_beyond_a_goal_are_masked_as_late_as_upstream(window: int, horizon: int) -> None:
    goal = DATA["chunk_goal_timestep"]
    steps, length = np.arange(len(goal)), np.full(len(goal), len(goal))
    late = window_indices(steps, length, window, horizon, goal=goal, upstream_action_mask=True)
    np.testing.assert_array_equal(~late.action_pad_mask, DATA[f"chunk_w{window}_h{horizon}_goal/task_completed"])
    right = window_indices(steps, length, window, horizon, goal=goal)
    assert not np.any(right.action_pad_mask & ~late.action_pad_mask)


@pytest.mark.parametrize("kind", ["normal", "bounds"])
@pytest.mark.parametrize("part", ["action", "proprio"])
def test_normalisation_is_upstreams(kind: str, part: str) -> None:
    prefix = f"normalize/stats/{part}/"
    statistics = {key.removeprefix(prefix): value for key, value in DATA.items() if key.startswith(prefix)}
    found = normalize(DATA[f"in/{part}"], statistics, kind)
    np.testing.assert_allclose(found, DATA[f"normalize/{kind}/{part}"], rtol=1e-5, atol=1e-6)
