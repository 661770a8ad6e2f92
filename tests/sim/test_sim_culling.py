"""What is not drawn could not have been seen: pictures with and without it are equal."""

from __future__ import annotations

import numpy as np
import pytest

import gap_vla.sim as sim
from gap_vla.sim.cameras import CameraPose
from gap_vla.sim.culling import Culling
from gap_vla.sim.rendering import FastRenderer


class _Nothing:
    """Leaves nothing out."""

    def __init__(self, model):
        self._model = model

    def geoms(self, data, camera):
        return np.zeros(self._model.ngeom, bool)

    def sites(self, data, camera):
        return np.zeros(self._model.nsite, bool)


def check_nothing_visible_is_left_out(env, seeds, every):
    """Compares the pictures of both cameras along the expert's episodes with those of a renderer that draws all."""
    world, model = env.world, env.world.model
    metaworld = env.task.family == "metaworld"
    full = FastRenderer(model, 64, groups=world.groups, sites=metaworld, blend_mipmaps=metaworld)
    full._culling = _Nothing(model)
    geoms = []
    for seed in seeds:
        env.reset(seed=seed)
        expert, over, step = sim.make_expert(env, seed=seed), False, 0
        while not over:
            for camera in ("primary", "wrist") if step % every == 0 else ():
                pose = env.camera_pose(camera)
                picture, wanted = (renderer.draw(world.data, pose) for renderer in (env.renderer(), full))
                np.testing.assert_array_equal(picture, wanted, err_msg=f"{env.task.name}, {camera}, step {step}")
                geoms.append((env.renderer()._renderer.scene.ngeom, full._renderer.scene.ngeom))
            *_, terminated, truncated, _ = env.step(expert.act())
            over, step = terminated or truncated, step + 1
    full.close()
    return np.array(geoms)


def test_what_is_left_out_changes_no_pixel(assembly):
    drawn, all_of_them = check_nothing_visible_is_left_out(assembly, seeds=(12,), every=20).T
    assert drawn.mean() < 0.8 * all_of_them.mean()


@pytest.mark.slow
@pytest.mark.parametrize("task", sim.TASK_NAMES)
def test_what_is_left_out_changes_no_pixel_in_any_task(task):
    for variant in ("default", "positions_wide", "camera_shift", "distractors"):
        env = sim.make(task, image_size=64, cameras=("primary", "wrist"), variant=variant)
        check_nothing_visible_is_left_out(env, seeds=(12, 13), every=4)
        env.close()


SCENE = """
<mujoco><worldbody>
  <geom name="floor" type="plane" size="5 5 1"/>
  <geom name="table" type="box" size="1 1 0.05" pos="0 0 0.95"/>
  <geom name="under" type="sphere" size="0.1" pos="0 0 0.5"/>
  <geom name="on" type="sphere" size="0.1" pos="0 0 1.05"/>
  <geom name="beside" type="sphere" size="0.1" pos="0.9 0 1.05"/>
</worldbody></mujoco>
"""


@pytest.mark.parametrize(
    ("fovy", "left_out"),
    [(20.0, {"floor", "under", "beside"}), (80.0, {"floor", "under"}), (100.0, set())],
)
def test_only_what_is_beside_the_picture_or_under_the_table_that_fills_it_is_left_out(fovy, left_out):
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    above = CameraPose(np.array([0.0, 0.0, 2.0]), np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0]), fovy)
    unseen = Culling(model, (0,)).geoms(data, above)
    assert {model.geom(i).name for i in np.flatnonzero(unseen)} == left_out
    assert not Culling(model, (1,)).geoms(data, above)[[0, 2]].any()  # a table that is not drawn covers nothing
