"""What the loop hands to its steps, and what it refuses: losses that are not finite, checkpoints of another model."""

import contextlib
import functools
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import batch_of, linear_training

from gap_vla.adjustment.schedule import MODES, AdjustmentSchedule
from gap_vla.core.errors import UserError
from gap_vla.core.measurements import read_metrics
from gap_vla.core.run_directory import RunDirectory
from gap_vla.training import loop
from gap_vla.training.config import TrainConfig
from gap_vla.training.loop import DivergedError, Measured, Trainer, train
from gap_vla.training.mesh import make_mesh
from gap_vla.training.octo_trainer import OctoTrainer

LAMBDA_TO_THE_END = AdjustmentSchedule(mode="fixed", fixed_rho=0.0, window=1.0)


class Batches:
    """Endless batches; from number `bad` on the proprioception holds a NaN."""

    def __init__(self, bad=None):
        self.number, self.bad = 0, bad

    def __iter__(self):
        while True:
            batch = batch_of(seed=self.number)
            if self.bad is not None and self.number >= self.bad:
                batch["observation"]["proprio"][0, 0, 0] = np.nan
                batch["observation"]["timestep_pad_mask"][:] = True
            self.number += 1
            yield batch

    def state(self):
        return {"number": self.number}

    def restore(self, state):
        self.number = state["number"]


class Linear(OctoTrainer):
    """The linear policy in the loop; it comes from no configuration, and nothing is held out."""

    def __init__(self, schedule, steps, state, step, loader, layout):
        self.schedule, self.steps, self.state, self.loader = schedule, steps, state, loader
        self.config = SimpleNamespace(to_dict=dict, model=None)
        self.built = SimpleNamespace(packing=SimpleNamespace(identity=layout), inputs=lambda batch: batch)
        self.mesh, self._step, self._held_out = make_mesh(), step, []
        self._checkpoints, self._batches, self._compiled = None, None, False


@functools.cache
def compiled():
    return linear_training()


def run(folder, loader, steps=4, save_every=1, **options):
    begin, step, packing = compiled()
    state, again = jax.tree_util.tree_map(jnp.copy, begin), not hasattr(step.gradient, "lower")
    step = options.pop("watch", lambda step: step)(step)
    schedule, layout = options.pop("schedule", AdjustmentSchedule()), options.pop("layout", packing.identity)
    rhythm = TrainConfig(steps=steps, batch_size=8, log_every=2, validate_every=100, save_every=save_every)
    folder.mkdir(exist_ok=True)
    trainer = Linear(schedule, steps, state, step, loader, layout)
    trainer._compiled = again
    with contextlib.closing(trainer):
        train(trainer, rhythm, RunDirectory(folder))
    return trainer.state


class Watched:
    """A step that keeps the factors it was given."""

    def __init__(self, step):
        self.step, self.compile, self.factors = step, step.compile, []

    def __call__(self, state, batch, factors, split=False):
        self.factors.append((batch, factors))
        return self.step(state, batch, factors, split)


@pytest.mark.parametrize("schedule", [*(AdjustmentSchedule(mode) for mode in MODES), LAMBDA_TO_THE_END])
def test_every_step_gets_the_factors_of_its_own_number_and_batch(schedule, tmp_path):
    watched = []
    watch = lambda step: watched.append(Watched(step)) or watched[0]  # noqa: E731
    run(tmp_path, Batches(), steps=5, save_every=5, schedule=schedule, watch=watch)
    assert len(watched[0].factors) == 5
    for number, (batch, given) in enumerate(watched[0].factors):
        own = batch_of(seed=number)
        np.testing.assert_array_equal(batch["rho"], own["rho"])
        expected = schedule.factors(own["rho"], number, 5, own["observation"]["timestep_pad_mask"])
        np.testing.assert_array_equal(given.sample, expected.sample)
        assert (given.gradient, given.update) == (expected.gradient, expected.update)
        plain = (np.asarray(given.sample) == 1).all() and given.gradient == given.update == 1
        assert plain == (schedule.mode == "none" or (number >= 3 and schedule.window < 1)), number


def test_a_finished_training_that_is_measured_on_another_machine_keeps_what_was_measured(tmp_path, monkeypatch):
    returned = lambda **measured: _returned(tmp_path, monkeypatch, measured)  # noqa: E731
    first = returned(**{"val/action_mse": 0.5, "val/loss": 2.0})
    again = returned(**{"val/action_mse": 0.5001, "val/loss": 1.9999})  # where sums are rounded otherwise
    assert {name: again[name] for name in ("val/action_mse", "val/loss")} == {"val/action_mse": 0.5, "val/loss": 2.0}
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["val/loss"] == first["val/loss"]
    with pytest.raises(UserError, match=r"says val/action_mse 0.5 of step 4, where the saved state has 0.6; it is of"):
        returned(**{"val/action_mse": 0.6, "val/loss": 2.0})


