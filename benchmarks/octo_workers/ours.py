"""Our Octo as a worker of `octo.py`: the training step and `sample_actions` that users get.

python benchmarks/octo_workers/ours.py CASE_FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from worker import draw, read_batch, serve

from gap_vla.adjustment.jax import match_group, scale_group_updates
from gap_vla.adjustment.schedule import Factors
from gap_vla.core.errors import ConfigError
from gap_vla.octo.blocks import Compute
from gap_vla.octo.language import embed_language
from gap_vla.octo.model import OctoModel
from gap_vla.octo.module import OctoModule
from gap_vla.octo.optimizer import create_optimizer, join_frozen, split_frozen
from gap_vla.octo.parameters import parameter_shapes
from gap_vla.training.packing import Packing
from gap_vla.training.step import TrainState, TrainStep


class Ours:
    """Compiles and runs our training step and `sample_actions` on one case.

    Args:
        options: `dtype`, `quick` (compilation), `embedded` (the language encoder runs once, beforehand) and `adjust`
            (False leaves GAP out of the program).
    """

    def __init__(self, folder: Path, options: dict[str, Any]):
        config = json.loads((folder / "config.json").read_text())
        batch = read_batch(folder)
        compute = Compute(dtype=jnp.dtype(options.get("dtype", "float32")).type)
        module = OctoModule.create(**config["model"], compute=compute)
        shapes = flax.traverse_util.flatten_dict(parameter_shapes(module, batch), sep="/")
        params = {path: jnp.asarray(draw(path, leaf.shape)) for path, leaf in shapes.items()}
        params = flax.traverse_util.unflatten_dict(params, sep="/")
        if options.get("embedded"):
            batch["task"] = embed_language(module, params, batch["task"])
        frozen = config["optimizer"].pop("frozen_keys")
        trainable, fixed = split_frozen(params, frozen)
        try:
            group = match_group(params)
        except ConfigError:  # a case without proprioception
            group = {}
        packing = Packing.of(trainable, group)
        tx, learning_rate = create_optimizer(
            **config["optimizer"],
            after_normalization=scale_group_updates(packing.group_labels, may_be_empty=True),
        )
        shape = batch["observation"]["timestep_pad_mask"].shape
        batch["rho"] = np.full(shape, 0.5, np.float32)
        self.factors = Factors(np.ones(shape, np.float32), np.float32(1), np.float32(1))
        self.packing, self.frozen = packing, fixed
        packed = jax.jit(packing.pack)(trainable)
        opt_state = jax.jit(tx.init)(packed)
        self.state = TrainState(packed, opt_state, jnp.zeros([], jnp.int32), jax.random.PRNGKey(0))
        self.batch, self.example = batch, {key: batch[key] for key in ("observation", "task")}
        adjust, quick = options.get("adjust", True), bool(options.get("quick"))
        self.train_step = TrainStep(module, tx, packing, learning_rate, fixed, adjust=adjust, quick=quick)
        self.module, self.config = module, config
        self._key = jax.random.PRNGKey(1)

    def ready(self) -> list[str]:
        return [jax.__version__, flax.__version__, jax.default_backend()]

    def compile_step(self) -> None:
        step, state = self.train_step, self.state
        gradient = step.gradient.lower(state.params, step.frozen, self.batch, self.factors.sample, state.rng)
        step.update = step.update.lower(state, gradient.out_info[0], self.factors).compile()
        step.gradient = gradient.compile()

    def step(self) -> float:
        self.state, measured = self.train_step(self.state, self.batch, self.factors)
        jax.block_until_ready(self.state)
        return float(measured["loss"])

    def compile_sample(self) -> None:
        self.params = join_frozen(self.packing.unpack(self.state.params), self.frozen)
        self.sample()

    def sample(self) -> list[float]:
        model = OctoModel(self.module, None, self.config, self.params, self.example, None)
        actions = model.sample_actions(self.batch["observation"], self.batch["task"], rng=self._key)
        return np.asarray(actions).ravel()[:3].tolist()


if __name__ == "__main__":
    # Upstream's random bits, so that both draw the same noise and their losses can be compared.
    jax.config.update("jax_threefry_partitionable", False)
    case = Path(sys.argv[1]).absolute()
    os.chdir(case)  # the configuration names its language encoder by a relative path
    serve(Ours(case, {}))
