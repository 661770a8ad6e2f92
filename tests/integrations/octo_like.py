"""What test_octo.py trains in the place of upstream Octo's `scripts/finetune.py` at 241fb35, whose names, arguments and
order of calls it has, around the Octo of this repository. Its dataset is an array, in upstream's steps.
"""

import functools
import importlib
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import optax
import tensorflow as tf
from flax import struct

from gap_vla.octo.model import OctoModel
from gap_vla.octo.presets import small_config

STEPS, HORIZON = 15, 2
RHO = np.linspace(0, 1, STEPS, dtype=np.float32)
LOG: list[dict[str, Any]] = []
"""What `main` saw: of every step the parameters before it, the batch, the loss, and the parameters after it."""

FLAGS = SimpleNamespace(
    config=SimpleNamespace(
        num_steps=4,
        batch_size=3,
        dataset_kwargs={
            "standardize_fn": {"module": __name__, "name": "closing_is_positive", "args": (), "kwargs": {}},
            "action_normalization_mask": [True] * 6 + [False],
        },
        traj_transform_kwargs={"action_horizon": HORIZON},
        optimizer={"learning_rate": 0.1},
    )
)


def closing_is_positive(trajectory):
    action = trajectory["action"]
    return {
        "observation": trajectory["observation"],
        "action": tf.concat([action[:, :6], tf.sign(action[:, 6:])], 1),
    }


def recording():
    rng = np.random.default_rng(0)
    observation = {
        "image_primary": rng.integers(0, 256, (STEPS, 8, 8, 3), dtype=np.uint8),
        "proprio": rng.normal(size=(STEPS, 5)).astype(np.float32),
    }
    return {"observation": observation, "action": rng.normal(size=(STEPS, 7)).astype(np.float32), "rho": RHO}


def instantiate(spec):
    function = getattr(importlib.import_module(spec["module"]), spec["name"])
    return functools.partial(function, *spec["args"], **spec["kwargs"])


class Dataset:
    def __init__(self, trajectory, statistics):
        self.trajectory, self.dataset_statistics = jax.tree.map(np.asarray, trajectory), statistics

    def batches(self, size):
        for first in range(0, STEPS, size):
            yield jax.tree.map(lambda rows, first=first: rows[first : first + size], self.trajectory)


def make_single_dataset(dataset_kwargs, *, train, traj_transform_kwargs=None, frame_transform_kwargs=None):
    trajectory = instantiate(dataset_kwargs["standardize_fn"])(recording())
    action, observation = np.asarray(trajectory["action"]), trajectory["observation"]  # all else is dropped
    mask, mean, std = np.array(dataset_kwargs["action_normalization_mask"]), action.mean(0), action.std(0)
    action = np.where(mask, (action - mean) / std, action)
    ahead = np.minimum(np.arange(STEPS)[:, None] + np.arange(traj_transform_kwargs["action_horizon"]), STEPS - 1)
    observation = {name: value[:, None] for name, value in observation.items()}
    own = {**observation, "timestep": np.arange(STEPS, dtype=np.int32)[:, None]}
    own["pad_mask_dict"] = {name: np.ones((STEPS, 1), bool) for name in own}
    own["timestep_pad_mask"] = np.ones((STEPS, 1), bool)
    chunks = action[ahead][:, None].astype(np.float32)
    trajectory = {
        "observation": own,
        "task": {"pad_mask_dict": {}, "language_instruction": np.array([b"thread"] * STEPS)},
        "action": chunks,
        "action_pad_mask": np.ones(chunks.shape, bool),
    }
    for spec in traj_transform_kwargs.get("post_chunk_transforms", ()):
        trajectory = instantiate(spec)(trajectory)
    return Dataset(trajectory, {"action": {"mean": mean, "std": std}})


def process_text(batch, text_processor):
    batch["task"].pop("language_instruction")
    return batch


def create_optimizer(params, **kwargs):
    rate = kwargs["learning_rate"]
    return optax.sgd(rate), lambda _: rate, optax.global_norm


@struct.dataclass
class TrainState:
    rng: Any
    params: Any
    opt_state: Any
    tx: Any = struct.field(pytree_node=False)


def loss_of(module, params, batch, rng):
    mask = batch["observation"]["timestep_pad_mask"]
    bound = module.bind({"params": params}, rngs={"dropout": rng})
    embeddings = bound.octo_transformer(batch["observation"], batch["task"], mask, train=False)
    head = bound.heads["action"]
    return head.loss(embeddings, batch["action"], mask, batch["action_pad_mask"], train=False)


def main(_):
    config = small_config(
        image_size=8, proprio_dim=5, token_embedding_size=32, num_layers=1, stem_features=(32,), action_horizon=HORIZON
    )

    def process_batch(batch):
        return process_text(batch, None)

    dataset = make_single_dataset(
        FLAGS.config.dataset_kwargs,
        traj_transform_kwargs=FLAGS.config.traj_transform_kwargs,
        frame_transform_kwargs={},
        train=True,
    )
    train_data_iter = map(process_batch, dataset.batches(FLAGS.config.batch_size))
    example_batch = next(train_data_iter)
    model = OctoModel.from_config(
        config, example_batch, None, rng=jax.random.PRNGKey(0), dataset_statistics=dataset.dataset_statistics
    )
    tx, *_ = create_optimizer(model.params, **FLAGS.config.optimizer)

    def loss_fn(params, batch, rng, train=True):
        return loss_of(model.module, params, batch, rng)

    @jax.jit
    def train_step(state, batch):
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, state.rng, train=True)
        updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
        return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state), loss

    state = TrainState(jax.random.PRNGKey(1), model.params, tx.init(model.params), tx)
    for _ in range(FLAGS.config.num_steps):
        batch, before = next(train_data_iter), state.params
        state, loss = train_step(state, batch)
        LOG.append({"before": before, "batch": batch, "after": state.params, "loss": float(loss), "model": model})