def _returned(folder, monkeypatch, measured):
    found = []
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(Linear, "validate", lambda trainer: dict(measured))
    monkeypatch.setattr(f"{__name__}.train", lambda *given: found.append(loop.train(*given)))
    run(folder, Batches())
    return found[0]


def test_a_run_that_is_removed_during_a_validation_is_not_made_anew(tmp_path, monkeypatch):
    def removed(trainer):
        if int(trainer.state.step):
            (tmp_path / "run").rename(tmp_path / "moved")
        return {}

    monkeypatch.setattr(Linear, "validate", removed)
    with pytest.raises(UserError, match="run was renamed or removed meanwhile"):
        run(tmp_path / "run", Batches(), save_every=4)
    assert [*tmp_path.iterdir()] == [tmp_path / "moved"]


def test_a_nan_in_a_batch_stops_training_names_the_key_and_is_never_saved(tmp_path):
    with pytest.raises(DivergedError, match=r"at step 3; .*bad_batch\.npz \(not finite: observation/proprio\)"):
        run(tmp_path, Batches(bad=2))
    with np.load(tmp_path / "bad_batch.npz") as saved:
        assert np.isnan(saved["observation/proprio"]).sum() == 1
    assert max(int(path.name) for path in (tmp_path / "state").iterdir() if path.name.isdigit()) == 2


def test_a_training_that_begins_again_where_a_policy_lies_says_so(tmp_path, capsys):
    run(tmp_path, Batches())
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoint").mkdir()
    run(tmp_path, Batches())
    assert "holds no state" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "state")
    run(tmp_path, Batches())
    note = f"note: {tmp_path}/state holds no state, so that training begins again"
    assert note in capsys.readouterr().err
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "checkpoint").rmdir()
    measured = (tmp_path / "metrics.jsonl").read_bytes()
    run(tmp_path, Batches())
    assert note in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.glob("metrics-earlier-2.jsonl")] == [measured]
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "metrics.jsonl").write_bytes(measured.splitlines(keepends=True)[0])
    run(tmp_path, Batches())
    assert "note" not in capsys.readouterr().err and not (tmp_path / "metrics-earlier-3.jsonl").exists()


def test_metrics_hold_the_branches_and_their_parts_at_every_logging_step(tmp_path):
    run(tmp_path, Batches())
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    for branch in ("vision", "proprio"):
        for kind in ("grad_norm", "update_ratio"):
            assert all(
                row[f"train/{kind}/{branch}{part}"] > 0 for row in rows for part in ("", "/transition", "/consistent")
            )


def test_a_checkpoint_of_another_layout_is_not_resumed(tmp_path):
    run(tmp_path, Batches())
    with pytest.raises(ValueError, match="another order or of another model"):
        run(tmp_path, Batches(), steps=6, layout="another")


class Clocked(Trainer):
    """Its first step takes 100 s, in which it compiles if it does, and each of the others half a second."""

    def __init__(self, clock, steps, done, compiles):
        self.clock, self.steps, self.done, self.compiles, self.first = clock, steps, done, compiles, True

    on = dry_run = classmethod(lambda *_: None)
    describe = picture = export = lambda *_: None

    def restore(self, folder):
        return self.done

    def save(self, done):
        pass

    def batch(self, step):
        return {}

    def step(self, batch, step, measure):
        self.clock[0] += 100 if self.first else 0.5
        self.first = False
        return Measured(1.0, 1.0, lambda: {"train/loss": 1.0})

    def validate(self):
        return {"val/loss": 1.0}


@pytest.mark.parametrize("done", [0, 4])
def test_the_rate_leaves_out_the_step_that_compiled_also_where_a_run_is_resumed(done, tmp_path, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("gap_vla.core.progress.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def trained(compiles, steps):
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        rhythm = TrainConfig(steps=steps, log_every=1, validate_every=100, save_every=100)
        (tmp_path / "config.json").write_text("{}")
        found = train(Clocked(clock, steps, done, compiles), rhythm, RunDirectory(tmp_path))
        rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in row]
        assert [row["step"] for row in rows] == [*range(done + 1, steps + 1)]
        return found, [row.get("train/steps_per_second") for row in rows]

    found, rates = trained(True, done + 4)
    assert rates == [None, 2, 2, 2] and found["steps_per_second"] == 2
    said = capsys.readouterr().out
    assert "first step after" in said and f"{done + 4}/{done + 4} steps, 2.00 steps/s, 0 s left" in said
    found, rates = trained(True, done + 1)
    assert rates == [None] and "steps_per_second" not in found and "data_share" in found
    found, rates = trained(False, done + 1)
    assert rates == [0.01] and found["steps_per_second"] == 0.01
