"""Tasks, variants and experts: what their names promise."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import gap_vla.sim as sim
from gap_vla.sim import TASK_NAMES, VARIANT_NAMES, task_spec, variant_spec
from gap_vla.sim.collection import demonstrate
from gap_vla.sim.variants import draw_ranges

METAWORLD = [name for name in TASK_NAMES if task_spec(name).family == "metaworld"]


def test_importing_the_package_loads_no_simulator():
    heavy = "mujoco", "robosuite", "metaworld", "torch", "jax", "tensorflow", "h5py"
    code = f"import sys, gap_vla.sim as s; s.task_spec('stack'); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("task", ["assembly", pytest.param("handover", marks=pytest.mark.slow)])
def test_the_views_that_a_task_names_are_those_of_its_simulator(task):
    env = sim.make(task, cameras=())
    model = env.world.model
    assert set(task_spec(task).views) == {"near", *(model.camera(i).name for i in range(model.ncam))}
    env.close()


def test_no_two_variants_share_an_evaluation_seed():
    seeds = [seed for name in VARIANT_NAMES for seed in variant_spec(name).seeds(1000)]
    assert len(seeds) == len(set(seeds))


def test_disjoint_starts_leave_the_default_range_in_a_dimension_that_varies():
    ranges = {"x": ((0.0, 1.0), (-1.0, 2.0)), "fixed": ((0.0, 0.0), (-1.0, 1.0))}
    rng = np.random.default_rng(0)
    drawn = [draw_ranges(rng, ranges, "disjoint") for _ in range(200)]
    assert all(not 0.0 <= d["x"] <= 1.0 for d in drawn)
    assert all(0.0 <= draw_ranges(rng, ranges, "default")["x"] <= 1.0 for _ in range(50))


@pytest.mark.parametrize("task", METAWORLD)
def test_the_expert_succeeds_and_its_phases_follow_the_stated_order(task):
    env = sim.make(task, cameras=())
    demo = demonstrate(env, 41)
    assert demo.success
    assert np.abs(demo.actions).max() <= 1 and set(demo.actions[:, 6]) <= {-1.0, 1.0}
    order = [env.task.phases.index(name) for name in demo.phases]
    assert (np.diff(order) >= 0).all()
    starts = [t for t, name in enumerate(demo.phases) if t == 0 or name != demo.phases[t - 1]]
    np.testing.assert_array_equal(np.flatnonzero(demo.switches), starts)
    env.close()


def test_the_threading_expert_succeeds(threading_env):
    demo = demonstrate(threading_env, 50)
    assert demo.success and set(demo.phases) == set(threading_env.task.phases)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_expert_succeeds_in_nearly_all_of_a_hundred_episodes(task):
    env = sim.make(task, cameras=())
    successes = sum(demonstrate(env, seed).success for seed in variant_spec("default").seeds(100))
    assert successes >= (90 if task in ("hammer_drawer", "handover") else 95)


def test_the_label_is_clean_and_the_executed_action_disturbed():
    env = sim.make("assembly", cameras=())
    demo = demonstrate(env, 7, action_noise=0.1)
    difference = demo.executed_actions - demo.actions
    assert (difference[:, 3:] == 0).all()  # no rotation in Meta-World, and grippers are not disturbed
    inside = np.abs(demo.executed_actions[:, :3]) < 1
    assert 0.07 < difference[:, :3][inside].std() < 0.13
    again = demonstrate(env, 7, action_noise=0.1)
    np.testing.assert_array_equal(demo.executed_actions, again.executed_actions)
