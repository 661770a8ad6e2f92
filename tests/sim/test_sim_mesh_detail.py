"""Fewer triangles: the same physics, and pictures in which only the arm's shading moves."""

import numpy as np

import gap_vla.sim as sim


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


def test_states_are_equal_and_pictures_nearly(threading_env, monkeypatch):
    monkeypatch.setattr("gap_vla.sim.robosuite_world.simplify_meshes", lambda *_: {})
    whole = sim.make("threading", image_size=64)
    fine, coarse = episode(whole, 25), episode(threading_env, 25)
    whole.close()
    np.testing.assert_array_equal(fine[0], coarse[0])
    assert fine[2].any() and (fine[2] == coarse[2]).mean() > 0.9999
    difference = np.abs(fine[1] - coarse[1]).max(-1)
    assert 0 < difference.mean() < 4 and (difference > 32).mean() < 0.03
