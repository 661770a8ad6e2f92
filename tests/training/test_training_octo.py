"""Training Octo with and without GAP, killed and resumed: claims about parameters, bit for bit."""

import contextlib
import dataclasses
import shutil
import signal

import numpy as np
import pytest
from short_training import MODEL

from gap_vla.core.measurements import read_metrics
from gap_vla.core.run_directory import RunDirectory
from gap_vla.rlds import EpisodeStore
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import OctoTrainer
from gap_vla.training.run import rollouts


def assert_equal_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_killed_and_resumed_run_ends_with_identical_parameters(training):
    assert training.call("killed", 7, signal.SIGKILL, after="whole", method="vp_gap").status == -signal.SIGKILL
    metrics = training.root / "killed" / "metrics.jsonl"
    assert not (training.root / "killed" / "checkpoint").exists()
    training.run("killed", method="vp_gap")
    assert_equal_bits(training.parameters("whole"), training.parameters("killed"))
    steps = [row["step"] for row in read_metrics(metrics) if "train/loss" in row]
    assert steps == list(range(1, 13))


def test_gap_changes_neither_the_names_nor_the_forward_pass(training):
    training.run("whole", method="vp_gap")
    assert training.call("vp, begun", 0, signal.SIGKILL, method="vp").status == -signal.SIGKILL
    before = [read_metrics(training.root / run / "metrics.jsonl")[0] for run in ("vp, begun", "whole")]
    assert before[0] == before[1]  # held-out losses before the first step
    a, b = training.parameters("vp, begun"), training.parameters("whole")
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}


@pytest.mark.slow
def test_arithmetic_in_16_bits_and_activations_computed_again_train_nearly_the_same(training):
    def losses(run):
        return np.array([row["train/loss"] for row in read_metrics(run / "metrics.jsonl") if "train/loss" in row])

    exact = losses(training.run("whole", method="vp_gap"))
    short = {"steps": 12, "batch_size": 4, "log_every": 1, "validate_every": 6, "save_every": 4}
    coarse = losses(training.run("coarse", method="vp_gap", train={**short, "precision": "bfloat16"}))
    again = losses(training.run("again", method="vp_gap", train={**short, "remat": True}))
    np.testing.assert_allclose(again, exact, rtol=1e-4)
    np.testing.assert_allclose(coarse, exact, rtol=0.05)
    assert abs(coarse - exact).max() > 1e-4 * exact.max()
    assert {leaf.dtype for leaf in training.parameters("coarse").values()} == {np.dtype(np.float32)}


@pytest.fixture(scope="module")
def blind(store):
    """A vision policy before its first step."""
    settings = {"task": "threading", "method": "v", "model": MODEL, "train": {"steps": 2}, "eval": {"execute": 1}}
    with contextlib.closing(OctoTrainer.on(FinetuneConfig.from_dict(settings), EpisodeStore.open(store))) as trainer:
        yield trainer


def test_the_vision_policy_has_no_proprioceptive_parameter(blind, training):
    import jax

    training.run("whole", method="vp_gap")
    leaves = jax.tree_util.tree_flatten_with_path(blind.model().params)[0]
    assert not any("proprio" in jax.tree_util.keystr(path) for path, _ in leaves)
    assert any("proprio" in name for name in training.parameters("whole"))


def test_the_exported_checkpoint_holds_the_final_parameters_and_the_statistics(training, store):
    import jax

    from gap_vla.octo.model import OctoModel

    model = OctoModel.load_pretrained(training.run("whole", method="vp_gap") / "checkpoint")
    leaves = jax.tree_util.tree_flatten_with_path(model.params)[0]
    assert_equal_bits({jax.tree_util.keystr(p): np.asarray(v) for p, v in leaves}, training.parameters("whole"))
    np.testing.assert_allclose(
        model.dataset_statistics["action"]["mean"], EpisodeStore.open(store).statistics["action"]["mean"]
    )


def test_the_disk_that_is_counted_beforehand_is_what_states_and_checkpoint_take(training):
    def size(folder):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    run = training.run("whole", method="vp_gap")
    states, checkpoint = [size(folder) for folder in (run / "state").iterdir()], size(run / "checkpoint")
    config = FinetuneConfig.from_dict(RunDirectory(run).read_config())
    assert len(states) == 2 and config.train.steps == 3 * config.train.save_every
    written = max(1.5 * sum(states), sum(states) + checkpoint)  # the third is there before the first is taken away
    assert 0.6 * written < config.disk() < written
    once = dataclasses.replace(config, train=dataclasses.replace(config.train, save_every=config.train.steps))
    assert once.disk() < 0.7 * config.disk()


def test_the_step_that_a_run_exported_is_rolled_out_whatever_lies_beside_it(blind, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    step = blind.export(run)
    other = shutil.copytree(run.checkpoint / "2", run.checkpoint / "9")
    (other / "default" / "checkpoint").write_bytes(b"of another run")
    monkeypatch.setattr("gap_vla.rollouts.evaluate", lambda *_, **how: {})
    monkeypatch.setattr("gap_vla.report.evaluation_page.write_page", lambda *_: None)
    assert rollouts(blind.config, run, step)


@pytest.mark.slow
def test_ctrl_c_saves_the_last_whole_step(training):
    stopped = training.call("stopped", 1, signal.SIGINT, method="vp")
    assert stopped.status == 130 and "go on with --resume" in stopped.stderr
    training.run("vp", method="vp")
    training.run("stopped", method="vp")
    assert_equal_bits(training.parameters("vp"), training.parameters("stopped"))
