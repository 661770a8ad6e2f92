"""One small dataset and its store, shared by this folder's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gap_vla.core.episode import Episode
from gap_vla.rlds.convert import write_rlds
from gap_vla.rlds.store import EpisodeStore
from tests.helpers.demonstrations import make_episode


@pytest.fixture(scope="session")
def episodes() -> list[Episode]:
    return [make_episode(i) for i in range(10)]


@pytest.fixture(scope="session")
def version_dir(episodes: list[Episode], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("rlds")
    return write_rlds(episodes, home, "toy", val_fraction=0.2)


@pytest.fixture(scope="session")
def store(version_dir: Path) -> EpisodeStore:
    return EpisodeStore.build(version_dir)
