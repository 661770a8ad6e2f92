"""Small policies train: every method learns, GAP changes gradients only, a killed run ends as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from gap_vla.report.sections import runs_section
from toy_store import episode, place_store, toy_config, write_store

from gap_vla.cli.configured import load_config
from gap_vla.core.errors import UserError
from gap_vla.core.measurements import read_metrics
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies import METHODS, build_policy, method_of
from gap_vla.policies.windows import SmallWindows, rho_of
from gap_vla.report.runs import ReportError
from gap_vla.report.runs import Run as FinishedRun
from gap_vla.rlds import EpisodeStore
from gap_vla.rlds.statistics import normalize
from gap_vla.serving.loading import load_checkpoint
from gap_vla.training import hosts
from gap_vla.training.loop import DivergedError, train
from gap_vla.training.run import Run, finetune
from gap_vla.training.torch import SmallConfig
from gap_vla.training.torch_trainer import SmallTrainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    return write_store(tmp_path_factory.mktemp("toy") / "store")


def made(config, store, steps=12):
    """Trainer and training windows, as `train_small` makes them."""
    torch.manual_seed(config.train.seed)
    method, rho = method_of(config.method), rho_of(config, store)
    windows = SmallWindows(config, store, "train", rho["train"], vision=method.vision, proprio=method.proprio)
    policy = build_policy(config.model, config.method, (32, 32, 3), 9, 7)
    return SmallTrainer(config, policy, steps, windows, windows), windows


def trained(config, store, steps=6):
    trainer, windows = made(config, store)
    for step in range(steps):
        trainer.step(windows.batch(step), step)
    return trainer.policy.state_dict()


def action_loss(trainer, windows):
    with torch.no_grad():
        batch = windows.gather(np.arange(0, len(windows), 3))
        feature = trainer.policy.embed(*trainer.policy.branch_features(batch))
        return float(trainer.policy.head.loss(feature, batch["action"], trainer.generator(0)).mean())


SAME_CODE = ("rho_only_gaussian", "fixed_rho", "gap_shuffled", "gap_change_points", "gap_hdbscan", "gap_cotpc")
"""Methods that differ from a quick one in a setting or in where their ρ comes from alone."""


@pytest.mark.parametrize("method", [pytest.param(n, marks=[pytest.mark.slow] * (n in SAME_CODE)) for n in METHODS])
def test_every_method_learns_on_a_toy_set(method, store, tmp_path):
    trainer, windows = made(toy_config(tmp_path, method), store, steps=40)
    before = action_loss(trainer, windows)
    for step in range(25):
        trainer.step(windows.batch(step), step)
    assert action_loss(trainer, windows) < 0.95 * before


@pytest.mark.parametrize("changes", [{}, {"model": dict(fusion="attention")}, {"model": dict(head="diffusion")}])
def test_gap_with_rho_zero_and_lambda_one_is_concat_to_the_bit(changes, store, tmp_path):
    concat = trained(toy_config(tmp_path, "concat", **changes), store)
    gap = trained(toy_config(tmp_path, "lambda_only", adjustment=dict(lam=1.0, rho="current"), **changes), store)
    assert concat.keys() == gap.keys()
    assert all(torch.equal(concat[name], gap[name]) for name in concat)


@pytest.mark.parametrize("method", ["rho_only", "lambda_only"])
def test_rho_alone_and_lambda_alone_change_the_proprioceptive_branch_and_nothing_else(method, store, tmp_path):
    unclipped = dict(optimizer=dict(learning_rate=3e-3, warmup_steps=2, clip_gradient=1e9))
    concat = trained(toy_config(tmp_path, "concat", **unclipped), store, steps=1)
    adjusted = trained(toy_config(tmp_path, method, **unclipped), store, steps=1)
    changed = {name.split(".")[0] for name in concat if not torch.equal(concat[name], adjusted[name])}
    assert changed == {"proprio_encoder"}


def test_forward_is_identical_with_and_without_gap(store, tmp_path):
    config = toy_config(tmp_path, "gap")
    trainer, windows = made(config, store)
    batch = windows.batch(0)
    plain = build_policy(config.model, "concat", (32, 32, 3), 9, 7)
    plain.load_state_dict(trainer.policy.state_dict())
    with trainer.adjustment.adjusting(batch["rho"], 0):
        adjusted = trainer.policy(batch)
    assert torch.equal(adjusted, plain(batch))


def test_after_the_window_gap_is_concat(store, tmp_path):
    config = toy_config(tmp_path, "gap", adjustment=dict(window=0.0, rho="current"))
    gap, concat = trained(config, store), trained(toy_config(tmp_path, "concat"), store)
    assert all(torch.equal(concat[name], gap[name]) for name in concat)


def test_measuring_the_branches_does_not_change_the_step(store, tmp_path):
    config = toy_config(tmp_path, "gap")
    plain = trained(config, store)
    trainer, windows = made(config, store)
    for step in range(6):
        measured = trainer.step(windows.batch(step), step, measure=True).values()
    assert all(torch.equal(plain[name], value) for name, value in trainer.policy.state_dict().items())
    assert {"branch/vision_gradient", "branch/proprio_gradient", "branch/vision_loss_consistent"} <= measured.keys()
    assert measured["branch/proprio_signal_transition"] > 0


@pytest.mark.parametrize("method", ["concat", "lambda_only", "gap_change_points"])
def test_transitions_are_those_of_the_dataset_whatever_the_method_trains_with(method, store, tmp_path):
    config = toy_config(tmp_path, method)
    windows = SmallWindows(config, store, "train", rho_of(config, store)["train"])
    everything = windows.gather(np.arange(len(windows)))
    assert everything["transition"].tolist() == (store.split("train").fields["rho"] > 0.5).tolist()


def test_every_window_comes_once_per_epoch_in_an_order_of_the_seed(store, tmp_path):
    config = toy_config(tmp_path, train=dict(batch_size=18, seed=3))
    windows = SmallWindows(config, store, "train", np.zeros(len(store.split("train").fields["rho"])))
    seen = np.concatenate([windows._numbers(step) for step in range(len(windows) // 18)])
    assert sorted(seen) == list(range(len(windows)))
    other = SmallWindows(toy_config(tmp_path, train=dict(seed=4)), store, "train", windows.rho)
    assert not np.array_equal(windows.batch(0)["action"][:16], other.batch(0)["action"])


def test_a_window_shows_its_own_history_and_never_the_episode_before(store, tmp_path):
    config = toy_config(tmp_path, model=dict(image_history=2))
    windows = SmallWindows(config, store, "train", store.split("train").fields["rho"])
    batch = windows.gather(np.array([24, 30]))  # the first and the seventh step of the second episode
    images, second = store.split("train").fields["image_primary"], 24
    assert np.array_equal(batch["image_primary"][0], images[[second, second]])
    assert np.array_equal(batch["image_primary"][1], images[[29, 30]])
    assert batch["rho"][1].tolist() == store.split("train").fields["rho"][28:31].tolist()


@pytest.mark.parametrize(("images", "states"), [(5, 1), (1, 3), (3, 3)])
def test_the_picture_of_the_first_batch_has_the_rho_of_each_frame_and_darkens_padding(images, states, store, tmp_path):
    config = toy_config(tmp_path, model=dict(image_history=images, proprio_history=states), train=dict(batch_size=48))
    trainer, windows = made(config, store)
    shown, rho = trainer.picture(), store.split("train").fields["rho"]
    steps = windows.batch(0)["window"].numpy()[:, None] + np.arange(1 - images, 1)
    there = steps // 24 == steps[:, -1:] // 24  # episodes are 24 steps long
    assert np.array_equal(shown["observation"]["timestep_pad_mask"], there) and there.all() == (images == 1)
    assert np.array_equal(shown["rho"], rho[np.where(there, steps, steps[:, -1:] // 24 * 24)])


def test_pictures_of_other_episodes_leave_everything_else_alone(store, tmp_path):
    plain, shuffled = toy_config(tmp_path), toy_config(tmp_path, data=dict(shuffle_images=True))
    rho = store.split("train").fields["rho"]
    one, other = (SmallWindows(c, store, "train", rho).batch(0) for c in (plain, shuffled))
    assert torch.equal(one["proprio"], other["proprio"])
    assert not torch.equal(one["image_primary"], other["image_primary"])


def test_augmentation_changes_pictures_alone_and_follows_from_seed_and_step(store, tmp_path):
    augment = {"cameras": ["primary"], "primary": {"brightness": 0.3}}
    configs = [toy_config(tmp_path, "concat", data=data) for data in ({}, {"augment": augment})]
    plain, changed = (made(config, store)[1] for config in configs)
    again = made(configs[1], store)[1].batch(5)
    for step in (0, 5):
        before, after = plain.batch(step), changed.batch(step)
        assert (before["image_primary"] != after["image_primary"]).any()
        assert all((before[key] == after[key]).all() for key in before if key != "image_primary")
    assert (again["image_primary"] == after["image_primary"]).all()
    shown = [next(iter(windows.in_order()))["image_primary"] for windows in (plain, changed)]
    assert (shown[0] == shown[1]).all()


def test_the_command_and_its_policy_need_neither_tensorflow_nor_jax_nor_a_simulator(tmp_path):
    file = str(ROOT / "finetune_configs" / "small_assembly.py:debug")
    values = load_config(file).to_dict()
    changes = {"data.root": f"{tmp_path}/data", "demos.image_size": 32, "eval.episodes": 0, "train.steps": 4}
    for key, value in changes.items():
        section, name = key.split(".")
        values[section][name] = value
    place_store(SmallConfig.from_dict(values))
    absent = [
        "tensorflow",
        "tensorflow_datasets",
        "jax",
        "flax",
        "grain",
        "mujoco",
        "robosuite",
        "metaworld",
        "gymnasium",
    ]
    arguments = ["--config", file, f"--config.runs={tmp_path}/runs", "--config.method=gap_gaussian"]
    script = str(ROOT / "scripts" / "train_small.py")
    program = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"  # importing them fails
        "from gap_vla.report import charts, sections\n"
        "charts.curve_chart = charts.branch_chart = sections.svg = lambda *_: 'data:image/svg+xml;base64,'\n"
        f"sys.argv = {[script, *arguments, *(f'--config.{key}={value}' for key, value in changes.items())]}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "from pathlib import Path\n"
        "from gap_vla.serving.loading import load_checkpoint\n"
        f"load_checkpoint(next(Path({str(tmp_path)!r}, 'runs', 'assembly').iterdir())).policy.warm_up()\n"
    )
    environment = {**os.environ, "GLIBC_TUNABLES": ""}  # set: the command does not start itself again
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "assembly, method gap_gaussian, seed 0, 4 steps" in done.stdout
    run = next((tmp_path / "runs" / "assembly").iterdir())
    assert run.name.startswith("small-gap_gaussian-seed0-") and (run / "summary.json").exists()


def test_a_killed_and_resumed_run_ends_with_the_same_bytes(runner, tmp_path, capsys):
    config = toy_config(tmp_path, "gradnorm", train=dict(steps=12, save_every=2, log_every=3, validate_every=12))
    place_store(config)
    program = (
        "import json, os, signal, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from gap_vla.training.torch_trainer import SmallTrainer\n"
        "from gap_vla.training.torch import SmallConfig\n"
        "from gap_vla.training.run import finetune\n"
        "step = SmallTrainer.step\n"
        "def killed(self, batch, number, measure=False):\n"
        "    if number == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, batch, number, measure)\n"
        "SmallTrainer.step = killed\n"
        "finetune(SmallConfig.from_dict(json.loads(sys.argv[1])), 'killed')\n"
    )
    (tmp_path / "killed.py").write_text(program)
    killed = runner.run(tmp_path / "killed.py", [json.dumps(config.to_dict())], tmp_path)
    assert killed.status == -signal.SIGKILL, killed.stderr
    state = Path(config.runs) / "assembly" / "killed" / "state" / "training.pt"
    assert state.exists() and not (state.parent.parent / "summary.json").exists()
    finetune(config, "killed", resume=True)
    assert "resumed after step 6" in capsys.readouterr().out
    finetune(config, "undisturbed")
    weights = [
        Path(config.runs) / "assembly" / name / "checkpoint" / "policy.safetensors"
        for name in ("killed", "undisturbed")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    states = [weight.parents[1] / "state" / state.name for weight in weights]
    first, second = (torch.load(path, weights_only=True)["ends"] for path in states)
    assert first == second and len(first) == 2  # also of what was measured nothing differs
    steps = [row["step"] for row in read_metrics(state.parent.parent / "metrics.jsonl") if "train/loss" in row]
    assert steps == [3, 6, 9, 12]


def test_a_held_out_measurement_that_a_power_cut_lost_after_the_last_step_is_made_again(finished):
    config = toy_config(finished)
    run = RunDirectory(Path(config.runs) / "assembly" / "run")
    run.summary.unlink()
    whole = run.metrics.read_text().splitlines(keepends=True)
    for lost in (whole[:-1], whole):
        run.metrics.write_text("".join(lost))
        finetune(config, "run", resume=True)
        assert run.metrics.read_text() == "".join(whole)
        run.summary.unlink()


def test_a_run_that_is_resumed_after_its_last_step_states_no_rate(finished):
    config, run = toy_config(finished), RunDirectory(finished / "runs" / "assembly" / "run")
    trained = json.loads(run.summary.read_text())["training"]
    assert trained["steps_per_second"] > 0 and trained["data_share"] > 0
    run.summary.unlink()
    assert finetune(config, "run", resume=True)["training"] == {"resumed_after": 12, "mean_rho": trained["mean_rho"]}
    page = runs_section([FinishedRun.read(run.path)])
    assert page.count(" since step 12") == 2, page  # seconds and commit


def test_a_resumed_run_says_which_of_its_measurements_are_lost(tmp_path, capsys):
    config = toy_config(tmp_path, train=dict(steps=8, log_every=2, validate_every=4, save_every=8))
    place_store(config)
    finetune(config, "whole")
    run = RunDirectory(Path(config.runs) / "assembly" / "whole")
    whole = run.metrics.read_text().splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in whole] == [0, 2, 4, 4, 6, 8, 8]
    note = f"note: {run.metrics} lacks measurements of step"
    for kept, lost in ((whole[:2], f"{note}s 4 to 8"), (whole[:4] + whole[5:], f"{note} 6"), (whole, "")):
        run.metrics.write_text("".join(kept))
        run.summary.unlink()
        capsys.readouterr()
        finetune(config, "whole", resume=True)
        assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")] == [
            f"{lost}; curves have a hole there" for _ in range(bool(lost))
        ]
    other = toy_config(tmp_path, train=dict(steps=8, log_every=1, validate_every=4, save_every=8))
    run.summary.unlink()
    finetune(other, "whole", resume=True)
    assert "note:" not in capsys.readouterr().err  # nobody knows when another rhythm began


@pytest.mark.parametrize("number", [3, 11])
def test_ctrl_c_saves_the_last_whole_step_and_goes_no_further(number, store, tmp_path, monkeypatch):
    config = toy_config(tmp_path, train=dict(save_every=1000))
    trainer, _ = made(config, store)
    whole = trainer.step

    def interrupted(batch, step, measure=False):
        if step == number:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(batch, step, measure)

    monkeypatch.setattr(trainer, "step", interrupted)
    run = RunDirectory.claim(tmp_path / "run", {}, False)
    with pytest.raises(KeyboardInterrupt):
        train(trainer, config.train, run)
    assert torch.load(run.state / "training.pt", weights_only=True)["step"] == number + 1


@pytest.mark.parametrize("damaged", [b"text", b"PK\x03\x04", b""])
def test_a_saved_state_that_is_damaged_is_named_with_what_to_do(damaged, store, tmp_path):
    trainer, _ = made(toy_config(tmp_path), store)
    (tmp_path / "training.pt").write_bytes(damaged)
    with pytest.raises(
        ConfigError, match=r"training.pt is damaged: .*; copy it again, or start another run with --run"
    ):
        trainer.restore(tmp_path)


def test_a_saved_state_that_is_packed_is_refused_before_it_is_unpacked(store, tmp_path):
    trainer, _ = made(toy_config(tmp_path), store)
    with zipfile.ZipFile(tmp_path / "training.pt", "w") as packed:
        packed.writestr("state/data.pkl", b"state", zipfile.ZIP_LZMA)
    with pytest.raises(ConfigError, match=r"training\.pt is damaged: state/data\.pkl is packed, as torch writes none;"):
        trainer.restore(tmp_path)


def test_of_a_saved_state_that_executes_something_torch_does_not_say_how(store, tmp_path, executes):
    trainer, _ = made(toy_config(tmp_path), store)
    torch.save({"step": 1, "policy": executes}, tmp_path / "training.pt")
    with pytest.raises(
        ConfigError, match=r"holds something else than tensors and plain values, which is not read, or was"
    ):
        trainer.restore(tmp_path)


def test_a_moment_of_another_shape_than_its_parameter_is_refused(store, tmp_path):
    trainer, windows = made(toy_config(tmp_path), store)
    assert trainer.restore(tmp_path) == 0
    trainer.step(windows.batch(0), 0)
    trainer.save(1)
    saved = torch.load(tmp_path / "training.pt", weights_only=True)
    moments = saved["parts"]["optimizer"]["state"][0]
    moments["exp_avg"] = torch.zeros(1).expand(10**9)
    torch.save(saved, tmp_path / "training.pt")
    again, _ = made(toy_config(tmp_path), store)
    with pytest.raises(ConfigError, match=r"training.pt is damaged: its checksum differs"):
        again.restore(tmp_path)


def test_a_saved_state_in_which_something_was_changed_is_refused(store, tmp_path):
    trainer, _ = made(toy_config(tmp_path), store)
    trainer.restore(tmp_path)
    trainer.save(3)
    assert trainer.restore(tmp_path) == 3
    file = tmp_path / "training.pt"
    saved = torch.load(file, weights_only=True)
    torch.save(saved, file)  # by another program, which changed nothing
    assert trainer.restore(tmp_path) == 3
    torch.save({**saved, "step": 2}, file)
    with pytest.raises(ConfigError, match=r"training.pt is damaged: its checksum differs; copy it again"):
        trainer.restore(tmp_path)
    trainer.save(3)
    content = bytearray(file.read_bytes())
    weight = next(iter(trainer.policy.state_dict().values())).numpy().tobytes()
    content[content.index(weight)] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"training.pt is damaged: the checksum of .*data/\d+ differs; copy it again"):
        trainer.restore(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(tmp_path):
    config = toy_config(tmp_path)
    store = write_store(tmp_path / "store", rho=False)  # without change points, to which no distance is finite
    trainer, _ = made(config, store)
    before = trainer.validate()
    with torch.no_grad():
        trainer.policy.head.layers[0].weight.fill_(float("nan"))
    run = RunDirectory.claim(tmp_path / "run", {}, False)
    with pytest.raises(DivergedError, match=r"val/.* is nan after step 0; look for extreme values"):
        train(trainer, config.train, run)
    trainer.validate = lambda: before
    with pytest.raises(DivergedError, match=r"the batch is saved as \S+bad_batch\.npz\. Look at it"):
        train(trainer, config.train, run)
    saved = np.load(run.path / "bad_batch.npz")
    assert saved["image_primary"].shape == (16, 1, 32, 32, 3)


def test_the_first_batch_is_kept_as_a_picture_and_the_measurements_as_lines(tmp_path, capsys):
    config = toy_config(tmp_path, "gap", train=dict(epochs=1), optimizer=dict(learning_rate=1e-2, warmup_steps=90))
    place_store(config)
    summary = finetune(config)
    assert "note: optimizer.warmup_steps is 90, the steps of train.epochs 9: at most 0.1 of" in capsys.readouterr().out
    assert {"training_version", "labels_version", "episodes", "labels"} <= set(summary["origin"])
    run = RunDirectory(Run(config).directory.path)
    assert run.first_batch.exists() and json.loads(run.summary.read_text()) == summary
    rows = read_metrics(run.metrics)
    assert {"val/action_mse", "val/mean_action_mse"} <= rows[0].keys()
    assert rows[1]["gap/update_factor"] == pytest.approx(0.3) and rows[-2]["gap/update_factor"] == 1


def test_a_finished_run_whose_settings_were_edited_is_not_reported_as_what_they_say(tmp_path):
    config = toy_config(tmp_path, "gap")
    place_store(config)
    finetune(config)
    run = RunDirectory(Run(config).directory.path)
    settings = json.loads(run.config.read_text())
    for section, change, refused in (("train", {"log_every": 7}, False), ("optimizer", {"learning_rate": 1.0}, True)):
        assert settings[section] != {**settings[section], **change}
        run.config.write_text(json.dumps({**settings, section: {**settings[section], **change}}))
        for read in (FinishedRun.read, load_checkpoint):
            with pytest.raises(UserError, match=r"config\.json is not what it was when") if refused else nullcontext():
                read(run.path)
    run.config.write_text(json.dumps(settings))
    run.metrics.unlink()
    load_checkpoint(run.path)
    with pytest.raises(ReportError, match=r"metrics\.jsonl is missing"):
        FinishedRun.read(run.path)


@pytest.mark.parametrize("normalization", ["normal", "bounds"])
def test_a_held_out_error_stands_beside_that_of_the_training_episodes_mean_action(normalization, tmp_path):
    store = write_store(tmp_path / "store", length=15)  # the way back takes a step more
    config = toy_config(tmp_path, "vision", data={"normalization": normalization})
    trainer, windows = made(config, store)
    batch = windows.gather(np.arange(len(windows)))
    action, counted = batch["action"].numpy(), batch["action_pad_mask"].numpy()
    recorded = np.asarray(store.split("train").fields["action"], np.float64)
    mean = normalize(recorded.mean(0), store.statistics["action"], normalization)
    errors, at_zero = (np.square(action - guess).mean(-1)[counted].mean() for guess in (mean, 0))
    assert trainer.validate()["val/mean_action_mse"] == pytest.approx(errors, rel=1e-3)
    assert errors < 0.999 * at_zero, "0 is not the mean of an action that is not centred"


def test_the_controls_train_with_the_rho_of_other_steps_and_with_its_mean(store, tmp_path):
    found = {name: rho_of(toy_config(tmp_path, name), store) for name in ("gap", "gap_shuffled", "lambda_matched")}
    for split, rho in found["gap"].items():
        shuffled, mean = found["gap_shuffled"][split], found["lambda_matched"][split]
        assert np.array_equal(np.sort(shuffled), np.sort(rho)) and (shuffled != rho).mean() > 0.5
        assert np.array_equal(mean, np.full_like(rho, rho.mean()))
    again = rho_of(toy_config(tmp_path, "gap_shuffled"), store)
    other = rho_of(toy_config(tmp_path, "gap_shuffled", train=dict(seed=1)), store)
    assert np.array_equal(again["train"], found["gap_shuffled"]["train"]) and not np.array_equal(
        other["train"], found["gap_shuffled"]["train"]
    )
    matched = made(toy_config(tmp_path, "lambda_matched", adjustment=dict(lam=0.3)), store)[0]
    factors = matched.schedule.factors(np.full((2, 1), found["gap"]["train"].mean()), 0, 10)
    assert (factors.sample == 1).all() and factors.update == pytest.approx(0.3 * (1 - found["gap"]["train"].mean()))


def test_rollouts_begin_before_the_last_state_is_on_disk_and_the_summary_comes_after(tmp_path, monkeypatch):
    config = toy_config(tmp_path)
    place_store(config)
    run, seen = Run(config), []

    def rollouts(*_):
        seen.append("rollouts")
        monkeypatch.setattr(hosts, "_joined", True)  # from here on there are others, which wait
        return {}

    def met(failed):
        seen.append(f"hosts meet, failed: {failed}")
        monkeypatch.setattr(hosts, "_joined", False)
        return [failed]

    monkeypatch.setattr("gap_vla.training.run.rollouts", rollouts)
    monkeypatch.setattr(hosts, "_of_all", met)
    monkeypatch.setattr(SmallTrainer, "close", lambda self: seen.append(("closed", run.directory.complete)))
    run.to_the_end()
    assert seen == ["rollouts", "hosts meet, failed: 0", ("closed", False)] and run.directory.complete


def test_rho_computed_from_the_store_is_that_of_the_phases_and_kept(tmp_path, capsys, monkeypatch):
    from gap_vla.phases import Annotation, annotate

    config = toy_config(tmp_path, "gap_gaussian")
    store = place_store(config)
    found = rho_of(config, store)
    [kept] = store.directory.with_name(f"{store.directory.name}.rho").iterdir()
    assert Annotation.load(kept).report["fitted_episodes"] == 6, "the episodes of validation teach it nothing"
    episodes = [episode(seed) for seed in [*range(6), 100, 101]]
    expected = annotate(episodes, method="gaussian", workers=1, fit=range(6)).rho
    assert np.array_equal(found["train"], np.concatenate(expected[:6]))
    assert np.array_equal(found["val"], np.concatenate(expected[6:]))
    capsys.readouterr()
    assert np.array_equal(rho_of(config, store)["train"], found["train"])
    (kept / "labels.safetensors").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match=rf"{kept} holds no labels.safetensors; delete that folder, they are made"):
        rho_of(config, store)
    (tmp_path / "away").rename(kept / "labels.safetensors")
    assert "labelling" not in capsys.readouterr().out
    monkeypatch.setattr("gap_vla.phases.LABELS_VERSION", 8)
    rho_of(config, store)
    assert "labelling" in capsys.readouterr().out


@pytest.mark.slow
def test_a_batch_takes_about_the_memory_that_it_was_estimated_to_take(tmp_path):
    program = (
        "import json, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from gap_vla.training.torch import SmallConfig\n"
        "from gap_vla.training.run import finetune\n"
        "finetune(SmallConfig.from_dict(json.loads(sys.argv[1])), 'run')\n"
        # not ru_maxrss, in which the process that started this one has a part
        "print('peak', 1024 * int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]))\n"
    )
    peaks, estimates = [], []
    for size in (2000, 5000):
        train = dict(steps=1, save_every=1, log_every=1, validate_every=1, batch_size=size, precision="bfloat16")
        config = toy_config(tmp_path / str(size), "gap", train=train)
        place_store(config)
        command = [sys.executable, "-c", program, json.dumps(config.to_dict())]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split("peak")[1]))
        estimates.append(sum(config.memory().values()))
    assert 0.65 < (estimates[1] - estimates[0]) / (peaks[1] - peaks[0]) < 1.4, (peaks, estimates)


def test_held_out_windows_take_the_memory_that_is_counted_however_many_they_are():
    program = (
        "import torch\n"
        "from gap_vla.policies import build_policy\n"
        "from gap_vla.policies.config import SmallModelConfig\n"
        "torch.set_num_threads(1)\n"
        "def peak(frames):\n"
        "    open('/proc/self/clear_refs', 'w').write('5')\n"
        "    with torch.no_grad():\n"
        "        policy.features(frames)\n"
        "    return 1024 * int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "policy = build_policy(SmallModelConfig(encoder_width=32), 'vision', (128, 128, 3), 9, 7).eval()\n"
        "few, many = (torch.ones(n, 1, 128, 128, 3, dtype=torch.uint8) for n in (1, 256))\n"
        "print(-peak(few) + peak(many))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    sizes = {
        "demos": {"image_size": 128},
        "model": {"encoder_width": 32},
        "train": {"batch_size": 1, "precision": "float32"},
    }
    config = SmallConfig.from_dict({"task": "assembly", "method": "vision", **sizes})
    counted = config.memory(held_out=256)["image encoder"]
    assert counted == config.memory(held_out=10**6)["image encoder"]
    assert counted < int(done.stdout) < 1.9 * counted


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("gap", {}),
        ("vision", {"encoder_width": 64}),
        ("proprio", {}),
        ("gap", {"encoder_width": 8, "feature_dim": 32, "head_dim": 32}),
        ("gap", {"encoder": "resnet18", "temporal": "transformer", "image_history": 5, "feature_dim": 512}),
        ("concat", {"temporal": "transformer", "image_history": 5, "head_layers": 4, "proprio_layers": 5}),
        ("concat", {"head": "diffusion", "image_history": 2}),
        *(("gap", {"fusion": name, "image_history": 10, "head_dim": 1024}) for name in ("sum", "attention", "film")),
        ("msbot", {"image_history": 10}),
    ],
)
def test_the_parameters_that_are_counted_before_training_are_those_of_the_policy(method, model):
    config = SmallConfig.from_dict({"task": "assembly", "method": method, "model": model})
    policy = build_policy(config.model, method, (64, 64, 3), 9, 7)
    share = config.memory()["parameters, gradients, optimizer"] / 16 / sum(part.numel() for part in policy.parameters())
    assert (0.2 if "fusion" in model or method == "msbot" else 0.85) < share <= 1


@pytest.mark.parametrize("several", [False, True])
def test_the_disk_that_is_counted_is_what_a_run_takes_while_it_saves(several, tmp_path):
    config = toy_config(tmp_path, "gap", train=dict(save_every=4 if several else 12))
    place_store(config)
    run = Run(config, "run")
    run.to_the_end()
    state = (run.directory.state / "training.pt").stat().st_size
    weights = (run.directory.checkpoint / "policy.safetensors").stat().st_size
    written = max(2 * state, state + weights) if several else state + weights
    assert 0.75 * written < config.disk() < written
