"""Patterns of table tops: different, tileable, the same everywhere, and really in the picture."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import gap_vla.sim as sim
from gap_vla.sim.appearance import COUNT, pattern


def test_patterns_differ_and_are_not_plain():
    patterns = [pattern(i) for i in range(COUNT)]
    assert len({hashlib.sha256(p.tobytes()).hexdigest() for p in patterns}) == COUNT
    assert all(p.std((0, 1)).max() > 5 for p in patterns)
    np.testing.assert_array_equal(pattern(3), patterns[3])


@pytest.mark.parametrize("index", range(COUNT))
def test_a_pattern_continues_over_its_edges(index):
    """The step over the edge is no larger than the largest step inside."""
    values = pattern(index).astype(int)
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).max()
        edge = np.abs(np.take(values, 0, axis) - np.take(values, -1, axis)).max()
        assert edge <= steps


@pytest.mark.parametrize("task", ["bin_picking", pytest.param("stack", marks=pytest.mark.slow)])
def test_the_table_has_another_texture_in_every_episode(task):
    env = sim.make(task, image_size=64, variant="table_texture")
    world, pictures = env.world, []
    for seed in env.variant.seeds(4):
        pictures.append(env.reset(seed=seed)[0]["image_primary"])
        table = np.isin(env.renderer.segment(world.data, env.camera_pose())[::2, ::2], world.geoms("table"))
        assert pictures[-1][table].std(0).max() > 3  # a pattern, not one colour
    again = env.reset(seed=env.variant.first_seed)[0]["image_primary"]
    np.testing.assert_array_equal(again, pictures[0])
    assert all((pictures[0] != other).mean() > 0.2 for other in pictures[1:])
    env.close()
