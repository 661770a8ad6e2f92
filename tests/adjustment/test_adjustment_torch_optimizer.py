"""λ on an optimizer's steps: the update is scaled, whatever the optimizer, and nothing else."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks, register_optimizer_step_pre_hook

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach
from gap_vla.adjustment.torch_optimizer import unscaled_decay

GENERATOR = torch.Generator().manual_seed(2)
X = torch.randn(8, 3, generator=GENERATOR)
LAM_ONLY = {lam: AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=lam) for lam in (1.0, 0.25, 0.0)}


def make_policy():
    torch.manual_seed(0)
    return nn.ModuleDict({"state": nn.Linear(3, 4), "head": nn.Linear(4, 1)})


def backward(policy, scaler=None):
    loss = policy["head"](policy["state"](X).tanh()).square().mean()
    (loss if scaler is None else scaler.scale(loss)).backward()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, foreach=False),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, fused=True),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, amsgrad=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lambda_scales_the_update_but_not_the_weight_decay_nor_the_scheduled_rate(name):
    moved = []
    for lam in (1.0, 0.25):
        policy = make_policy()
        before = {n: v.detach().clone() for n, v in policy.named_parameters()}
        gap = attach(policy, "state", LAM_ONLY[lam], total_steps=2)
        optimizer = gap.watch(OPTIMIZERS[name](policy.parameters()))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        with gap.adjusting(None, 0):
            backward(policy)
        optimizer.step()
        scheduler.step()
        assert [g["lr"] for g in optimizer.param_groups] == [0.05]
        decay = 0.1 * optimizer.param_groups[0]["weight_decay"]
        moved.append({n: v.detach() - before[n] * (1 - decay) for n, v in policy.named_parameters()})
    for name in moved[0]:
        factor = 0.25 if name.startswith("state") else 1.0
        torch.testing.assert_close(moved[1][name], factor * moved[0][name], rtol=1e-4, atol=1e-6)


def test_lambda_zero_freezes_the_branch_for_the_window_and_not_a_step_longer():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.0], total_steps=4)
    optimizer = gap.watch(torch.optim.SGD(policy.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
    start = policy["state"].weight.detach().clone()
    for step in range(3):
        optimizer.zero_grad()
        with gap.adjusting(None, step):
            backward(policy)
        optimizer.step()
        assert torch.equal(policy["state"].weight, start) == (step < 2)


def test_lambda_scales_one_step_after_a_pass_that_is_left_plain():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.0], total_steps=9)
    optimizers = [
        gap.watch(torch.optim.SGD([p for n, p in policy.named_parameters() if n.endswith(end)], lr=0.1))
        for end in ("weight", "bias")
    ]
    start = policy["state"].weight.detach().clone()
    with gap.adjusting(None, 0):
        backward(policy)
    for step in range(2):
        with gap.plain():
            backward(policy)
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(policy["state"].weight, start) == (step < 1)


def test_a_gradient_scaler_that_skips_a_step_moves_nothing_and_an_ordinary_step_is_scaled():
    results = {}
    for fused in (False, True):
        policy = make_policy()
        gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
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
        results[fused] = policy.state_dict()
    plain = make_policy()
    gap = attach(plain, "state", LAM_ONLY[0.25], total_steps=4)
    optimizer = gap.watch(torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.2))
    with gap.adjusting(None, 0):
        backward(plain)
    optimizer.step()
    for name, value in plain.state_dict().items():
        for found in results.values():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_each_of_several_optimizers_is_scaled_on_its_own_parameters():
    once, twice = make_policy(), make_policy()
    for policy, split in ((once, False), (twice, True)):
        gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
        groups = [policy["head"].parameters(), policy["state"].parameters()] if split else [policy.parameters()]
        optimizers = [torch.optim.AdamW(list(group), lr=0.1) for group in groups]
        for optimizer in optimizers:
            gap.watch(optimizer)
        with gap.adjusting(None, 0):
            backward(policy)
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters()))


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
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.2))
    with gap.adjusting(None, 0):
        backward(policy)
    policy["state"].bias.grad = None
    bias = policy["state"].bias.detach().clone()
    optimizer.step()
    assert torch.equal(policy["state"].bias, bias)


def test_which_weight_decay_is_left_unscaled():
    parameter = [nn.Parameter(torch.ones(1))]
    known = {
        torch.optim.AdamW(parameter, weight_decay=0.1): True,
        torch.optim.Adam(parameter, weight_decay=0.1): False,
        torch.optim.SGD(parameter, lr=0.1, weight_decay=0.1): True,
        torch.optim.SGD(parameter, lr=0.1, momentum=0.9, weight_decay=0.1): False,
        torch.optim.RMSprop(parameter, weight_decay=0.1): False,
    }
    for optimizer, expected in known.items():
        assert unscaled_decay(optimizer, optimizer.param_groups[0]) == expected, type(optimizer)


def test_optimizers_of_others_do_not_keep_a_policy_that_is_gone():
    def attached():
        policy = make_policy()
        attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
        return weakref.ref(policy["state"]), len(_global_optimizer_pre_hooks)

    (gone, hooks), (_, again) = attached(), attached()
    gc.collect()
    assert gone() is None and hooks == again


def test_a_policy_that_goes_while_an_optimizer_walks_over_its_hooks_disturbs_no_step():
    policy = make_policy()
    attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    held = [policy]
    handles = [register_optimizer_step_pre_hook(lambda *_: held.clear() or (gc.collect() and None))]
    handles.append(register_optimizer_step_pre_hook(lambda *_: None))  # one more to walk on to
    try:
        other = make_policy()
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        backward(other)
        del policy
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert not held


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("name", [*OPTIMIZERS, "lbfgs"])
def test_lambda_that_is_set_in_the_closure_of_a_step_scales_that_step(name, by_name):
    makers = {**OPTIMIZERS, "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3)}
    moved = []
    for lam in (1.0, 0.25):
        policy = make_policy()
        before = {n: v.detach().clone() for n, v in policy.named_parameters()}
        gap = attach(policy, "state", LAM_ONLY[lam], total_steps=4)
        optimizer = gap.watch(makers[name](policy.parameters()))

        def closure(policy=policy, gap=gap, optimizer=optimizer):
            optimizer.zero_grad()
            with gap.adjusting(None, 0):
                loss = policy["head"](policy["state"](X).tanh()).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        decay = 0.1 * optimizer.param_groups[0].get("weight_decay", 0)
        moved.append({n: v.detach() - before[n] * (1 - decay) for n, v in policy.named_parameters()})
    for name in moved[0]:
        torch.testing.assert_close(moved[1][name], moved[0][name] * (0.25 if name.startswith("state") else 1.0))


def test_a_step_whose_closure_gives_no_gradient_decays_nothing():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.5))
    with gap.adjusting(None, 0):
        policy["state"](X)
    before = policy["state"].weight.detach().clone()
    optimizer.step(lambda: policy["head"].weight.square().sum().backward())
    assert torch.equal(policy["state"].weight, before)


class Clearing(torch.optim.Optimizer):
    """Clears the gradients in its step."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad)
        self.zero_grad()


