"""Upstream's Octo as a worker of `octo.py --upstream`; runs in an environment with upstream's pins (docs/OCTO.md).

    UPSTREAM/bin/python benchmarks/octo_workers/upstream.py CASE_FOLDER

The step is that of upstream's `scripts/finetune.py`, the optimizer its `create_optimizer`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from transformers import AutoConfig, FlaxAutoModel, FlaxT5EncoderModel  # noqa: F401  (before what follows)

ABSENT = ("tensorflow", "tensorflow_hub", "tensorflow_text", "dlimp")  # only upstream's data pipeline needs them
for name in ABSENT:
    sys.modules[name] = MagicMock()

# ruff: noqa: E402
import flax
import jax
import numpy as np
import optax
from octo.model.octo_model import OctoModel
from octo.model.octo_module import OctoModule
from octo.utils.train_utils import TrainState, create_optimizer
from worker import draw, read_batch, serve

for name in ABSENT:
    del sys.modules[name]  # einops looks for them


class Upstream:
    """Compiles and runs upstream's training step and `sample_actions` on one case."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        self.batch = read_batch(folder)
        module = OctoModule.create(**config["model"])
        example = {key: self.batch[key] for key in ("observation", "task")}
        mask = example["observation"]["timestep_pad_mask"]
        init = lambda key: module.init(  # noqa: E731
            {"params": key, "dropout": key}, example["observation"], example["task"], mask, train=False
        )
        shapes = jax.eval_shape(init, jax.random.PRNGKey(0))["params"]
        flat = flax.traverse_util.flatten_dict(shapes, sep="/")
        params = {path: jax.numpy.asarray(draw(path, leaf.shape)) for path, leaf in flat.items()}
        params = flax.traverse_util.unflatten_dict(params, sep="/")
        tx, lr_callable, param_norm_callable = create_optimizer(params, **config["optimizer"])
        model = OctoModel(module, None, config, params, example, None)
        self.state = TrainState.create(jax.random.PRNGKey(0), model, tx)

        def loss_fn(params: Any, batch: Any, rng: Any, train: bool = True) -> Any:
            bound = module.bind({"params": params}, rngs={"dropout": rng})
            pad = batch["observation"]["timestep_pad_mask"]
            outputs = bound.octo_transformer(batch["observation"], batch["task"], pad, train=train)
            return bound.heads["action"].loss(outputs, batch["action"], pad, batch["action_pad_mask"], train=train)

        def step(state: Any, batch: Any) -> Any:
            rng, dropout_rng = jax.random.split(state.rng)
            gradient = jax.value_and_grad(loss_fn, has_aux=True)
            (_, info), grads = gradient(state.model.params, batch, dropout_rng, train=True)
            updates, _ = state.tx.update(grads, state.opt_state, state.model.params)
            info["grad_norm"], info["update_norm"] = optax.global_norm(grads), optax.global_norm(updates)
            info["param_norm"] = param_norm_callable(state.model.params)
            info["learning_rate"] = lr_callable(state.step)
            return state.apply_gradients(grads=grads, rng=rng), info

        self._step = jax.jit(step)
        self._key = jax.random.PRNGKey(1)

    def ready(self) -> list[str]:
        return [jax.__version__, flax.__version__, jax.default_backend()]

    def compile_step(self) -> None:
        self._compiled = self._step.lower(self.state, self.batch).compile()

    def step(self) -> float:
        self.state, info = self._compiled(self.state, self.batch)
        return float(info["loss"])

    def compile_sample(self) -> None:
        self.sample()

    def sample(self) -> list[float]:
        model = self.state.model
        actions = model.sample_actions(self.batch["observation"], self.batch["task"], rng=self._key)
        return np.asarray(actions).ravel()[:3].tolist()


if __name__ == "__main__":
    case = Path(sys.argv[1]).absolute()
    os.chdir(case)  # the configuration names its language encoder by a relative path
    serve(Upstream(case))
