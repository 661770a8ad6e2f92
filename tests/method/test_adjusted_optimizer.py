"""λ on an optimizer's steps: the update is scaled, whatever the optimizer, and nothing else."""

import copy

import pytest
import torch
from torch import nn

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach
from gap_vla.adjustment.torch_optimizer import unscaled_decay
from gap_vla.core.errors import ConfigError

GENERATOR = torch.Generator().manual_seed(2)
X = torch.randn(8, 3, generator=GENERATOR)
LAM_ONLY = {lam: AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=lam) for lam in (1.0, 0.25, 0.0)}


def make_policy():
    torch.manual_seed(0)
    return nn.ModuleDict({"state": nn.Linear(3, 4), "head": nn.Linear(4, 1)})


def backward(policy, scaler=None):
    loss = policy["head"](policy["state"](X).tanh()).square().mean()
    (loss if scaler is None else scaler.scale(loss)).backward()
    return loss


def attached(lam, total_steps=4):
    policy = make_policy()
    return policy, attach(policy, "state", LAM_ONLY[lam], total_steps=total_steps)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, foreach=False),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize(("name", "closure"), [(n, False) for n in OPTIMIZERS if n != "lbfgs"] + [("lbfgs", True)])
def test_lambda_scales_the_update_but_not_the_weight_decay_nor_the_scheduled_rate(name, closure):
    moved = []
    for lam in (1.0, 0.25):
        policy, gap = attached(lam)
        before = {n: v.detach().clone() for n, v in policy.named_parameters()}
        optimizer = gap.watch(OPTIMIZERS[name](policy.parameters()))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

        def loss_of(policy=policy, gap=gap, optimizer=optimizer):
            optimizer.zero_grad()
            with gap.adjusting(None, 0):
                return backward(policy)

        if closure:
            optimizer.step(loss_of)
        else:
            loss_of()
            optimizer.step()
        scheduler.step()
        assert [g["lr"] for g in optimizer.param_groups] == [0.05]
        decay = 0.1 * optimizer.param_groups[0].get("weight_decay", 0)
        moved.append({n: v.detach() - before[n] * (1 - decay) for n, v in policy.named_parameters()})
    for name in moved[0]:
        factor = 0.25 if name.startswith("state") else 1.0
        torch.testing.assert_close(moved[1][name], factor * moved[0][name], rtol=1e-4, atol=1e-6)


def test_lambda_zero_freezes_the_branch_for_the_window_and_no_plain_step():
    policy, gap = attached(0.0)
    optimizer = gap.watch(torch.optim.SGD(policy.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
    start = policy["state"].weight.detach().clone()
    for context, frozen in (
        (gap.adjusting(None, 0), True),
        (gap.adjusting(None, 1), True),
        (gap.plain(), False),
        (gap.adjusting(None, 2), False),
    ):
        optimizer.zero_grad()
        with context:
            backward(policy)
        optimizer.step()
        assert torch.equal(policy["state"].weight, start) == frozen


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_that_skips_a_step_moves_nothing_and_an_ordinary_step_is_scaled(fused):
    policy, gap = attached(0.25)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.2, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    start = copy.deepcopy(policy.state_dict())
    for step, broken in enumerate((True, False)):
        optimizer.zero_grad()
        with gap.adjusting(None, step):
            backward(policy, scaler)
        if broken:
            policy["head"].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        same = [torch.equal(v, start[n]) for n, v in policy.state_dict().items()]
        assert all(same) if broken else not any(same)
    plain, gap = attached(0.25)
    optimizer = gap.watch(torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.2))
    with gap.adjusting(None, 0):
        backward(plain)
    optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(policy.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_however_parameters_are_divided_over_optimizers_and_groups_each_is_scaled_once():
    found = []
    for way in ("one", "two optimizers", "a later group"):
        policy, gap = attached(0.25)
        state, head = list(policy["state"].parameters()), list(policy["head"].parameters())
        parts = {"one": [[*state, *head]], "two optimizers": [state, head], "a later group": [head]}[way]
        optimizers = [gap.watch(torch.optim.AdamW(part, lr=0.1)) for part in parts]
        if way == "a later group":
            optimizers[0].add_param_group({"params": state})
            assert gap.watch(optimizers[0]) is optimizers[0]
        with gap.adjusting(None, 0):
            backward(policy)
        for optimizer in optimizers:
            optimizer.step()
        found.append([p.detach() for p in policy.parameters()])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))


