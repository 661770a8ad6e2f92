"""GAP in LeRobot's own policies and training command. `make test-lerobot` and `make test-lerobot-061` run it."""

import functools
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("lerobot", reason="LeRobot lives in an environment of its own: make test-lerobot")

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import get_policy_class
from lerobot.utils.import_utils import register_third_party_plugins

from gap_vla.adjustment.torch import Adjustment
from gap_vla.core.errors import ConfigError, UserError
from gap_vla.demos.lerobot import LeRobot
from tests.helpers.lerobot_policies import make_act, make_diffusion, make_policy, make_smolvla

register_third_party_plugins()  # nothing else here imports the plugin before it is used

MAKE = {"act": make_act, "diffusion": make_diffusion, "smolvla": make_smolvla}
INDEX = torch.tensor([3, 10, 30, 38])  # of the samples of a batch; all their actions are within the episode
LENGTH = 24
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/ANY_POLICY.md").read_text()
SMALL = (
    "--policy.device=cpu --policy.pretrained_backbone_weights=null --policy.chunk_size=4 --policy.n_action_steps=4 "
    "--policy.dim_model=16 --policy.n_heads=2 --policy.dim_feedforward=16 --policy.n_encoder_layers=1 "
    "--policy.n_vae_encoder_layers=1 --policy.latent_dim=4 --batch_size=2 --num_workers=0 --steps=8 --save_freq=3"
).split()


