"""Trains the linear policy on every mesh of the devices here: `python mesh_training.py OUT.npz`."""

import sys

import jax
import numpy as np

from gap_vla.training.packing import make_mesh, place_batch, state_shardings
from tests.helpers.linear_policy import linear_training, trained


def main(out):
    found = {}
    for name, fsdp in {"one": None, "data": 1, "fsdp": 4, "both": 2}.items():
        if fsdp is None:
            state, step, packing = linear_training()
            params, measured = trained(state, step)
        else:
            mesh = make_mesh(fsdp, batch_size=8)
            state, _, _ = linear_training(multiple=fsdp)
            shardings = state_shardings(mesh, state, smallest=1)
            _, step, packing = linear_training(multiple=fsdp, shardings=shardings)
            params, measured = trained(
                jax.device_put(state, shardings), step, place=lambda batch, mesh=mesh: place_batch(mesh, batch)
            )
            if fsdp > 1:
                assert {part.data.size for part in params["proprio/kernel"].addressable_shards} == {
                    params["proprio/kernel"].size // fsdp
                }, "the parameters are not cut"
        tree = packing.unpack(params)
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        found |= {f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}
        found[f"{name}/transition"] = np.asarray(measured["grad_norm/proprio/transition"])
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1])