def test_an_optimizer_resumes_from_a_checkpoint_made_without_gap():
    policy = make_policy()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    backward(policy)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
    gap.watch(optimizer)  # after steps were taken
    optimizer.load_state_dict(saved)
    assert [len(g["params"]) for g in optimizer.state_dict()["param_groups"]] == [4]


def test_parameters_without_a_gradient_are_passed_over():
    policy, gap = attached(0.25)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.2))
    with gap.adjusting(None, 0):
        backward(policy)
    policy["state"].bias.grad = None
    bias = policy["state"].bias.detach().clone()
    optimizer.step()
    assert torch.equal(policy["state"].bias, bias)


def test_which_weight_decay_is_left_unscaled():
    parameter = [nn.Parameter(torch.ones(1, 1))]
    known = {
        torch.optim.AdamW(parameter, weight_decay=0.1): True,
        torch.optim.Adam(parameter, weight_decay=0.1): False,
        torch.optim.SGD(parameter, lr=0.1, weight_decay=0.1): True,
        torch.optim.SGD(parameter, lr=0.1, momentum=0.9, weight_decay=0.1): False,
        torch.optim.RMSprop(parameter, weight_decay=0.1): False,
        torch.optim.Adafactor(parameter, weight_decay=0.1): True,
        torch.optim.Muon(parameter, weight_decay=0.1): True,
    }
    for optimizer, expected in known.items():
        assert unscaled_decay(optimizer, optimizer.param_groups[0]) == expected, type(optimizer)


def test_an_optimizer_that_calls_its_parents_step_is_scaled_once():
    class GoingOn(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.sub_(p.grad)

    moved = []
    for lam in (1.0, 0.25):
        policy, gap = attached(lam)
        before = policy["state"].weight.detach().clone()
        torch.optim.SGD(policy.parameters())  # an optimizer of the parent's class gives its step hooks
        optimizer = gap.watch(GoingOn(policy.parameters(), lr=0.1))
        with gap.adjusting(None, 0):
            backward(policy)
        optimizer.step()
        moved.append(policy["state"].weight.detach() - before)
    torch.testing.assert_close(moved[1], 0.25 * moved[0], rtol=1e-4, atol=1e-6)


def test_lambda_without_a_watched_optimizer_is_an_error_at_the_first_step():
    policy, gap = attached(0.25)
    head = gap.watch(torch.optim.SGD(policy["head"].parameters(), lr=0.1))  # trains nothing that is adjusted
    gap.watch(torch.optim.SGD(policy.parameters(), lr=0.1))  # is gone at once
    with pytest.raises(ConfigError, match=r"state\.weight is watched.*gap\.watch"), gap.adjusting(None, 0):
        backward(policy)
    assert head.param_groups


def test_optimizers_that_step_in_the_backward_pass_are_scaled():
    policy, gap = attached(0.0)
    optimizers = []
    for p in policy.parameters():
        optimizers.append(gap.watch(torch.optim.SGD([p], lr=1.0)))
        p.register_post_accumulate_grad_hook(lambda _, own=optimizers[-1]: own.step())
    before = copy.deepcopy(policy.state_dict())
    with gap.adjusting(None, 0):
        backward(policy)
    same = {name: torch.equal(before[name], value) for name, value in policy.state_dict().items()}
    assert same == {name: name.startswith("state") for name in same}
