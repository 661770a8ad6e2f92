"""A policy small enough to compute by hand, with the interface of `OctoModule` that a training step uses."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gap_vla.adjustment.jax import scale_group_updates
from gap_vla.adjustment.schedule import Factors
from gap_vla.octo.optimizer import create_optimizer
from gap_vla.training.packing import Packing
from gap_vla.training.step import TrainState, TrainStep

GROUP = {"octo_transformer/obs_proprio_projection/kernel": (5, 6)}


class LinearPolicy:
    """action = (mean picture · K_vision + proprio · K_proprio) · K_head + bias; squared error."""

    def bind(self, variables, rngs):
        self_params = variables["params"]

        def transformer(observation, task, mask, train, only):
            pictures = jnp.asarray(observation["image_primary"], jnp.float32).mean((2, 3)) / 255
            kernels = self_params["octo_transformer"]
            vision = pictures @ kernels["observation_tokenizers_primary"]["kernel"]
            return vision + observation["proprio"] @ kernels["obs_proprio_projection"]["kernel"]

        def loss(tokens, action, mask, action_mask, train, weight=None):
            head = self_params["heads_action"]
            error = jnp.square((tokens @ head["kernel"] + head["bias"])[:, :, None] - action)
            counted = (action_mask & mask[:, :, None, None]).astype(jnp.float32)
            value = jnp.mean(error * counted) / jnp.maximum(jnp.mean(counted), 1e-5)
            return value, {"mse": value}

        head = types.SimpleNamespace(loss=loss, readout_key="readout_action")
        return types.SimpleNamespace(octo_transformer=transformer, heads={"action": head})


def batch_of(size=8, window=2, horizon=3, seed=0):
    rng = np.random.default_rng(seed)
    leading = (size, window)
    return {
        "observation": {
            "image_primary": rng.integers(0, 256, (*leading, 4, 4, 3), dtype=np.uint8),
            "proprio": rng.standard_normal((*leading, 5), np.float32),
            "timestep_pad_mask": rng.random(leading) > 0.2,
            "pad_mask_dict": {"image_primary": np.ones(leading, bool)},
        },
        "task": {},
        "action": rng.standard_normal((*leading, horizon, 2), np.float32),
        "action_pad_mask": np.repeat(rng.random((*leading, horizon, 1)) > 0.1, 2, axis=3),
        "rho": rng.random(leading).astype(np.float32),
    }


def parameters(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "octo_transformer": {
            "observation_tokenizers_primary": {"kernel": rng.standard_normal((3, 6), np.float32)},
            "obs_proprio_projection": {"kernel": rng.standard_normal((5, 6), np.float32)},
        },
        "heads_action": {"kernel": rng.standard_normal((6, 2), np.float32), "bias": np.zeros(2, np.float32)},
    }


def neutral(batch):
    shape = batch["rho"].shape
    return Factors(np.ones(shape, np.float32), np.float32(1), np.float32(1))


def linear_training(multiple=1, clip=1.0, weight_decay=0.1, **options):
    """(state, step) of the linear policy with Adam at a learning rate of 0.01."""
    packing = Packing.of(parameters(), GROUP, multiple)
    tx, rate = create_optimizer(
        0.01,
        weight_decay=weight_decay,
        clip_gradient=clip,
        after_normalization=optax.chain(scale_group_updates(packing.group_labels)),
        mu_dtype=jnp.float32,
    )
    packed = packing.pack(parameters())
    state = TrainState(packed, tx.init(packed), jnp.zeros([], jnp.int32), jax.random.PRNGKey(0))
    step = TrainStep(LinearPolicy(), tx, packing, rate, adjust=False, **options)
    return state, step, packing


def trained(state, step, steps=3, place=lambda batch: batch):
    """The packed parameters after some steps, and what the last one measured."""
    measured = {}
    for number in range(steps):
        batch = place(batch_of(seed=number))
        state, measured = step(state, batch, neutral(batch), split=True)
    return state.params, measured
