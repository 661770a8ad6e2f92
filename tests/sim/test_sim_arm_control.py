"""The compiled controller against robosuite's own."""

from __future__ import annotations

import numpy as np


def test_the_compiled_controller_moves_the_arm_as_robosuites_does(threading_env):
    world = threading_env.world
    rng = np.random.default_rng(0)
    actions = np.clip(np.cumsum(rng.normal(size=(30, 7)) * 0.3, axis=0), -1, 1)
    tracks = []
    for step in (world.step, world.env.step):
        threading_env.reset(seed=21)
        states = []
        for action in actions:
            step(action)
            states.append(world.data.qpos[world._robots[0]._ref_joint_pos_indexes].copy())
        tracks.append(np.array(states))
    np.testing.assert_allclose(tracks[0], tracks[1], atol=1e-5)  # rad
    assert np.ptp(tracks[0], axis=0).max() > 0.1
