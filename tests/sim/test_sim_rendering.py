"""Pictures: nothing that matters is hidden or outside, and misuse is an error instead of a hang."""

from __future__ import annotations

import multiprocessing
import os
import sys

import numpy as np
import pytest

import gap_vla.sim as sim
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.sim import rendering


@pytest.fixture
def no_platform(monkeypatch):
    """Nothing chosen yet; what the test chooses is forgotten afterwards."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("asked", "there"), [("", "osmesa"), ("egl", "egl")])
def test_osmesa_is_the_fallback_and_pyopengl_is_told(monkeypatch, no_platform, asked, there):
    monkeypatch.setenv("MUJOCO_GL", asked)
    monkeypatch.delitem(sys.modules, "mujoco.gl_context", raising=False)
    monkeypatch.setattr(rendering, "_loadable", lambda platform: platform == there)
    assert sim.require_rendering() == os.environ["PYOPENGL_PLATFORM"] == there


def test_without_pictures_no_opengl_library_is_needed(monkeypatch, no_platform):
    monkeypatch.setattr(rendering, "_loadable", lambda platform: False)
    sim.make("assembly", cameras=()).close()
    with pytest.raises(UserError, match="libegl1"):
        sim.make("assembly")


def test_drawing_in_software_beside_tensorflow_is_refused_instead_of_crashing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    monkeypatch.setattr(rendering.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(rendering.os.path, "exists", lambda path: False)
    with pytest.raises(UserError, match="TensorFlow"):
        rendering.require_no_second_llvm()
    monkeypatch.setattr(rendering.os.path, "exists", lambda path: path == "/dev/nvidiactl")
    rendering.require_no_second_llvm()


def _child(connection, env):
    outcomes = []
    for act in (lambda: env.reset(seed=0), lambda: sim.make("assembly", image_size=32).reset(seed=0)):
        try:
            act()
            outcomes.append("no error")
        except UserError as error:
            outcomes.append(str(error))
    connection.send(outcomes)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_drawing_after_a_fork_is_an_error_and_no_hang(assembly):
    assembly.reset(seed=0)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs, assembly))
    child.start()
    assert ours.poll(120), "the child hangs"
    assert all("spawn" in outcome for outcome in ours.recv())
    child.join(timeout=120)


def test_a_large_picture_for_people_leaves_the_observation_as_it_was():
    plain, filmed = (sim.make("assembly", image_size=64) for _ in range(2))
    for env in (plain, filmed):
        env.reset(seed=2)
    expert = sim.make_expert(plain, seed=2)
    for _ in range(3):
        large = filmed.picture(size=256)
        action = expert.act()
        seen, wanted = (env.step(action)[0]["image_primary"] for env in (filmed, plain))
        np.testing.assert_array_equal(seen, wanted)
    assert large.shape == (256, 256, 3)
    small = filmed.picture(size=256).reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - filmed.render()).mean() < 4
    for env in (plain, filmed):
        env.close()


def test_gripper_and_objects_stay_in_the_picture_and_large_enough(assembly, threading_env):
    for env in (assembly, threading_env):
        check_visibility(env, seeds=(31,))


@pytest.mark.slow
@pytest.mark.parametrize("task", sim.TASK_NAMES)
def test_gripper_and_objects_stay_in_the_picture_in_many_episodes(task):
    env = sim.make(task, cameras=())
    check_visibility(env, seeds=range(200, 208))
    env.close()


def check_visibility(env, seeds):
    """Projects every landmark in every step, and measures the objects' pixels at the start."""
    for seed in seeds:
        env.reset(seed=seed)
        shown = np.isin(env.renderer().segment(env.world.data, env.camera_pose()), env.world.geoms("object"))
        assert shown.mean() > 0.004  # 16 of 64 x 64 pixels
        expert, over = sim.make_expert(env, seed=seed), False
        while not over:
            names, points = zip(*env.world.landmarks().items())
            pixels = env.camera_pose().project(np.array(points), 64)
            outside = [n for n, p in zip(names, pixels) if not (0 <= p).all() or not (p <= 64).all()]
            assert not outside, f"{env.task.name}, seed {seed}, {expert.phase}: {outside} outside: {pixels.round()}"
            *_, terminated, truncated, info = env.step(expert.act())
            over = terminated or truncated
        assert info["success"]


def test_objects_cover_the_same_pixels_as_in_the_stock_renderer(assembly):
    """The fast path changes shading, never where a thing is."""
    import mujoco

    world = assembly.world
    assembly.reset(seed=13)
    fast = np.isin(assembly.renderer().segment(world.data, assembly.camera_pose()), world.geoms("object"))
    stock = mujoco.Renderer(world.model, *fast.shape)
    stock.update_scene(world.data, mujoco.MjvCamera())
    pose = assembly.camera_pose()
    for eye in stock.scene.camera:
        eye.pos[:], eye.forward[:], eye.up[:] = pose.position, pose.forward, pose.up
        top = eye.frustum_near * np.tan(np.radians(pose.fovy) / 2)
        eye.frustum_bottom, eye.frustum_top, eye.frustum_center = -top, top, 0
    stock.enable_segmentation_rendering()
    ids, kinds = np.moveaxis(stock.render(), -1, 0)
    stock.close()
    wanted = np.isin(np.where(kinds == int(mujoco.mjtObj.mjOBJ_GEOM), ids, -1), world.geoms("object"))
    assert (fast != wanted).mean() < 0.002


def test_stock_cameras_are_available_by_name_and_unknown_ones_are_listed():
    env = sim.make("assembly", image_size=32, camera="corner2", cameras=iter(("primary",)))
    assert env.reset(seed=0)[0]["image_primary"].std() > 5
    env.close()
    with pytest.raises(ConfigError, match=r"near.*corner2"):
        sim.make("assembly", camera="corner9")


@pytest.mark.parametrize("task", ["bin_picking", pytest.param("stack", marks=pytest.mark.slow)])
def test_the_table_has_another_texture_in_every_episode(task):
    env = sim.make(task, image_size=64, variant="table_texture")
    world, pictures = env.world, []
    for seed in env.variant.seeds(4):
        pictures.append(env.reset(seed=seed)[0]["image_primary"])
        table = np.isin(env.renderer().segment(world.data, env.camera_pose())[::2, ::2], world.geoms("table"))
        assert pictures[-1][table].std(0).max() > 3  # a pattern, not one colour
    again = env.reset(seed=env.variant.first_seed)[0]["image_primary"]
    np.testing.assert_array_equal(again, pictures[0])
    assert all((pictures[0] != other).mean() > 0.2 for other in pictures[1:])
    env.close()