class GoingOn(torch.optim.SGD):
    """Does more after its parent's step, which has hooks of its own once there is an optimizer of that class."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad)


@pytest.mark.parametrize("kind", [Clearing, GoingOn])
def test_lambda_scales_all_that_an_optimizer_of_its_own_kind_does_and_once(kind):
    moved, averaged = [], []
    for lam in (1.0, 0.25):
        policy = make_policy()
        before = policy["state"].weight.detach().clone()
        torch.optim.SGD(policy.parameters())
        optimizer = GoingOn(policy.parameters(), lr=0.1) if kind is GoingOn else Clearing(policy.parameters(), {})
        optimizer.register_step_post_hook(lambda *_, p=policy: averaged.append(p["state"].weight.detach().clone()))
        gap = attach(policy, "state", LAM_ONLY[lam], total_steps=2)
        gap.watch(optimizer)
        with gap.adjusting(None, 0):
            backward(policy)
        optimizer.step()
        assert torch.equal(averaged[-1], policy["state"].weight)  # a hook that was there before sees what the step left
        moved.append(policy["state"].weight.detach() - before)
    torch.testing.assert_close(moved[1], 0.25 * moved[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adafactor, torch.optim.Muon])
def test_decay_of_the_parameter_itself_is_not_scaled(kind):
    policy = make_policy()
    gap = attach(policy, "state", AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=0.25), total_steps=4)
    weight = policy["state"].weight
    kept = gap.watch(torch.optim.SGD([policy["state"].bias], lr=0.1))
    optimizer = gap.watch(kind([weight], lr=0.1, weight_decay=0.5))
    with gap.adjusting(None, 0):
        (0 * policy["state"](X)).sum().backward()
    before = weight.detach().clone()
    optimizer.step()
    kept.step()
    torch.testing.assert_close(weight.detach(), before * 0.95)
