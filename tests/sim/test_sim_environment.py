"""The gymnasium environment: what goes in, what comes out, and that a seed determines both."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import gap_vla.sim as sim
from gap_vla.core.errors import UserError
from gap_vla.rollouts.task import sim_task
from gap_vla.sim.specs import SETTLE_STEPS
from gap_vla.sim.wrappers import MOVE_AT_STEP, ObjectMover, pictures_with_objects_moved


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


def expert_episode(env, seed):
    """(reward, terminated, truncated, success) of every step of an expert's episode."""
    env.reset(seed=seed)
    expert, told, over = sim.make_expert(env, seed=seed), [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(expert.act())
        told.append((reward, terminated, truncated, info["success"]))
        over = terminated or truncated
    return told


@pytest.mark.parametrize("fixture", ["assembly", "threading_env"])
def test_observations_have_the_stated_shapes_and_units(request, fixture):
    env = request.getfixturevalue(fixture)
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert env.action_space.shape == (7,)
    assert observation["language_instruction"] == info["language_instruction"] == env.task.instruction
    arm = env.task.columns.split(observation["proprio"][None])[0]
    np.testing.assert_allclose(np.linalg.norm(arm.quaternion), 1, atol=1e-5)
    assert 0 < arm.gripper[0, 0] < 0.06 and -0.06 < arm.gripper[0, 1] < 0  # open: apart, in metres
    np.testing.assert_allclose(arm.position[0], env.world.hand()[0], atol=1e-6)


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


def test_success_in_metaworld_is_told_at_once_and_the_episode_goes_on_for_five_steps(assembly):
    told = expert_episode(assembly, seed=41)
    first = next(step for step, (reward, *_) in enumerate(told) if reward)
    assert [success for *_, success in told] == [step >= first for step in range(len(told))]
    assert len(told) == first + 1 + SETTLE_STEPS and told[-1][1:3] == (True, False)


def test_success_in_robosuite_is_told_once_it_has_held_in_five_further_steps(threading_env):
    told = expert_episode(threading_env, seed=50)
    held = [reward for reward, *_ in told]
    assert held[-1 - SETTLE_STEPS :] == [1.0] * (1 + SETTLE_STEPS) and held[-2 - SETTLE_STEPS] == 0.0
    assert [success for *_, success in told] == [False] * (len(told) - 1) + [True]


def test_success_in_robosuite_must_hold(threading_env, monkeypatch):
    threading_env.reset(seed=50)
    seen = iter([True] * SETTLE_STEPS + [False] + [True] * (1 + SETTLE_STEPS))
    monkeypatch.setattr(threading_env.world, "succeeded", lambda: next(seen))
    ends = [threading_env.step(np.zeros(7))[2] for _ in range(2 * (1 + SETTLE_STEPS))]
    assert ends == [False] * (len(ends) - 1) + [True]


def test_an_episode_is_truncated_at_the_horizon_and_then_over():
    env = sim.make("assembly", cameras=())
    with pytest.raises(RuntimeError):
        env.step(np.zeros(7))
    env.reset(seed=0)
    steps = [env.step(np.zeros(7)) for _ in range(env.task.horizon)]
    assert steps[-1][2:4] == (False, True) and not any(step[2] or step[3] for step in steps[:-1])
    assert not steps[-1][4]["success"]
    with pytest.raises(RuntimeError):
        env.step(np.zeros(7))


def test_the_wrist_has_a_picture_of_its_own(assembly):
    """It is the one of the wrist's camera, which moves with the hand."""
    observation, _ = assembly.reset(seed=3)
    np.testing.assert_array_equal(observation["image_primary"], assembly.picture("primary"))
    np.testing.assert_array_equal(observation["image_wrist"], assembly.picture("wrist"))
    assert (observation["image_primary"] != observation["image_wrist"]).any(-1).mean() > 0.5
    before = assembly.camera_pose("primary").position, assembly.camera_pose("wrist").position
    for _ in range(10):
        assembly.step(np.array([1.0, 0, 0, 0, 0, 0, 0]))
    np.testing.assert_array_equal(assembly.camera_pose("primary").position, before[0])
    assert assembly.camera_pose("wrist").position[0] - before[1][0] > 0.02


def test_other_seeds_give_other_episodes_and_reset_without_seed_goes_on(assembly):
    assembly.reset(seed=np.int64(1))
    first = assembly.world.goal
    seeds = [assembly.reset()[1]["episode_seed"] for _ in range(2)]
    assert not np.allclose(first, assembly.world.goal)
    assembly.reset(seed=1)
    assert seeds == [assembly.reset()[1]["episode_seed"] for _ in range(2)]


@pytest.mark.parametrize("action", [np.zeros(4), np.array([0, 0, np.nan, 0, 0, 0, 0])])
def test_an_action_of_another_width_or_nan_is_refused(assembly, action):
    assembly.reset(seed=0)
    with pytest.raises(UserError, match="assembly, step 0"):
        assembly.step(action)


@pytest.mark.parametrize("name", ["assembly", *(pytest.param(n, marks=pytest.mark.slow) for n in sim.TASK_NAMES)])
@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checker_finds_nothing_to_complain_about(name):
    env = gymnasium.make(sim.task_spec(name).gymnasium_id, image_size=32)
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize(
    "variant",
    ["light", "object_size", "positions_disjoint", "camera_shift"],
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


def test_objects_are_moved_in_a_direction_that_the_layout_determines(assembly):
    env, places = ObjectMover(assembly), []
    for _ in range(2):
        env.reset(seed=1)
        env.reset()
        for _ in range(MOVE_AT_STEP + 1):
            env.step(np.zeros(7))
        places.append(assembly.world.data.qpos.copy())
    np.testing.assert_array_equal(*places)


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
