"""GAP in a flax.nnx policy with the names of openpi's JAX model: one line in its forward pass, and λ in optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gap_vla.adjustment.jax import path_of, scale_gradient, scale_group_updates


class Pi0(nnx.Module):
    """`state_proj` makes one token of the state; the action tokens attend to it."""

    def __init__(self, rngs):
        self.state_proj = nnx.Linear(5, 8, rngs=rngs)
        self.action_in_proj, self.action_out_proj = nnx.Linear(2, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def compute_loss(self, state, noisy, factor):
        token = scale_gradient(self.state_proj(state), factor[:, None])[:, None, :]
        tokens = jnp.cumsum(jnp.concatenate([token, self.action_in_proj(noisy)], 1), 1)
        return jnp.square(self.action_out_proj(jnp.tanh(tokens))).sum()


def test_state_proj_of_an_nnx_model_is_adjusted_sample_by_sample_and_lambda_finds_its_parameters():
    model = Pi0(nnx.Rngs(0))
    random = np.random.default_rng(0)
    state, noisy = random.normal(size=(3, 5)).astype(np.float32), random.normal(size=(3, 2, 2)).astype(np.float32)
    rho = jnp.array([0.0, 0.4, 1.0])
    gradient = nnx.jit(nnx.grad(lambda model, state, noisy, factor: model.compute_loss(state, noisy, factor)))
    plain, found = gradient(model, state, noisy, jnp.ones(3)), gradient(model, state, noisy, 1 - rho)
    singles = [gradient(model, state[b : b + 1], noisy[b : b + 1], jnp.ones(1)) for b in range(3)]
    expected = jax.tree.map(lambda *g: sum((1 - rho[b]) * g[b] for b in range(3)), *singles)
    leaves, _ = jax.tree_util.tree_flatten_with_path(found)
    group = {path_of(path): leaf.shape for path, leaf in leaves if path_of(path).split("/")[0] == "state_proj"}
    assert sorted(name.split("/")[1] for name in group) == ["bias", "kernel"]
    for (path, leaf), same, adjusted in zip(leaves, jax.tree.leaves(plain), jax.tree.leaves(expected)):
        np.testing.assert_allclose(leaf, adjusted if path_of(path) in group else same, rtol=1e-4, atol=1e-5)

    tx = optax.chain(optax.scale_by_adam(), scale_group_updates(group, lambda step: 0.3), optax.scale(-0.1))
    updates, whole = (jax.jit(lambda g, t=t: t.update(g, t.init(g))[0])(found) for t in (tx, optax.adam(0.1)))
    for (path, _), other in zip(leaves, zip(jax.tree.leaves(updates), jax.tree.leaves(whole))):
        np.testing.assert_allclose(other[0], (0.3 if path_of(path) in group else 1.0) * other[1], rtol=1e-4, atol=1e-7)
