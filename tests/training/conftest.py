"""A small real dataset of made-up demonstrations, and short trainings on it in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_demos import made_up_episodes

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    from gap_vla.rlds import EpisodeStore, write_rlds

    root = tmp_path_factory.mktemp("dots")
    version = write_rlds(made_up_episodes(), root, "dots", val_fraction=0.2, annotator={}, identity={"made": "up"})
    EpisodeStore.build(version, root / "store")
    return root / "store"


class Training:
    """Starts `short_training.py`; all runs share one cache of compiled programs."""

    def __init__(self, store: Path, root: Path):
        self.store, self.root = store, root
        self._environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self._finished: dict[str, Path] = {}

    def start(self, name: str, **settings) -> subprocess.Popen:
        command = [sys.executable, HERE / "short_training.py", self.store, self.root / name, json.dumps(settings)]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, name: str, **settings) -> Path:
        """The run directory of a finished training; the same name is trained once."""
        if name not in self._finished:
            process = self.start(name, **settings)
            output, _ = process.communicate(timeout=900)
            assert process.returncode == 0, output
            self._finished[name] = self.root / name
        return self._finished[name]

    def parameters(self, name: str) -> dict[str, np.ndarray]:
        return dict(np.load(self.root / name / "parameters.npz"))


@pytest.fixture(scope="session")
def training(store, tmp_path_factory) -> Training:
    return Training(store, tmp_path_factory.mktemp("runs"))
