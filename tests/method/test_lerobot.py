"""GAP on LeRobot's real policy classes. `make test-lerobot` runs it in LeRobot's own environment."""

import copy
import os
from collections import defaultdict

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("lerobot", reason="LeRobot lives in an environment of its own: make test-lerobot")

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach, attach_columns
from tests.helpers.lerobot_policies import load_torchvision, make_act, make_diffusion, make_smolvla

load_torchvision()

ACT_NAMES = ("model.encoder_robot_state_input_proj", "model.vae_encoder_robot_state_input_proj")
RHO = torch.tensor([[0.0, 0.3], [1.0, 0.9], [0.5, 0.0], [0.2, 1.0]])  # of both observations of four samples


def diffusion_columns(policy):
    """As in docs/ANY_POLICY.md."""
    diffusion, config = policy.diffusion, policy.config
    first, states = config.diffusion_step_embed_dim, config.robot_state_feature.shape[0]
    names = [name for name, _ in policy.named_modules() if name.endswith("cond_encoder.1")]
    per_step = (diffusion.unet.mid_modules[0].cond_encoder[1].in_features - first) // config.n_obs_steps
    read = [slice(first + i * per_step, first + i * per_step + states) for i in range(config.n_obs_steps)]
    return {name: read for name in names}


def adjust(name, policy, schedule):
    if name == "diffusion":
        return attach_columns(policy, diffusion_columns(policy), schedule, total_steps=10)
    return attach(policy, ACT_NAMES if name == "act" else "model.state_proj", schedule, total_steps=10)


MAKE = {"act": make_act, "diffusion": make_diffusion, "smolvla": make_smolvla}


@pytest.fixture(params=MAKE)
def case(request, tmp_path, monkeypatch):
    """Name, policy in training mode, batch, ρ; noise is the same for every sample, so that samples can run alone."""
    torch.manual_seed(0)
    policy, batch = MAKE[request.param](tmp_path)
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: torch.full_like(x, 0.3))
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.full(torch.Size(*shape), 0.3))
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **_: torch.full(size, 7))
    if request.param == "smolvla":
        forward = policy.forward
        policy.forward = lambda b: forward(
            b, noise=torch.full((len(b["action"]), 4, 8), 0.3), time=torch.full((len(b["action"]),), 0.4)
        )
    return request.param, policy.train(), batch, RHO if request.param == "diffusion" else RHO[:, 0]


def gradients(policy, batch):
    policy.zero_grad()
    loss, _ = policy.forward(dict(batch))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def test_the_adjusted_gradient_is_the_sum_over_samples_and_everything_else_stays(case):
    name, policy, batch, rho = case
    keys = list(policy.state_dict())
    loss, plain = gradients(policy, batch)
    singles = [gradients(policy, {k: v[b : b + 1] for k, v in batch.items()})[1] for b in range(4)]
    with adjust(name, policy, AdjustmentSchedule(lam=1.0)) as gap:
        adjusted = dict(gap.parameters)
        with gap.adjusting(rho, 0):
            found_loss, found = gradients(policy, batch)
    assert torch.equal(loss, found_loss) and list(policy.state_dict()) == keys
    changed = 0
    for parameter, gradient in plain.items():
        expected = gradient.clone()
        if parameter in adjusted and name == "diffusion":
            for step, read in enumerate(diffusion_columns(policy)[parameter.removesuffix(".weight")]):
                parts = [(1 - rho[b, step]) * singles[b][parameter][:, read] for b in range(4)]
                expected[:, read] = sum(parts) / 4
        elif parameter in adjusted:
            expected = sum((1 - rho[b]) * singles[b][parameter] for b in range(4)) / 4
        changed += not torch.allclose(expected, gradient, rtol=1e-3, atol=1e-7)
        scale = float(gradient.abs().max()) or 1.0
        torch.testing.assert_close(found[parameter], expected, rtol=1e-4, atol=2e-5 * scale, msg=parameter)
    assert changed == len(adjusted) > 0
    again = gradients(policy, batch)[1]
    assert all(torch.equal(again[n], plain[n]) for n in plain), "detaching did not restore the policy"


def test_the_documented_steps_train_and_lambda_slows_the_branch(case):
    name, policy, batch, rho = case
    moved = []
    for lam in (1.0, 0.25):
        own = copy.deepcopy(policy)
        if name == "smolvla":
            del own.forward  # of the fixture, bound to the other copy
            torch.manual_seed(1)
        before = {n: p.detach().clone() for n, p in own.named_parameters()}
        gap = adjust(name, own, AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=lam))
        optimizer = gap.watch(own.config.get_optimizer_preset().build(own.get_optim_params()))
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 1e-2, 0.0
        with gap.adjusting(rho, 0):
            loss, _ = own.forward(dict(batch))
        loss.backward()
        optimizer.step()
        moved.append({n: p.detach() - before[n] for n, p in own.named_parameters()})
        adjusted = gap.parameters
    for parameter, step in moved[0].items():
        expected = step.clone()
        if parameter in adjusted and name == "diffusion":
            for read in diffusion_columns(policy)[parameter.removesuffix(".weight")]:
                expected[:, read] *= 0.25
        elif parameter in adjusted:
            expected *= 0.25
        torch.testing.assert_close(moved[1][parameter], expected, rtol=1e-3, atol=1e-6, msg=parameter)
        assert parameter not in adjusted or step.any(), parameter


def test_the_training_script_of_lerobot_is_adjusted_from_outside(tmp_path, monkeypatch):
    """As in docs/ANY_POLICY.md: `update_policy` is what `lerobot-train` calls for a batch."""
    from accelerate import Accelerator
    from lerobot.processor.converters import batch_to_transition, transition_to_batch
    from lerobot.scripts import lerobot_train

    torch.manual_seed(0)
    policy, batch = make_act(tmp_path)
    rho_of_frame = torch.linspace(0, 1, 100)
    start = batch | {"rho": torch.rand(4, 1), "index": torch.tensor([0, 99, 50, 3])}
    batch = transition_to_batch(batch_to_transition(start))
    assert "rho" not in batch and torch.equal(batch["index"], start["index"])  # so ρ is looked up by frame
    batch = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    accelerator = Accelerator(cpu=True)
    gaps = []
    plain_update = lerobot_train.update_policy

    def update_policy(metrics, policy, batch, optimizer, *args, accelerator, **kwargs):
        if not gaps:
            schedule = AdjustmentSchedule(lam=0.0, rho="current")
            gaps.append(attach(accelerator.unwrap_model(policy), ACT_NAMES, schedule, total_steps=10))
            gaps[0].watch(optimizer)
            update_policy.step = 0
        with gaps[0].adjusting(rho_of_frame[batch["index"].cpu()], update_policy.step):
            update_policy.step += 1
            return plain_update(metrics, policy, batch, optimizer, *args, accelerator=accelerator, **kwargs)

    monkeypatch.setattr(lerobot_train, "update_policy", update_policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0)
    policy, optimizer = accelerator.prepare(policy, optimizer)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    metrics = type("Metrics", (defaultdict,), {"__setattr__": dict.__setitem__})()
    for _ in range(2):
        lerobot_train.update_policy(metrics, policy, batch, optimizer, 10.0, accelerator=accelerator)
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert update_policy.step == 2 and metrics["loss"] > 0 and len(moved) > 10
    assert not moved & {*gaps[0].parameters}, "lam = 0 keeps the branch where it was"
