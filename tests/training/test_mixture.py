"""Training on a mixture of datasets: their shares, and ρ and statistics of each."""

import contextlib
import json

import numpy as np
import pytest

from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import EpisodeStore, write_store
from gap_vla.training.octo_trainer import LOSSES, OctoTrainer, make_loader
from gap_vla.training.run import TrainingRun
from gap_vla.training.run_directory import RunDirectory
from tests.helpers.made_up_demos import made_up_episodes
from tests.training.conftest import configured


def mixed(weight=0.5, **sections):
    """A configuration with a further dataset; where that lies does not matter here."""
    return configured("octo", data={"mixture": [["others", weight]]}, train={"batch_size": 30}, **sections)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A store without a split `val`, whose actions and states are others, and whose ρ is 0.75 at every step."""
    folder = tmp_path_factory.mktemp("others") / "store"
    folder.mkdir()
    made = [
        e.replace(action=e.action * 3, proprio=e.proprio + 1, rho=np.full(len(e), 0.75, np.float32))
        for e in made_up_episodes(seed=1)
    ]
    write_store(folder, {"train": made}, source="others", source_hash="others")
    return folder


@pytest.fixture(scope="module")
def batch(store, other):
    """300 windows."""
    stores = EpisodeStore.open(store), EpisodeStore.open(other)
    loader = make_loader(mixed(), stores[0], "train", train=True, mixture=stores[1:])
    batches = [next(loader) for _ in range(10)]
    return {key: np.concatenate([one[key] for one in batches]) for key in ("rho", "action")}


def test_the_weights_are_shares_of_the_windows(batch):
    assert abs((batch["rho"] == 0.75).all(1).sum() - 100) <= 1  # 0.5 of 1 + 0.5


def test_windows_have_the_rho_and_the_statistics_of_their_own_dataset(batch, store, other):
    second = (batch["rho"] == 0.75).any(1)
    for folder, mine in zip((store, other), (~second, second)):
        opened = EpisodeStore.open(folder)
        fields = opened.split("train").fields
        assert mine.any() and np.isin(batch["rho"][mine], fields["rho"]).all()
        actions = normalize(np.asarray(fields["action"]), opened.statistics["action"], "normal")
        assert all((actions == action).all(1).any() for action in batch["action"][mine, -1, 0])


def test_a_checkpoint_has_the_statistics_of_the_main_dataset(store, other, tmp_path):
    main, others = EpisodeStore.open(store), EpisodeStore.open(other)
    with contextlib.closing(OctoTrainer.on(mixed(), main, [others])) as trainer:
        trainer.export(RunDirectory(tmp_path))
        measured = trainer.validate()  # held-out windows are of the main dataset
    assert set(LOSSES) <= measured.keys()
    exported = json.loads((tmp_path / "checkpoint" / "dataset_statistics.json").read_text())
    np.testing.assert_allclose(exported["action"]["mean"], main.statistics["action"]["mean"])
    assert not np.allclose(exported["action"]["mean"], others.statistics["action"]["mean"])


def test_a_mixture_and_its_weights_name_the_run(tmp_path):
    for name in ("others", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_info.json").write_text("{}")
    paths = [[[str(tmp_path / "others"), 0.5]], [[str(tmp_path / "others"), 2.0]], [[str(tmp_path / "more"), 0.5]], []]
    names = {TrainingRun(configured("octo", data={"mixture": mixture})).directory.path.name for mixture in paths}
    assert len(names) == 4
