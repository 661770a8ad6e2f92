"""The gymnasium environment: what goes in, what comes out, and that a seed determines both."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import subprocess
import sys
import threading
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import gap_vla.sim as sim
from gap_vla.core.errors import UserError
from gap_vla.rollouts.task import sim_task
from gap_vla.sim.disturbance import MOVE_AT_STEP, ObjectMover, pictures_with_objects_moved
from gap_vla.sim.rendering_backend import RenderingError


def play(env, seed, steps=25):
    """Digest of all observations and simulator states of an expert's first steps."""
    digest = hashlib.sha256()
    observation, _ = env.reset(seed=seed)
    expert = sim.make_expert(env, seed=seed)
    for _ in range(steps):
        for key in sorted(observation):
            digest.update(np.asarray(observation[key]).tobytes())
        digest.update(env.unwrapped.world.data.qpos.tobytes())
        digest.update(env.unwrapped.world.data.qvel.tobytes())
        observation, _, terminated, truncated, _ = env.step(expert.act())
        if terminated or truncated:
            break
    return digest.hexdigest()


@pytest.mark.parametrize("task", ["assembly", pytest.param("handover", marks=pytest.mark.slow)])
def test_the_views_that_a_task_names_are_those_of_its_simulator(task):
    env = sim.make(task, cameras=())
    model = env.world.model
    assert set(sim.task_spec(task).views) == {"near", *(model.camera(i).name for i in range(model.ncam))}
    env.close()


def test_a_program_whose_locale_has_no_decimal_point_is_told_where_that_matters(monkeypatch):
    monkeypatch.setattr("locale.localeconv", lambda: {"decimal_point": ","})
    with pytest.raises(UserError, match=r"have a ',' in this program's locale, .*: locale.setlocale\(locale.LC"):
        sim.make("stack", image_size=32)
    sim.make("assembly", cameras=()).close()


@pytest.mark.parametrize("cameras", [None, "primary"])
def test_cameras_are_a_list(cameras):
    with pytest.raises(UserError, match=rf"cameras is {cameras!r}; give a list, as \('primary',\); \(\) draws no"):
        sim.make("assembly", cameras=cameras)


@pytest.mark.parametrize("fixture", ["assembly", "threading_env"])
def test_observations_have_the_stated_shapes_and_units(request, fixture):
    env = request.getfixturevalue(fixture)
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert env.action_space.shape == (7,)
    assert observation["language_instruction"] == info["language_instruction"] == env.task.instruction
    quaternion, fingers = observation["proprio"][3:7], observation["proprio"][7:9]
    np.testing.assert_allclose(np.linalg.norm(quaternion), 1, atol=1e-5)
    assert 0 < fingers[0] < 0.06 and -0.06 < fingers[1] < 0  # open: apart, in metres
    np.testing.assert_allclose(observation["proprio"][:3], env.world.hand()[0], atol=1e-6)


@pytest.mark.parametrize(
    ("fixture", "task"), [("assembly", "assembly"), pytest.param("threading_env", "threading", marks=pytest.mark.slow)]
)
def test_a_seed_gives_equal_states_and_pixels_in_a_used_and_in_another_process(request, fixture, task):
    env = request.getfixturevalue(fixture)
    play(env, seed=99, steps=40)
    here = play(env, seed=5)
    code = (
        "import sys; sys.path.insert(0, 'tests/sim')\n"
        "import gap_vla.sim as sim\nfrom test_sim_environment import play\n"
        f"print(play(sim.make({task!r}, image_size=64, cameras={tuple(env.cameras)!r}), seed=5))"
    )
    there = subprocess.check_output([sys.executable, "-c", code], text=True).strip().splitlines()[-1]
    assert here == there


@pytest.mark.slow
@pytest.mark.parametrize("task", sim.TASK_NAMES)
def test_a_seed_gives_equal_states_and_pixels_in_two_processes_in_every_task(task):
    code = (
        "import sys; sys.path.insert(0, 'tests/sim')\n"
        "import gap_vla.sim as sim\nfrom test_sim_environment import play\n"
        f"print(play(sim.make({task!r}, image_size=64, cameras=('primary', 'wrist')), seed=5, steps=400))"
    )
    digests = {subprocess.check_output([sys.executable, "-c", code], text=True).split()[-1] for _ in range(2)}
    assert len(digests) == 1


