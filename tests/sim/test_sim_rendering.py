"""Pictures: nothing that matters is hidden or outside, and misuse is an error instead of a hang."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import gap_vla.sim as sim
from gap_vla.sim import rendering_backend
from gap_vla.sim.cameras import View
from gap_vla.sim.rendering import FastRenderer


@pytest.fixture
def no_platform(monkeypatch):
    """Nothing chosen yet; what the test chooses is forgotten afterwards."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("free", "kept"), [(0, "true"), (2**40, None)])
def test_no_shaders_are_kept_where_the_disk_of_their_cache_is_full(monkeypatch, tmp_path, free, kept):
    """Mesa would end the process by SIGBUS."""
    monkeypatch.setenv("MESA_SHADER_CACHE_DISABLE", "")
    monkeypatch.delenv("MESA_SHADER_CACHE_DISABLE")
    monkeypatch.delenv("MESA_SHADER_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there"))
    usage = {tmp_path: types.SimpleNamespace(free=free)}
    monkeypatch.setattr(rendering_backend.shutil, "disk_usage", usage.__getitem__)
    sim.require_rendering()
    assert os.environ.get("MESA_SHADER_CACHE_DISABLE") == kept


def test_no_opengl_library_names_the_package_to_install(monkeypatch, no_platform):
    monkeypatch.setattr(rendering_backend, "_loadable", lambda platform: False)
    with pytest.raises(sim.RenderingError, match=r"apt-get install -y libegl1.*libosmesa6"):
        sim.require_rendering()


def test_a_platform_that_nobody_knows_is_not_overruled(monkeypatch, no_platform):
    monkeypatch.setenv("MUJOCO_GL", "direct3d")
    with pytest.raises(sim.RenderingError, match=r"MUJOCO_GL=direct3d is nothing to draw with; give egl, osmesa"):
        sim.require_rendering()


@pytest.mark.parametrize(("asked", "there"), [("", "osmesa"), ("egl", "egl")])
def test_osmesa_is_the_fallback_and_pyopengl_is_told(monkeypatch, no_platform, asked, there):
    monkeypatch.setenv("MUJOCO_GL", asked)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")  # MuJoCo could not be imported
    monkeypatch.delitem(sys.modules, "mujoco.gl_context", raising=False)
    monkeypatch.setattr(rendering_backend, "_loadable", lambda platform: platform == there)
    assert sim.require_rendering() == os.environ["PYOPENGL_PLATFORM"] == there


def test_without_pictures_a_platform_that_is_missing_is_not_needed(monkeypatch, no_platform):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(rendering_backend, "_loadable", lambda platform: False)
    sim.make("assembly", cameras=()).close()
    assert os.environ["MUJOCO_GL"] == "disable"  # what MuJoCo is imported with
    with pytest.raises(sim.RenderingError, match=r"neither EGL .* nor OSMesa .*apt-get install"):
        sim.require_rendering()  # and not that the variable is to be unset


def test_nor_by_the_task_of_a_rollout():
    code = (
        "from gap_vla.sim import rendering_backend; rendering_backend._loadable = lambda platform: False\n"
        "from gap_vla.rollouts import sim_task; sim_task('assembly', cameras=()).make()"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"MUJOCO_GL": "osmesa"}, check=True)


@pytest.mark.parametrize("task", ["assembly", pytest.param("threading", marks=pytest.mark.slow)])
def test_a_simulator_loads_without_a_python_of_its_own(task):
    """Such a child of a simulator that is ended while it loads prints a traceback."""
    code = (
        "import subprocess; import gap_vla.sim as sim; begun = []; begin = subprocess.Popen.__init__\n"
        "def watched(self, command, *more, **options): begun.append(command); begin(self, command, *more, **options)\n"
        f"subprocess.Popen.__init__ = watched; sim.make({task!r}, image_size=32)\n"
        "import sys; import glfw; assert 'glfw.library' in sys.modules\n"
        "assert not [command for command in begun if 'python' in command[0]], begun"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYGLFW_LIBRARY"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_what_mujoco_could_not_make_whole_is_one_error_and_no_traceback_when_it_goes(assembly, monkeypatch):
    class HalfMade:
        def __init__(self, *_):
            raise RuntimeError("no device 63")

        def __del__(self):
            raise AttributeError("_context")

    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    monkeypatch.setattr("mujoco.Renderer", HalfMade)
    with pytest.raises(sim.RenderingError, match="no OpenGL context could be made: no device 63"):
        FastRenderer(assembly.world.model, 32)
    gc.collect()
    assert not told


def test_a_variable_that_robosuite_refuses_is_named():
    code = "from gap_vla import sim; sim.make('stack', cameras=())"
    odd = {"MUJOCO_GL": "egl", "CUDA_VISIBLE_DEVICES": "0", "MUJOCO_EGL_DEVICE_ID": "1"}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **odd}, capture_output=True, text=True)
    assert "RenderingError: stack's simulator cannot be loaded: MUJOCO_EGL_DEVICE_ID needs to be" in done.stderr


