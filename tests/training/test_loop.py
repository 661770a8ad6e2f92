"""The loop that both backends share: rhythm, rate, observers, and losses that are not finite."""

import time

import numpy as np
import pytest

from gap_vla.training.config import TrainConfig
from gap_vla.training.loop import Measured, Trainer, train
from gap_vla.training.run_directory import DivergedError, RunDirectory, read_metrics


class Counting(Trainer):
    """Learns nothing; its first step takes a while if it compiles."""

    def __init__(self, steps=4, done=0, compiles=False, bad=None):
        self.steps, self.done, self.compiles, self.bad = steps, done, compiles, bad
        self.saved, self.first = [], True

    on = dry_run = classmethod(lambda *_: None)
    describe = picture = export = lambda *_: None

    def restore(self, folder):
        return self.done

    def save(self, done):
        self.saved.append(done)

    def batch(self, step):
        return {"state": np.full(3, np.nan if step == self.bad else 1.0)}

    def step(self, batch, step, measure):
        if self.compiles and self.first:
            time.sleep(0.3)
        self.first = False
        return Measured(batch["state"].sum(), 1.0, lambda: {"train/loss": 1.0})

    def validate(self):
        return {"val/loss": 1.0}


def run(trainer, folder, observe=lambda *_: None, **rhythm):
    rhythm = {"log_every": 1, "validate_every": 2, "save_every": 2, **rhythm}
    return train(trainer, TrainConfig(steps=trainer.steps, **rhythm), RunDirectory(folder), observe)


def test_it_logs_validates_and_saves_in_its_rhythm_and_at_the_end(tmp_path):
    trainer = Counting(steps=5)
    found = run(trainer, tmp_path, log_every=2)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == [2, 4, 5]
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 2, 4, 5]
    assert trainer.saved == [2, 4, 5] and found["val/loss"] == 1.0


def test_an_observer_sees_the_beginning_and_every_step_with_its_batch(tmp_path):
    seen = []
    run(Counting(steps=5, done=2), tmp_path, lambda trainer, done, batch: seen.append((done, batch is None)))
    assert seen == [(2, True), (3, False), (4, False), (5, False)]


@pytest.mark.parametrize("log_every", [1, 99])
def test_a_loss_that_is_not_finite_stops_training_and_is_never_saved(log_every, tmp_path):
    trainer = Counting(bad=2)
    with pytest.raises(DivergedError, match="step 3"):
        run(trainer, tmp_path, log_every=log_every)
    assert trainer.saved == [2]


@pytest.mark.parametrize("done", [0, 4])
def test_the_rate_leaves_out_the_step_that_compiled(done, tmp_path):
    run(Counting(steps=done + 4, done=done, compiles=True), tmp_path, save_every=99)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in row]
    assert "train/steps_per_second" not in rows[0]
    assert all(row["train/steps_per_second"] > 3 / 0.3 for row in rows[1:])
