"""What a policy needs shows when the other branch is silenced."""

from types import SimpleNamespace

import pytest
import torch

from experiments.looks.probing import _branch_losses, losses_by_branch
from gap_vla.report.runs import Run


class Weighing:
    """Predicts `vision_weight` times what it sees plus the rest times what it feels; both say the right action."""

    def __init__(self, vision_weight):
        self._weight, self.head = vision_weight, self

    def branch_features(self, batch):
        return batch["seen"], batch["felt"]

    def embed(self, vision, proprio):
        return self._weight * vision + (1 - self._weight) * proprio

    def loss(self, feature, action, generator):
        return (feature - action) ** 2


def batches(count=4, size=500):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        action = torch.randn(size, 1, generator=generator)
        near = torch.arange(size) % 5 == 0
        mask = torch.ones(size, 1, dtype=torch.bool)
        felt = torch.where(near[:, None], torch.zeros(size, 1), action)  # nothing is felt near them
        distance = torch.where(near, 1.0, 20.0)
        yield {"seen": action, "felt": felt, "action": action, "action_pad_mask": mask, "change_distance": distance}


def test_a_policy_that_only_looks_loses_nothing_without_proprioception():
    found = losses_by_branch(Weighing(1.0), batches())
    assert found["both"]["all"] == 0 and found["vision"]["all"] == 0
    assert found["proprio"]["all"] == pytest.approx(1.0, abs=0.2), "the actions' variance"


def test_a_policy_that_only_feels_errs_where_nothing_is_felt():
    found = losses_by_branch(Weighing(0.0), batches())
    assert found["both"]["elsewhere"] == 0 and found["both"]["near change points"] == pytest.approx(1.0, abs=0.25)
    assert found["proprio"] == found["both"] and found["vision"]["elsewhere"] > 0.7
    share = found["both"]["all"] / found["both"]["near change points"]
    assert share == pytest.approx(0.2), "a fifth of the windows are near change points"


def test_on_other_data_than_a_policy_was_trained_on_nothing_is_measured(tmp_path, monkeypatch, capsys):
    (tmp_path / "store.json").write_text("{}")
    monkeypatch.setattr("gap_vla.rlds.EpisodeStore.open", lambda directory: SimpleNamespace(source_hash="4567"))
    policy = SimpleNamespace(uses_vision=True, uses_proprio=True)
    dataset = {"store": str(tmp_path), "hash": "0123"}
    assert _branch_losses(policy, Run(tmp_path, {}, {"dataset": dataset}, {}, {})) is None
    assert f"{tmp_path} holds dataset 4567" in capsys.readouterr().err


def test_padded_actions_do_not_count():
    some = list(batches(1))
    some[0]["action_pad_mask"][::2] = False
    some[0]["action"][::2] += 100
    assert losses_by_branch(Weighing(1.0), some)["both"]["all"] == 0
