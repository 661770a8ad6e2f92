"""What can be known before a simulator is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gap_vla.core.errors import UserError
from gap_vla.sim import TASK_NAMES, VARIANT_NAMES, UnknownNameError, task_spec, variant_spec
from gap_vla.sim.variants import draw_ranges


def test_importing_the_package_loads_no_simulator():
    heavy = "mujoco", "robosuite", "metaworld", "torch", "jax", "tensorflow", "h5py"
    code = f"import sys, gap_vla.sim as s; s.task_spec('stack'); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("call", "names"), [(lambda: task_spec("threadin"), TASK_NAMES), (lambda: variant_spec("night"), VARIANT_NAMES)]
)
def test_an_unknown_name_lists_the_names_that_exist(call, names):
    with pytest.raises(UnknownNameError) as caught:
        call()
    assert all(name in str(caught.value) for name in names)


def test_a_misspelt_task_is_guessed():
    with pytest.raises(UnknownNameError, match="did you mean 'threading'"):
        task_spec("threadin")


def test_the_simulators_own_cameras_cannot_be_shifted():
    from gap_vla.rollouts.task import sim_task

    assert sim_task("assembly", camera="corner2").camera == "corner2"
    with pytest.raises(
        UnknownNameError, match="camera_shift moves the task's own view, not 'corner2'; take the view near"
    ):
        sim_task("assembly", camera="corner2", variant="camera_shift")


def test_every_task_is_known_to_gymnasium():
    import gymnasium

    assert {task_spec(name).gymnasium_id for name in TASK_NAMES} <= set(gymnasium.registry)
    assert task_spec("hammer_drawer").gymnasium_id == "gap_vla/HammerDrawer-v0"


def test_no_two_variants_share_an_evaluation_seed():
    seeds = [seed for name in VARIANT_NAMES for seed in variant_spec(name).seeds(1000)]
    assert len(seeds) == len(set(seeds))
    for number in (-1, 100_001):
        with pytest.raises(UserError, match=rf"^n is {number}; it must be a whole number from 0 to 100000"):
            variant_spec("light").seeds(number)


def test_disjoint_starts_leave_the_default_range_in_a_dimension_that_varies():
    import numpy as np

    default, wide = {"x": (0.0, 1.0), "fixed": (0.0, 0.0)}, {"x": (-1.0, 2.0), "fixed": (-1.0, 1.0)}
    rng = np.random.default_rng(0)
    drawn = [draw_ranges(rng, default, wide, "disjoint") for _ in range(200)]
    assert all(not 0.0 <= d["x"] <= 1.0 for d in drawn)
    assert all(0.0 <= draw_ranges(rng, default, wide, "default")["x"] <= 1.0 for _ in range(50))
