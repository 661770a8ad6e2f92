"""Fewer triangles: the same physics, and pictures in which only the arm's shading moves."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

import gap_vla.sim as sim


def surface(model, mesh, per_side=12):
    """Points all over a mesh."""
    rows = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    corners = model.mesh_vert[model.mesh_vertadr[mesh] + model.mesh_face[rows]]
    first, second = np.meshgrid(*[np.linspace(0, 1, per_side)] * 2)
    inside = first + second <= 1 + 1e-9
    weights = np.stack([first[inside], second[inside], 1 - (first + second)[inside]], axis=1)
    return np.einsum("pk,fki->fpi", weights, corners).reshape(-1, 3)


def episode(env, steps):
    """States, pictures and the geom in every pixel of the expert's first steps."""
    env.reset(seed=4)
    expert, states, pictures, objects = sim.make_expert(env, seed=0), [], [], []
    for _ in range(steps):
        picture = env.step(expert.act())[0]["image_primary"]
        states.append(env.world.data.qpos.copy())
        pictures.append(picture.astype(int))
        objects.append(np.isin(env.renderer().segment(env.world.data, env.camera_pose()), env.world.geoms("object")))
    return np.array(states), np.array(pictures), np.array(objects)


def check_that_only_shading_moves(thin, monkeypatch):
    monkeypatch.setattr("gap_vla.sim.robosuite_world.simplify_meshes", lambda *_: {})
    whole = sim.make(thin.task.name, image_size=64)
    fine, coarse = episode(whole, 25), episode(thin, 25)
    whole.close()
    np.testing.assert_array_equal(fine[0], coarse[0])
    assert fine[2].any() and (fine[2] == coarse[2]).mean() > 0.9999
    difference = np.abs(fine[1] - coarse[1]).max(-1)
    assert 0 < difference.mean() < 4 and (difference > 32).mean() < 0.03


def test_states_are_equal_and_pictures_nearly(threading_env, monkeypatch):
    check_that_only_shading_moves(threading_env, monkeypatch)


@pytest.mark.slow
def test_states_are_equal_and_pictures_nearly_where_two_arms_are_coarser(monkeypatch):
    env = sim.make("handover", image_size=64)
    check_that_only_shading_moves(env, monkeypatch)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "tolerance"), [("threading", 4e-3), ("handover", 8e-3)])
def test_only_what_is_looked_at_is_thinned_out_and_stays_where_it_was(task, tolerance):
    from gap_vla.sim.mesh_detail import simplify_meshes
    from gap_vla.sim.tasks.handover import Handover
    from gap_vla.sim.tasks.threading import Threading

    model = robosuite_model()
    before = {mesh: surface(model, mesh) for mesh in range(model.nmesh)}
    vertices = {mesh: model.mesh_vertnum[mesh] for mesh in before}
    bodies = [model.body(body).name for body in model.geom_bodyid]
    changed = {}
    for part, (keep, least) in {"threading": Threading, "handover": Handover}[task].coarse.items():
        changed |= simplify_meshes(model, [geom for geom, body in enumerate(bodies) if part in body], keep, least)
    assert not any("finger" in name for name in changed)
    assert sum(after for _, after in changed.values()) < 0.2 * sum(whole for whole, _ in changed.values())
    for mesh, points in before.items():
        now = surface(model, mesh)
        if model.mesh(mesh).name not in changed:
            assert model.mesh_vertnum[mesh] == vertices[mesh]
            np.testing.assert_array_equal(now, points)
            continue
        if "mount" in model.mesh(mesh).name:  # faces of a metre, on which the points lie centimetres apart
            continue
        there, back = cKDTree(points).query(now[::5])[0], cKDTree(now).query(points[::5])[0]
        assert max(np.quantile(there, 0.99), np.quantile(back, 0.99)) < tolerance, model.mesh(mesh).name
    collides = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    touched = {model.mesh(mesh).name for mesh in model.geom_dataid[collides] if mesh >= 0}
    assert touched and not touched & set(changed)


def robosuite_model():
    """The compiled model of one arm at a table, with all its triangles."""
    from gap_vla.sim.robosuite_world import PrimitiveEnv

    env = PrimitiveEnv("", "", (1.0, 0.005, 0.0001), [(0.0, (0.0, 0.0, 0.0))])
    return env.sim.model._model
