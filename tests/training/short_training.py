"""A short training in a process of its own: `python short_training.py STORE RUN_DIRECTORY SETTINGS_AS_JSON`."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from gap_vla.rlds import EpisodeStore
from gap_vla.training.config import FinetuneConfig
from gap_vla.training.data import make_loader
from gap_vla.training.octo import build, fine_tune
from gap_vla.training.run_directory import RunDirectory

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


def main(store: str, directory: str, settings: dict) -> None:
    values = {"task": "threading", "model": MODEL, "train": TRAIN, "eval": {"execute": 1}}
    values["optimizer"] = {"warmup_steps": 2, "learning_rate": 1e-3}
    config = FinetuneConfig.from_dict(values | settings)
    episodes = EpisodeStore.open(store)
    loader = make_loader(config, episodes, "train", train=True)
    trainer = build(config, loader.peek(), episodes.statistics)
    run = RunDirectory.claim(directory, config.to_dict(), resume=True)
    model, _ = fine_tune(config, trainer, loader, make_loader(config, episodes, "val", train=False), run)
    leaves = jax.tree_util.tree_flatten_with_path(model.params)[0]
    np.savez(Path(directory) / "parameters.npz", **{jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in leaves})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