def test_a_step_lasts_as_stated_whatever_robosuite_is_told(monkeypatch, threading_env):
    monkeypatch.setattr("robosuite.macros.SIMULATION_TIMESTEP", 0.001)
    env = sim.make("threading", cameras=())
    env.reset(seed=5)
    started = env.world.data.time
    env.step(np.zeros(7))
    assert env.world.data.time - started == pytest.approx(1 / env.task.control_hz)
    env.close()


def test_other_seeds_give_other_episodes_and_reset_without_seed_goes_on(assembly):
    assembly.reset(seed=1)
    first = assembly.world.goal
    seeds = [assembly.reset()[1]["episode_seed"] for _ in range(2)]
    assert not np.allclose(first, assembly.world.goal)
    assembly.reset(seed=1)
    assert seeds == [assembly.reset()[1]["episode_seed"] for _ in range(2)]


def test_a_seed_leaves_numpys_global_generator_alone(threading_env):
    np.random.seed(0)  # noqa: NPY002
    wanted = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    threading_env.reset(seed=4)
    assert np.random.rand() == wanted  # noqa: NPY002


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(4), r"shape \(4,\), expected \(7,\)"),
        (np.array([0, 0, np.nan, 0, 0, 0, 0]), "NaN or infinite at index 2"),
        (np.zeros(7, bool), "step 0: the action is bool, not numbers"),
        (["0"] * 7, "step 0: the action is <U1, not numbers"),
        (np.zeros(7, complex), "step 0: the action is complex128, not numbers"),
        (np.ma.array(np.zeros(7), mask=[1] + 6 * [0]), "step 0: the action is masked, not numbers"),
    ],
)
def test_a_bad_action_is_named(assembly, action, message):
    assembly.reset(seed=0)
    with pytest.raises(sim.ActionError, match=message):
        assembly.step(action)


def test_a_seed_may_be_any_whole_number_and_nothing_else(assembly):
    for seed in (3, np.int64(3)):
        assembly.reset(seed=seed)
        assert assembly.unwrapped.episode_seed == 3
    for seed in (3.0, "3", -1, 2**70):
        for call in (assembly.reset, partial(sim.make, "assembly"), partial(sim.make_expert, assembly)):
            with pytest.raises(UserError, match=r"seed is .*; it must be a whole number from 0 to 4294967295"):
                call(seed=seed)


def test_options_of_a_reset_are_not_passed_over(assembly):
    with pytest.raises(UserError, match=r"reset\(\) knows no option variant; give make\(\) what differs"):
        assembly.reset(seed=1, options={"variant": "light"})


def test_an_expert_is_made_after_the_reset():
    env = sim.make("assembly", cameras=())
    with pytest.raises(RuntimeError, match=r"call reset\(\) before the expert is made"):
        sim.make_expert(env, seed=0)


@pytest.mark.parametrize(("played", "later"), [(2, 0), (2, 3), (0, 0)])
def test_an_expert_plays_no_other_episode(assembly, played, later):
    assembly.reset(seed=0)
    expert = sim.make_expert(assembly, seed=0)
    for _ in range(played):
        assembly.step(expert.act())
    assembly.reset(seed=1)
    for _ in range(later):
        assembly.step(np.zeros(7))
    with pytest.raises(RuntimeError, match=r"is over; make another after each reset\(\)"):
        expert.act()


def test_objects_are_moved_in_a_direction_that_the_layout_determines(assembly):
    env, places = ObjectMover(assembly), []
    for _ in range(2):
        env.reset(seed=1)
        env.reset()
        for _ in range(MOVE_AT_STEP + 1):
            env.step(np.zeros(7))
        places.append(assembly.world.data.qpos.copy())
    np.testing.assert_array_equal(*places)


def test_an_episode_is_truncated_at_the_horizon_and_then_over():
    env = sim.make("assembly", cameras=())
    for act in (env.render, partial(env.step, np.zeros(7))):
        with pytest.raises(RuntimeError, match=r"call reset\(\) before the first"):
            act()
    env.reset(seed=0)
    ends = [env.step(np.zeros(7))[2:4] for _ in range(env.task.horizon)]
    assert ends[-1] == (False, True) and not any(t or u for t, u in ends[:-1])
    with pytest.raises(RuntimeError, match="over"):
        env.step(np.zeros(7))


def test_gymnasium_makes_the_environment():
    env = gymnasium.make("gap_vla/Assembly-v0", image_size=32)
    observation, _ = env.reset(seed=0)
    assert observation["image_primary"].shape == (32, 32, 3)
    env.step(env.action_space.sample())
    assert sim.make_expert(env, seed=0).act().shape == (7,)
    env.close()
    for use in (lambda: env.step(env.action_space.sample()), lambda: env.reset(seed=0), env.render):
        with pytest.raises(RuntimeError, match="the environment is closed; make another"):
            use()
    env.close()


