"""What test_openpi.py calls in openpi's place: classes with the names, arguments and shapes of openpi at 15a9616.

`train_step` and `main` are those of `scripts/train.py`; the rest is of `models/`, `transforms.py`, `training/`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx, struct

LOG: list[dict[str, Any]] = []
"""What `main` saw: of every step the parameters before it, the batch, the loss, and the parameters after it."""


@struct.dataclass
class Observation:
    images: dict[str, Any]
    state: Any


class Pi0(nnx.Module):
    def __init__(self, config, rngs):
        self.pi05, self.action_horizon = config.pi05, config.action_horizon
        self.vision = nnx.Linear(6, 8, rngs=rngs)
        self.action_in_proj = nnx.Linear(config.action_dim, 8, rngs=rngs)
        self.state_proj = nnx.Linear(config.action_dim, 8, rngs=rngs)
        self.action_out_proj = nnx.Linear(8, config.action_dim, rngs=rngs)

    def embed_prefix(self, obs):
        return self.vision(obs.images["base_0_rgb"])[:, None]

    def embed_suffix(self, obs, noisy_actions, timestep):
        tokens = [self.state_proj(obs.state)[:, None, :], self.action_in_proj(noisy_actions) + timestep[:, None, None]]
        tokens = jnp.concatenate(tokens, axis=1)
        return tokens, jnp.ones(tokens.shape[:2], bool), jnp.ones(tokens.shape[1], bool), None

    def compute_loss(self, rng, observation, actions, *, train=False):
        noise_rng, time_rng = jax.random.split(rng)
        noise, time = jax.random.normal(noise_rng, actions.shape), jax.random.uniform(time_rng, actions.shape[:1])
        x_t = time[:, None, None] * noise + (1 - time[:, None, None]) * actions
        suffix, *_ = self.embed_suffix(observation, x_t, time)
        mixed = jnp.tanh(jnp.cumsum(jnp.concatenate([self.embed_prefix(observation), suffix], 1), 1))
        v_t = self.action_out_proj(mixed[:, -self.action_horizon :])
        return jnp.mean(jnp.square(v_t - (noise - actions)), axis=-1)


@dataclasses.dataclass(frozen=True)
class Pi0Config:
    action_dim: int = 8
    action_horizon: int = 2
    pi05: bool = False

    def create(self, rng):
        return Pi0(self, rngs=nnx.Rngs(rng))


@dataclasses.dataclass(frozen=True)
class Group:
    inputs: Any = ()
    outputs: Any = ()


@dataclasses.dataclass(frozen=True)
class DataConfig:
    repack_transforms: Group
    data_transforms: Group
    model_transforms: Group


def repack(data):
    return {"observation/state": data["state"], "observation/image": data["image"], "actions": data["actions"]}


def robot_inputs(data):
    return {"state": data["observation/state"], "image": data["observation/image"], "actions": data["actions"]}


def padded(data, width):
    wide = {key: np.asarray(data[key], np.float32) for key in ("state", "actions")}
    widths = {key: [*[(0, 0)] * (value.ndim - 1), (0, width - value.shape[-1])] for key, value in wide.items()}
    return {**data, **{key: np.pad(value, widths[key]) for key, value in wide.items()}}


@dataclasses.dataclass(frozen=True)
class LiberoData:
    def create(self, assets_dirs, model_config):
        pad = functools.partial(padded, width=model_config.action_dim)
        return DataConfig(Group([repack]), Group([robot_inputs]), Group([pad]))


@dataclasses.dataclass(frozen=True)
class SGD:
    lr: float = 0.1

    def create(self, lr, weight_decay_mask=None):
        return optax.sgd(lr)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    model: Any = Pi0Config()
    data: Any = LiberoData()
    optimizer: Any = SGD()
    num_train_steps: int = 4


@struct.dataclass
class TrainState:
    step: Any
    params: Any
    model_def: Any = struct.field(pytree_node=False)
    opt_state: Any
    tx: Any = struct.field(pytree_node=False)


def frames(count=12, width=3):
    rng = np.random.default_rng(0)
    for index in range(count):
        state, image, actions = rng.normal(size=width), rng.normal(size=6), rng.normal(size=(2, 3))
        yield {"index": torch.tensor(index), "state": state, "image": image, "actions": actions}


def batches(config, size=3):
    data = config.data.create("assets", config.model)
    transforms = [*data.repack_transforms.inputs, *data.data_transforms.inputs, *data.model_transforms.inputs]
    samples = [functools.reduce(lambda value, transform: transform(value), transforms, frame) for frame in frames()]
    for first in range(0, len(samples), size):
        fields = {
            key: np.stack([s[key] for s in samples[first : first + size]]) for key in ("state", "image", "actions")
        }
        images = {"base_0_rgb": jnp.asarray(fields["image"], jnp.float32)}
        yield (
            Observation(images, jnp.asarray(fields["state"], jnp.float32)),
            jnp.asarray(fields["actions"], jnp.float32),
        )


def loss_fn(model, rng, observation, actions):
    return jnp.mean(model.compute_loss(rng, observation, actions, train=True))


def train_step(config, rng, state, batch):
    model = nnx.merge(state.model_def, state.params)
    model.train()
    loss, grads = nnx.value_and_grad(loss_fn)(model, jax.random.fold_in(rng, state.step), *batch)
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), {"loss": loss}


def main(config):
    model = config.model.create(jax.random.key(0))
    tx = config.optimizer.create(0.1, weight_decay_mask=None)
    params = nnx.state(model)
    state = TrainState(jnp.zeros([], jnp.int32), params, nnx.graphdef(model), tx.init(params), tx)
    step = jax.jit(functools.partial(train_step, config))
    for batch, _ in zip(batches(config), range(config.num_train_steps)):
        before = state.params
        state, info = step(jax.random.key(1), state, batch)
        LOG.append({"before": before, "batch": batch, "after": state.params, "loss": float(info["loss"])})
