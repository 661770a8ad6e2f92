"""A short training in a process of its own: `python short_training.py STORE RUN_DIRECTORY SETTINGS_AS_JSON [STOP]`.

STOP is `STEP SIGNAL [WHOLE]`: the process writes its parameters and sends itself this signal after that many steps, at
one moment on every machine; before, it finishes the same training in the run directory WHOLE, with the same compiled
step.
"""

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gap_vla.core.run_directory import RunDirectory
from gap_vla.rlds import EpisodeStore
from gap_vla.training.data import make_loader
from gap_vla.training.loop import train
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import OctoTrainer
from gap_vla.training.stages import open_mixture, stages_of

MODEL = {
    "token_embedding_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 32,
    "stem_features": [32, 32],
    "window_size": 2,
    "action_horizon": 3,
}
TRAIN = {"steps": 12, "batch_size": 4, "log_every": 1, "validate_every": 6, "save_every": 4}


def main(store: str, directory: str, settings: dict, stop: list[str]) -> None:
    values = {"task": "threading", "model": MODEL, "train": TRAIN, "eval": {"execute": 1}}
    values["optimizer"] = {"warmup_steps": 2, "learning_rate": 1e-3}
    config = FinetuneConfig.from_dict(values | settings)
    episodes = EpisodeStore.open(store)
    mixture = open_mixture(stages_of(config)) if config.data.mixture else []
    trainer = OctoTrainer.on(config, episodes, mixture)
    if stop[2:]:
        whole, trainer = trainer, another(trainer, make_loader(config, episodes, "train", train=True, mixture=mixture))
        finish(whole, stop[2])
    if stop:
        stop_after(trainer, directory, *map(int, stop[:2]))
    finish(trainer, directory)


def another(trainer: OctoTrainer, loader) -> OctoTrainer:
    """One that begins where `trainer` begins, once that one has finished, and shares what it has compiled."""
    fresh = dataclasses.replace(trainer.built, state=jax.tree.map(jnp.copy, trainer.state))
    made = OctoTrainer(trainer.config, fresh, loader, trainer._held_out)
    made._step, made._validation_step, made._compiled = trainer._step, trainer._validation_step, True
    return made


def finish(trainer: OctoTrainer, directory: str) -> None:
    config = trainer.config
    run = RunDirectory.claim(directory, config.to_dict(), resume=True)
    with contextlib.closing(trainer):
        train(trainer, config.train, run)
        trainer.export(run)
    write_parameters(trainer, directory)


def write_parameters(trainer: OctoTrainer, directory: str) -> None:
    leaves = jax.tree_util.tree_flatten_with_path(trainer.model().params)[0]
    np.savez(Path(directory) / "parameters.npz", **{jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in leaves})


def stop_after(trainer: OctoTrainer, directory: str, steps: int, signal: int) -> None:
    whole = trainer.step

    def step(batch, number, measure):
        if number == steps:
            write_parameters(trainer, directory)
            os.kill(os.getpid(), signal)
        return whole(batch, number, measure)

    trainer.step = step


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:])
