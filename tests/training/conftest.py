"""A small store of made-up demonstrations, and short trainings of both backends on it."""

import contextlib

import jax
import numpy as np
import pytest

from gap_vla.rlds.store import EpisodeStore, write_store
from gap_vla.training.loop import train
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run_directory import RunDirectory
from gap_vla.training.torch import SmallConfig
from tests.helpers.made_up_demos import made_up_episodes

RHYTHM = {"steps": 12, "batch_size": 4, "log_every": 1, "validate_every": 6, "save_every": 4}
OCTO = {
    "model": {
        "token_embedding_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "mlp_dim": 32,
        "stem_features": [32, 32],
        "window_size": 2,
        "action_horizon": 3,
    },
    "optimizer": {"warmup_steps": 2, "learning_rate": 1e-3},
    "train": RHYTHM,
    "eval": {"execute": 1},
}
SMALL = {
    "model": {"encoder_width": 8, "feature_dim": 16, "head_dim": 32, "action_horizon": 4, "proprio_history": 3},
    "optimizer": {"warmup_steps": 2, "learning_rate": 1e-2},
    "train": {**RHYTHM, "precision": "float32"},
}


def configured(backend, **sections):
    """A tiny experiment of a backend; `sections` are changed, as `train={"steps": 3}`."""
    kind, values = (FinetuneConfig, OCTO) if backend == "octo" else (SmallConfig, SMALL)
    merged = {
        key: {**values.get(key, {}), **part} if isinstance(part, dict) else part for key, part in sections.items()
    }
    return kind.from_dict({"task": "threading", "demos": {"image_size": 32}, **values, **merged})


def place_store(folder, **options):
    """Writes a store of six episodes, the fourth of which is held out."""
    folder.mkdir(parents=True)
    episodes = made_up_episodes(**options)
    held_out = [episodes.pop(3)]
    write_store(folder, {"train": episodes, "val": held_out}, source="made up", source_hash=f"dots {options}")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return place_store(tmp_path_factory.mktemp("dots") / "store")


def parameters(trainer):
    """By name, as numpy arrays."""
    if hasattr(trainer, "policy"):
        return {name: value.detach().numpy().copy() for name, value in trainer.policy.state_dict().items()}
    leaves = jax.tree_util.tree_flatten_with_path(trainer.model().params)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def trained(config, store, folder, observe=lambda *_: None):
    """Trains, or goes on, in a run's folder; returns the parameters."""
    run = RunDirectory.claim(folder, config.to_dict(), resume=True)
    with contextlib.closing(config.trainer().on(config, EpisodeStore.open(store))) as trainer:
        train(trainer, config.train, run, observe)
        trainer.export(run)
        return parameters(trainer)


@pytest.fixture(scope="session")
def whole(store, tmp_path_factory):
    """By backend and method, an uninterrupted training's folder and parameters."""
    made = {}

    def of(backend, **sections):
        key = f"{backend} {sections}"
        if key not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            made[key] = folder, trained(configured(backend, **sections), store, folder)
        return made[key]

    return of