def test_use_from_another_thread_is_an_error(assembly):
    assembly.reset(seed=0)
    caught = []

    def draw():
        try:
            assembly.step(np.zeros(7))
        except sim.RenderingError as error:
            caught.append(str(error))

    worker = threading.Thread(target=draw)
    worker.start()
    worker.join()
    assert caught and "another" in caught[0] and "thread" in caught[0]


def _child(connection, env):
    outcomes = []
    for act in (lambda: env.reset(seed=0), lambda: sim.make("assembly", image_size=32).reset(seed=0)):
        try:
            act()
            outcomes.append("no error")
        except sim.RenderingError as error:
            outcomes.append(str(error))
    connection.send(outcomes)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_use_after_a_fork_is_an_error_and_no_hang(assembly):
    assembly.reset(seed=0)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs, assembly))
    child.start()
    assert ours.poll(120), "the child hangs"
    old, new = ours.recv()
    child.join(timeout=120)
    assert "does not survive a fork" in old
    assert "forked from process" in new and "spawn" in new


def test_the_projection_agrees_with_the_picture(assembly):
    assembly.reset(seed=6)
    world, pose = assembly.world, assembly.camera_pose()
    shown = assembly.renderer.segment(world.data, pose)
    peg = [g for g in world.geoms("object") if world.model.body(world.model.geom_bodyid[g]).name == "peg"]
    rows, columns = np.nonzero(np.isin(shown, peg))
    scale = 64 / len(shown)
    seen = np.array([columns.mean(), rows.mean()]) * scale
    wanted = pose.project(world.data.body("peg").xpos[None], 64)[0]
    assert np.linalg.norm(seen - wanted) < 2


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
        shown = np.isin(env.renderer.segment(env.world.data, env.camera_pose()), env.world.geoms("object"))
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
    fast = np.isin(assembly.renderer.segment(world.data, assembly.camera_pose()), world.geoms("object"))
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
    with pytest.raises(sim.UnknownNameError, match="camera 'corner2' is unknown; choose one of primary, wrist"):
        env.camera_pose("corner2")
    env.close()
    with pytest.raises(sim.UnknownNameError, match=r"near.*corner2"):
        sim.make("assembly", camera="corner9")


def test_a_view_on_a_body_moves_with_it():
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body name='b' pos='1 2 3'><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    pose = View((0, 0, -1), (0, 0, 0), 60, up=(0, 1, 0), body="b").pose(data)
    np.testing.assert_allclose(pose.position, [1, 2, 2])
    np.testing.assert_allclose(pose.project(np.array([[1, 2, 3]]), 64), [[32, 32]])
    assert np.isnan(pose.project(np.array([[1, 2, 1]]), 64)).all()  # behind the camera


def test_rendering_ends_quietly_when_the_interpreter_does():
    code = "import gap_vla.sim as s; e = s.make('assembly', image_size=32); e.reset(seed=0)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Error" not in done.stderr


@pytest.mark.slow
def test_a_thousand_resets_and_500_episodes_leak_nothing():
    env = sim.make("assembly", image_size=64)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    for seed in range(100):
        env.reset(seed=seed)
    before = resident()
    for seed in range(1000):
        env.reset(seed=seed)
    for seed in range(500):
        env.reset(seed=seed)
        for _ in range(3):
            env.step(np.zeros(7))
    assert resident() - before < 8  # MiB
    env.close()


@pytest.mark.slow
def test_a_hundred_environments_one_after_the_other_leave_no_context():
    for _ in range(100):
        env = sim.make("assembly", image_size=32)
        env.reset(seed=0)
        env.close()


def test_camera_shift_moves_only_the_picture(assembly):
    moved = sim.make("assembly", image_size=64, variant="camera_shift")
    a, b = assembly.reset(seed=3)[0], moved.reset(seed=3)[0]
    np.testing.assert_array_equal(a["proprio"], b["proprio"])
    assert (a["image_primary"] != b["image_primary"]).mean() > 0.1
    moved.close()


def test_drawing_in_software_beside_tensorflow_is_refused_instead_of_crashing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    monkeypatch.setattr(rendering_backend.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(rendering_backend.os.path, "exists", lambda path: False)
    with pytest.raises(rendering_backend.RenderingError, match="process without TensorFlow"):
        rendering_backend.require_no_second_llvm()
    monkeypatch.setattr(rendering_backend, "parent_process", lambda: "the program")
    with pytest.raises(rendering_backend.RenderingError, match=r"imports the program; .* import it below `if __name__"):
        rendering_backend.require_no_second_llvm()
    monkeypatch.setattr(rendering_backend.os.path, "exists", lambda path: path == "/dev/nvidiactl")
    rendering_backend.require_no_second_llvm()