def write_dataset(folder, seed):
    """Two episodes of a hand that moves in straight lines, with pictures, by LeRobot's own writer."""
    rng = np.random.default_rng(seed)
    pose = ["x", "y", "z", "qw", "qx", "qy", "qz", "finger_left", "finger_right"]
    features = {
        "observation.state": {"dtype": "float32", "shape": (9,), "names": pose},
        "action": {"dtype": "float32", "shape": (3,), "names": ["dx", "dy", "dz"]},
        "observation.images.top": {"dtype": "image", "shape": (32, 32, 3), "names": ["height", "width", "channels"]},
    }
    dataset = LeRobotDataset.create("local/lines", 20, features, root=folder, use_videos=False)
    for _ in range(2):
        way = np.cumsum(np.repeat(rng.uniform(-0.02, 0.02, (3, 3)), LENGTH // 3, 0), 0)
        for step in range(LENGTH):
            state = np.array([*way[step], 1, 0, 0, 0, 0.04, 0.04], np.float32)
            picture = rng.integers(0, 255, (32, 32, 3), np.uint8)
            action = np.float32(way[min(step + 1, LENGTH - 1)] - way[step])
            dataset.add_frame(
                {"observation.state": state, "action": action, "observation.images.top": picture, "task": "move"}
            )
        dataset.save_episode()
    dataset.finalize()
    return folder


def write_rho(folder, file, rho):
    labels = [{"rho": np.float32(part), "change_point": np.zeros(LENGTH, bool)} for part in np.split(rho, 2)]
    LeRobot(folder).write_labels(file, labels, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset with ρ that differs from frame to frame, and beside it `constant.parquet` with ρ = 0.4."""
    folder = write_dataset(tmp_path_factory.mktemp("lerobot") / "data", 0)
    rho = np.random.default_rng(1).uniform(0, 1, 2 * LENGTH)
    write_rho(folder, folder / "gap_rho.parquet", rho)
    write_rho(folder, folder / "constant.parquet", np.full(2 * LENGTH, 0.4))
    return folder


def rho_of_frames(folder):
    from lerobot_policy_gap.rho import RhoOfFrames

    return RhoOfFrames(folder)


every_kind = pytest.mark.parametrize("kind", MAKE)


def made(kind, folder, tmp_path, **options):
    """A policy with GAP begun as lerobot-train begins it, a plain one with the same weights, a batch, the optimizer."""
    torch.manual_seed(0)
    shared = {key: value for key, value in options.items() if not key.startswith("gap_")}
    policy, batch = MAKE[kind](tmp_path, f"gap_{kind}", types.SimpleNamespace(root=folder), **options)
    plain, _ = MAKE[kind](tmp_path, **shared)
    plain.load_state_dict(policy.state_dict())
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    policy.config.get_scheduler_preset().build(optimizer, 10)
    return policy.train(), plain.train(), batch | {"index": INDEX}, optimizer


def gradients(policy, batch):
    """Loss and gradients, with the same noise for every sample, so that samples can run alone."""
    policy.zero_grad()
    size, more = len(batch["action"]), {}
    if "observation.language.tokens" in batch:
        more = {"noise": torch.full((size, 4, 8), 0.3), "time": torch.full((size,), 0.4)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda x, **_: torch.full_like(x, 0.3))
        patch.setattr(torch, "randn", lambda shape, **_: torch.full(shape, 0.3))
        patch.setattr(torch, "randint", lambda low, high, size, **_: torch.full(size, 7))
        loss, _ = policy.forward(dict(batch), **more)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def adjusted_part(policy, name):
    """The part of a parameter that GAP adjusts: all of it, columns, or nothing."""
    if "state_proj" in name or "robot_state_input_proj" in name:
        return ...
    if not name.endswith("cond_encoder.1.weight"):
        return None
    first, width = policy.config.diffusion_step_embed_dim, dict(policy.named_parameters())[name].shape[1]
    per_step, state = (width - first) // 2, 6
    return slice(None), [first + step * per_step + column for step in range(2) for column in range(state)]


def check_gradients(policy, found, plain, adjusted):
    """`found` is `adjusted` where GAP acts and `plain` elsewhere."""
    count = 0
    for name, gradient in plain.items():
        expected, part = gradient.clone(), adjusted_part(policy, name)
        if part is not None:
            expected[part] = adjusted[name][part]
            count += not torch.allclose(expected, gradient, rtol=1e-3, atol=1e-7)
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=2e-5 * scale, msg=name)
    assert count > 0


@every_kind
def test_the_branch_gets_1_minus_rho_of_each_sample_and_nothing_else_changes(kind, folder, tmp_path):
    policy, plain, batch, _ = made(kind, folder, tmp_path)
    loss, expected = gradients(plain, batch)
    found_loss, found = gradients(policy, batch)
    assert torch.equal(loss, found_loss) and list(policy.state_dict()) == list(plain.state_dict())
    rho = rho_of_frames(folder).rho[INDEX]
    singles = [gradients(plain, {k: v[b : b + 1] for k, v in batch.items()})[1] for b in range(4)]
    adjusted = {name: sum((1 - rho[b]) * singles[b][name] for b in range(4)) / 4 for name in expected}
    check_gradients(policy, found, expected, adjusted)


@every_kind
@pytest.mark.parametrize("form", ["chunk", "chunk_max"])
def test_rho_of_the_chunk_acts_in_each_policys_loss(kind, form, folder, tmp_path):
    options = {"use_vae": False} if kind == "act" else {}  # the loss of the latent is not one of an action
    options |= {"gap_rho_form": form, "gap_rho": str(folder / "constant.parquet")}
    policy, plain, batch, _ = made(kind, folder, tmp_path, **options)
    loss, expected = gradients(plain, batch)
    found_loss, found = gradients(policy, batch)
    assert torch.equal(loss, found_loss)
    check_gradients(policy, found, expected, {name: 0.6 * gradient for name, gradient in expected.items()})


@pytest.mark.parametrize("mode", ["sample", "constant"])
@every_kind
def test_lambda_is_the_factor_of_the_branchs_updates(kind, mode, folder, tmp_path):
    moved = []
    data = folder if mode == "sample" else tmp_path / "without_rho"
    for lam in (1.0, 0.25):
        policy, _, batch, optimizer = made(kind, data, tmp_path, gap_lambda=lam, gap_mode=mode)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 1e-2, 0.0
        before = {n: p.detach().clone() for n, p in policy.named_parameters()}
        gradients(policy, batch)
        optimizer.step()
        moved.append({n: p.detach() - before[n] for n, p in policy.named_parameters()})
    for name, step in moved[0].items():
        expected, part = step.clone(), adjusted_part(policy, name)
        if part is not None:
            expected[part] *= 0.25
            assert step[part].any()
        torch.testing.assert_close(moved[1][name], expected, rtol=1e-3, atol=1e-6, msg=name)


def test_state_dropout_replaces_states_by_their_mean(folder, tmp_path):
    policy, plain, batch, _ = made("act", folder, tmp_path, gap_window=0.0, gap_state_dropout=1.0, use_vae=False)
    hidden = batch | {"observation.state": torch.zeros(4, 6)}
    assert torch.equal(gradients(policy, batch)[0], gradients(plain, hidden)[0])
    assert not torch.equal(gradients(policy, batch)[0], gradients(plain, batch)[0])


def test_rho_is_looked_up_by_index_and_is_0_outside_the_episode(folder):
    rho = rho_of_frames(folder)
    found = rho.of(torch.tensor([LENGTH - 2, LENGTH]), [-1, 0, 1, 2])
    before, last, second = rho.rho[LENGTH - 3], rho.rho[LENGTH - 2 : LENGTH], rho.rho[LENGTH : LENGTH + 3]
    assert torch.equal(found, torch.stack([torch.tensor([before, *last, 0]), torch.tensor([0, *second])]))


def test_rho_of_another_dataset_or_version_is_refused(folder, tmp_path):
    other = write_dataset(tmp_path / "other", 5)
    with pytest.raises(UserError, match=r"gap_rho\.parquet"):
        rho_of_frames(other)
    shutil.copy(folder / "gap_rho.parquet", other)
    with pytest.raises(UserError, match=r"gap_rho\.parquet"):
        rho_of_frames(other)


def test_policies_that_read_the_state_as_text_are_refused_by_name():
    for kind, name in (("gap_pi05", "π0.5"), ("gap_pi0_fast", "π0-FAST")):
        with pytest.raises(ConfigError, match=name):
            PreTrainedConfig.get_choice_class(kind)(device="cpu").get_optimizer_preset()


def test_pi0s_state_projection_is_found(folder, monkeypatch):
    """Only its structure: without memory for its weights."""
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    with torch.device("meta"):
        try:
            policy = make_policy("gap_pi0", types.SimpleNamespace(root=folder), device="cpu", gap_lambda=1.0)
        except ValueError as problem:
            pytest.skip(f"this LeRobot makes no π0 here: {problem}")
    policy.config.get_scheduler_preset().build(torch.optim.SGD(policy.parameters(), lr=0.1), 10)
    assert list(policy._gap.parameters) == ["model.state_proj.weight", "model.state_proj.bias"]


# The commands of docs/ANY_POLICY.md, as they stand there


def fences(language, section="lerobot-train"):
    section = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


def commands(text):
    return text.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of runs after the page's commands, and of each training what the policy was told of ρ and step."""
    from lerobot.scripts import lerobot_train

    from gap_vla.cli import main as gap_vla_main

    top = tmp_path_factory.mktemp("trained")
    write_dataset(top / "my_dataset", 0)
    told: list[list[tuple]] = []
    adjusting = Adjustment.adjusting

    def recorded(self, rho, step):
        told[-1].append((rho.clone(), step, self.schedule.active(step, self.total_steps)))
        return adjusting(self, rho, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adjustment, "adjusting", recorded)
        patch.chdir(top)
        for line in commands("".join(fences("sh"))):
            program, *words = shlex.split(line, comments=True)
            if program == "gap-vla":
                assert not gap_vla_main(words)
            elif program == "lerobot-train":
                told.append([])
                last = next((word for word in words if word.startswith("--config_path=")), None)
                patch.setattr("sys.argv", [program, *words, *([] if last else SMALL)])
                lerobot_train.main()
                if len(told) == 1:  # as if it had been stopped at step 3
                    checkpoints = top / "outputs/gap/checkpoints"
                    (checkpoints / "last").unlink()
                    (checkpoints / "last").symlink_to("000003")
    return top, told


def test_a_resumed_run_goes_on_at_its_step(trained):
    folder, (first, resumed) = trained
    assert [step for _, step, _ in first] == list(range(8)) and [active for *_, active in first] == [True] * 4 + [
        False
    ] * 4
    assert [(step, active) for _, step, active in resumed] == [(s, s < 4) for s in range(3, 8)]
    rho = {round(float(value), 5) for value in rho_of_frames(folder / "my_dataset").rho}
    assert {round(float(value), 5) for batch, *_ in first + resumed for value in batch.flatten()} <= rho


def test_a_checkpoint_is_one_of_lerobot_once_its_type_is(trained):
    checkpoint = trained[0] / "outputs/gap/checkpoints/000008/pretrained_model"
    own = get_policy_class("gap_act").from_pretrained(checkpoint)
    copy = shutil.copytree(checkpoint, trained[0] / "plain")
    (convert,) = fences("python")
    exec(convert.replace("path/to/pretrained_model", str(copy)), {})
    assert not [key for key in json.loads((copy / "config.json").read_text()) if key.startswith("gap_")]
    plain = get_policy_class("act").from_pretrained(copy, strict=True)
    assert type(plain).__module__.startswith("lerobot.") and plain.config.type == "act"
    batch = {"observation.state": torch.rand(2, 9), "observation.images.top": torch.rand(2, 3, 32, 32)}
    assert torch.equal(plain.predict_action_chunk(batch), own.predict_action_chunk(batch))


def test_from_our_task_through_annotate_and_lerobot_train_to_rollouts(tmp_path):
    """With two demonstrations, eight steps and two rollouts."""
    collected, trained, rolled_out = fences("sh", "From a task of ours through lerobot-train and back")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    changes = {
        "--episodes 60": "--episodes 2",
        "--steps=2000": "--steps=8",
        "--episodes 40": "--episodes 2 --workers 1",
    }
    changes |= {"8000": port, "experiments/": f"{ROOT}/experiments/"}
    ours, theirs = ROOT / ".venv/bin", Path(sys.executable).parent
    said, servers = "", []
    try:
        for place, text in ((ours, collected), (theirs, trained), (ours, rolled_out)):
            path = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
            run = functools.partial(subprocess.Popen, shell=True, cwd=tmp_path, env=path, text=True)
            for line in commands(text):
                line = functools.reduce(lambda line, change: line.replace(*change), changes.items(), line)
                if line.endswith("&"):
                    servers.append(run("exec " + line.removesuffix("&")))
                else:
                    command = run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                    said += (output := command.communicate()[0])
                    assert not command.returncode, output
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    moved = re.findall(r"step (\d) of 8: the state's branch has moved by (\S+)", said)
    assert [int(step) for step, _ in moved] == list(range(8))
    assert float(moved[0][1]) == 0 < float(moved[1][1])
    summary = json.loads((tmp_path / "outputs/rollouts/summary.json").read_text())
    assert summary["episodes"] == 2 and not summary["errors"] and summary["policy"]["server"]["policy"] == "gap_act"
