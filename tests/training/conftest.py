"""A small real dataset of made-up demonstrations, and short trainings on it in processes of their own."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_demos import made_up_episodes
from runner import Outcome, Runner

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    from gap_vla.rlds import EpisodeStore, write_rlds

    root = tmp_path_factory.mktemp("dots")
    version = write_rlds(made_up_episodes(), root, "dots", val_fraction=0.2, annotator={}, identity={"made": "up"})
    EpisodeStore.build(version, root / "store")
    return root / "store"


class Training:
    """Calls `short_training.py`."""

    def __init__(self, runner: Runner, store: Path, root: Path):
        self.runner, self.store, self.root = runner, store, root
        self._finished: set[str] = set()

    def call(self, name: str, *stop: int, after: str = "", **settings) -> Outcome:
        """A training that goes on where this name was stopped; `stop` is a number of steps, all in all, and a signal.

        The same process has finished `after` before, the same training of another name.
        """
        arguments = [str(self.store), str(self.root / name), json.dumps(settings), *map(str, stop)]
        arguments += [str(self.root / after)] if after else []
        outcome = self.runner.run(HERE / "short_training.py", arguments, self.root, limit=900)
        if after and (self.root / after / "parameters.npz").exists():
            self._finished.add(after)
        return outcome

    def run(self, name: str, **settings) -> Path:
        """The run directory of a finished training; the same name is trained once."""
        if name not in self._finished:
            outcome = self.call(name, **settings)
            assert outcome.status == 0, outcome.stdout + outcome.stderr
            self._finished.add(name)
        return self.root / name

    def parameters(self, name: str) -> dict[str, np.ndarray]:
        return dict(np.load(self.root / name / "parameters.npz"))


@pytest.fixture(scope="session")
def training(runner, store, tmp_path_factory) -> Training:
    return Training(runner, store, tmp_path_factory.mktemp("runs"))
