"""GAP on a PyTorch policy: what it changes, what it leaves alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach


class Policy(nn.Module):
    """Image features and proprioception, concatenated."""

    def __init__(self):
        super().__init__()
        self.vision = nn.Linear(6, 4)
        self.state = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))
        self.head = nn.Linear(8, 2)

    def forward(self, image, proprio):
        return self.head(torch.cat([self.vision(image), self.state(proprio)], -1)).tanh()


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy()


GENERATOR = torch.Generator().manual_seed(1)
IMAGE = torch.randn(4, 6, generator=GENERATOR)
PROPRIO = torch.randn(4, 3, generator=GENERATOR)
TARGET = torch.randn(4, 2, generator=GENERATOR)
RHO = torch.tensor([0.0, 0.3, 0.9, 1.0])


def gradients(policy, image=IMAGE, proprio=PROPRIO, target=TARGET):
    policy.zero_grad()
    ((policy(image, proprio) - target) ** 2).mean().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}


def adjusted(policy, rho=RHO, step=0):
    gap = attach(policy, "state", AdjustmentSchedule(lam=1.0), total_steps=10)
    with gap.rho(rho, step):
        found = gradients(policy)
    gap.detach()
    return found


def test_forward_is_identical_and_only_the_proprio_gradient_changes(policy):
    plain, output = gradients(policy), policy(IMAGE, PROPRIO)
    gap = attach(policy, "state", AdjustmentSchedule(), total_steps=10)
    with gap.rho(RHO, 0):
        assert torch.equal(policy(IMAGE, PROPRIO), output)
        found = gradients(policy)
    for name in plain:
        assert torch.equal(plain[name], found[name]) != name.startswith("state"), name


def test_the_proprio_gradient_is_the_sum_of_samples_weighted_with_one_minus_rho(policy):
    found = adjusted(policy)
    singles = [gradients(policy, IMAGE[b : b + 1], PROPRIO[b : b + 1], TARGET[b : b + 1]) for b in range(4)]
    for name in found:
        if name.startswith("state"):
            expected = sum((1 - RHO[b]) * singles[b][name] for b in range(4)) / 4
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)


def test_after_the_window_and_after_detaching_training_is_plain(policy):
    plain = gradients(policy)
    for found in (adjusted(policy, step=5), gradients(policy)):
        assert all(torch.equal(plain[name], found[name]) for name in plain)
    assert not policy.state._forward_hooks


def test_a_window_of_rho_reaches_tokens_of_their_own_step():
    torch.manual_seed(0)
    module = nn.ModuleDict({"state": nn.Linear(3, 4, bias=False)})
    x, rho = torch.randn(2, 3, 3), torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 0.0]])
    gap = attach(module, "state", AdjustmentSchedule(), total_steps=2)
    for shape in ((2, 3, 3), (6, 3)):
        module.zero_grad()
        with gap.rho(rho, 0):
            module["state"](x.reshape(shape)).sum().backward()
        expected = ((1 - rho)[..., None] * x).sum((0, 1)).expand(4, 3)
        torch.testing.assert_close(module["state"].weight.grad, expected)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_lambda_scales_the_update_but_not_the_weight_decay_nor_the_scheduled_rate(policy, make):
    policies = [copy.deepcopy(policy), copy.deepcopy(policy)]
    moved = []
    for lam, p in zip((1.0, 0.25), policies):
        before = {n: v.detach().clone() for n, v in p.named_parameters()}
        gap = attach(p, "state", AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=lam), total_steps=2)
        optimizer = gap.watch(make(p.parameters(), lr=0.1, weight_decay=0.2))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        with gap.rho(RHO, 0):
            gradients(p)
        optimizer.step()
        scheduler.step()
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05] * 2)
        decay = {n: -0.1 * 0.2 * v for n, v in before.items()}
        moved.append({n: v.detach() - before[n] - decay[n] for n, v in p.named_parameters()})
    for name in moved[0]:
        factor = 0.25 if name.startswith("state") else 1.0
        torch.testing.assert_close(moved[1][name], factor * moved[0][name], rtol=1e-4, atol=1e-6)


def test_the_release_mode_scales_the_summed_gradient(policy):
    plain = gradients(policy)
    gap = attach(policy, "state", AdjustmentSchedule(mode="batch", lam=0.3), total_steps=2)
    optimizer = gap.watch(torch.optim.SGD(policy.parameters(), lr=1.0))
    before = {n: v.detach().clone() for n, v in policy.named_parameters()}
    with gap.rho(RHO, 0):
        gradients(policy)
    optimizer.step()
    for name, value in policy.named_parameters():
        factor = 0.7 if name.startswith("state") else 1.0
        torch.testing.assert_close(before[name] - value.detach(), factor * plain[name], rtol=1e-4, atol=1e-6)


def test_autocast_and_gradient_accumulation(policy):
    gap = attach(policy, "state", AdjustmentSchedule(), total_steps=2)
    policy.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        for half in (slice(0, 2), slice(2, 4)):
            with gap.rho(RHO[half], 0):
                ((policy(IMAGE[half], PROPRIO[half]) - TARGET[half]) ** 2).mean().backward()
    summed = {n: p.grad.clone() / 2 for n, p in policy.named_parameters()}
    gap.detach()
    whole = adjusted(policy)
    for name in whole:
        torch.testing.assert_close(summed[name], whole[name], rtol=0.1, atol=0.02)


def test_impossible_attachments_are_refused_in_words(policy):
    with pytest.raises(ValueError, match="no submodule 'proprio'; it has vision, state"):
        attach(policy, "proprio", AdjustmentSchedule(), total_steps=2)
    with pytest.raises(ValueError, match="no trainable parameter"):
        attach(policy, "state.1", AdjustmentSchedule(), total_steps=2)
    policy.head2 = policy.state[2]
    with pytest.raises(ValueError, match=r"head2\.weight is shared"):
        attach(policy, "state", AdjustmentSchedule(), total_steps=2)
    gap = attach(policy, "vision", AdjustmentSchedule(), total_steps=2)
    with pytest.raises(ValueError, match="must be the batch"), gap.rho(np.zeros(3, np.float32), 0):
        policy(IMAGE, PROPRIO)
    with pytest.raises(ValueError, match=r"does not train vision\.weight"):
        gap.watch(torch.optim.SGD(policy.head.parameters(), lr=1.0))