@pytest.mark.parametrize("name", ["assembly", *(pytest.param(n, marks=pytest.mark.slow) for n in sim.TASK_NAMES)])
@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checker_finds_nothing_to_complain_about(name):
    env = gymnasium.make(sim.task_spec(name).gymnasium_id, image_size=32)
    check_env(env.unwrapped)
    env.close()


def test_gymnasium_finds_a_task_that_nobody_has_imported():
    code = """
import gymnasium, sys
env = gymnasium.make("gap_vla.sim:gap_vla/Assembly-v0", cameras=())
print(sorted(env.reset(seed=0)[0]))
"""
    printed = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True)
    assert printed.strip().splitlines()[-1] == "['language_instruction', 'proprio']"


def test_the_first_picture_shows_the_episode_and_not_the_one_before(assembly):
    assembly.reset(seed=1)
    first = assembly.reset(seed=2)[0]["image_primary"]
    assembly.world.reset(np.random.default_rng(2))
    np.testing.assert_array_equal(first, assembly.render())


def test_a_picture_that_is_not_observed_is_drawn_through_the_same_view():
    seen, unseen = (sim.make("assembly", cameras=cameras, variant="camera_shift") for cameras in (("primary",), ()))
    shown = seen.reset(seed=11)[0]["image_primary"]
    unseen.reset(seed=11)
    for env in (seen, unseen):
        np.testing.assert_array_equal(env.render(), shown)


def test_an_environment_is_used_and_closed_by_the_thread_that_made_it():
    env = sim.make("assembly", image_size=64, cameras=())
    env.reset(seed=0)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for use in (env.render, env.close):
            with pytest.raises(RenderingError, match="made in one thread, used in another"):
                pool.submit(use).result()
    env.render()


def test_nor_is_it_used_by_a_thread_that_got_the_number_of_the_one_that_made_it():
    outcomes: list = []

    def used():
        with contextlib.suppress(RenderingError):
            outcomes[0].reset(seed=0)
            outcomes.append("used")

    for work in (lambda: outcomes.append(sim.make("assembly", cameras=())), *[used] * 3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(outcomes) == 1


@pytest.mark.parametrize(
    "variant",
    ["light", "object_color", "object_size", "positions_disjoint"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("positions_wide", "distractors", "table_texture", "camera_shift")
    ],
)
def test_a_variant_changes_the_first_picture(assembly, variant):
    env = sim.make("assembly", image_size=64, variant=variant)
    changed = env.reset(seed=11)[0]["image_primary"].astype(int)
    plain = assembly.reset(seed=11)[0]["image_primary"]
    assert (np.abs(changed - plain).max(-1) > 8).mean() > 0.004
    env.close()


@pytest.mark.parametrize("task", ["bin_picking", pytest.param("stack", marks=pytest.mark.slow)])
def test_every_distractor_lies_in_the_picture(task):
    env = sim.make(task, cameras=(), variant="distractors")
    for seed in env.variant.seeds(20):
        env.reset(seed=seed)
        places = [env.world.data.body(f"distractor{i}").xpos for i in range(3)]
        pixels = env.camera_pose().project(np.array(places), 64)
        assert (pixels > 3).all() and (pixels < 61).all()


def test_quaternions_are_continuous_and_start_in_one_hemisphere(threading_env):
    env, quaternions = threading_env, []
    observation, _ = env.reset(seed=8)
    expert = sim.make_expert(env, seed=8)
    for _ in range(100):
        quaternions.append(observation["proprio"][3:7])
        observation = env.step(expert.act())[0]
    assert quaternions[0][0] >= 0
    assert np.abs(np.diff(quaternions, axis=0)).max() < 0.2


@pytest.mark.parametrize("name", ["assembly", pytest.param("stack", marks=pytest.mark.slow)])
def test_a_picture_of_objects_that_are_moved_changes_nothing_of_the_episode(name):
    task = sim_task(name, image_size=16, cameras=("primary",))

    def played(moves):
        env = task.make()
        observation, _ = env.reset(seed=9)
        expert, found = task.make_expert(env, seed=9), []
        for _ in range(40):
            if moves:
                shown = pictures_with_objects_moved(env, np.array([0.04, 0.0]))
                assert (shown["image_primary"] != observation["image_primary"]).any()
            observation, *_ = env.step(expert.act())
            found.append(observation["proprio"])
        env.close()
        return np.array(found)

    assert np.array_equal(played(False), played(True))
