"""GAP's interceptor on upstream Octo's own module, golden case b; runs in an environment with upstream's pins.

    PYTHONPATH=. UPSTREAM/bin/python tests/octo/upstream_interceptor.py        # docs/OCTO.md builds that environment

Fails unless the loss is the same to the bit, the gradients of the proprioceptive leaves alone change, and these are the
sum over samples of (1 - rho_b) g_b.
"""

import json
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from octo.model.octo_module import OctoModule

from gap_vla.adjustment.jax import adjusted_gradients, match_group, path_of, scale_group_updates

CASE = Path(__file__).parents[1] / "data" / "octo" / "b"
OTHER = "heads_action/mean_proj/kernel"


def read_batch():
    with np.load(CASE / "inputs.npz") as file:
        return flax.traverse_util.unflatten_dict({key: file[key] for key in file.files}, sep="/")


def flat(tree):
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def main():
    config = json.loads((CASE / "checkpoint" / "config.json").read_text())
    module = OctoModule.create(**config["model"])
    params = flax.serialization.msgpack_restore((CASE / "checkpoint" / "5" / "default" / "checkpoint").read_bytes())
    batch = read_batch()
    group = match_group(params)

    def loss(params, batch):
        mask = batch["observation"]["timestep_pad_mask"]
        bound = module.bind({"params": params}, rngs={"dropout": jax.random.PRNGKey(0)})
        outputs = bound.octo_transformer(batch["observation"], batch["task"], mask, train=False)
        return bound.heads["action"].loss(outputs, batch["action"], mask, batch["action_pad_mask"], train=False)[0]

    def adjusted_loss(params, batch, factor):
        with adjusted_gradients(factor):
            return loss(params, batch)

    plain, adjusted = jax.jit(jax.value_and_grad(loss)), jax.jit(jax.value_and_grad(adjusted_loss))
    counted = batch["action_pad_mask"] & batch["observation"]["timestep_pad_mask"].astype(bool)[:, :, None, None]
    size, window = counted.shape[:2]
    rho = np.linspace(0.2, 1.0, size, dtype=np.float32)
    value, gradients = plain(params, batch)
    gradients = flat(gradients)
    found_value, found = adjusted(params, batch, jnp.repeat(1 - rho[:, None], window, 1))
    found = flat(found)

    expected = {path: np.zeros(shape, np.float64) for path, shape in group.items()}
    for sample in range(size):
        own = np.arange(size)[:, None, None, None] == sample
        _, single = plain(params, {**batch, "action_pad_mask": batch["action_pad_mask"] & own})
        share = (counted & own).sum() / counted.sum()  # the loss is a mean over the counted entries
        single = flat(single)
        for path in group:
            expected[path] += (1 - rho[sample]) * share * single[path]
    distance = max(np.abs(found[p] - expected[p]).max() / np.abs(expected[p]).max() for p in group)
    changed = [p for p in found if not np.allclose(found[p], gradients[p], rtol=1e-4, atol=1e-7)]
    others = max(np.abs(found[p] - gradients[p]).max() for p in found if p not in group)

    tx = optax.chain(optax.scale_by_adam(), scale_group_updates(group))
    state = tx.init(params)
    full, scaled = (flat(tx.update(params, state, params, update_factor=factor)[0]) for factor in (1.0, 0.3))
    ratios = {p: float(np.linalg.norm(scaled[p]) / np.linalg.norm(full[p])) for p in (*group, OTHER)}
    assert float(value) == float(found_value) and sorted(changed) == sorted(group)
    assert distance < 1e-5 and others < 1e-7, (distance, others)
    for path, ratio in ratios.items():
        assert abs(ratio - (0.3 if path in group else 1.0)) < 1e-5, path
    print(f"jax {jax.__version__}, flax {flax.__version__}: {sorted(group)} to {distance:.1e}, others to {others:.1e}")


if __name__ == "__main__":
    main()
