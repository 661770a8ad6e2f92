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


@pytest.mark.parametrize("name", [*OPTIMIZERS, "lbfgs"])
def test_lambda_that_is_set_in_the_closure_of_a_step_scales_that_step(name):
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

        optimizer.step(closure)
        decay = 0.1 * optimizer.param_groups[0].get("weight_decay", 0)
        moved.append({n: v.detach() - before[n] * (1 - decay) for n, v in policy.named_parameters()})
    for name in moved[0]:
        torch.testing.assert_close(moved[1][name], moved[0][name] * (0.25 if name.startswith("state") else 1.0))


class Rebinding(torch.optim.Optimizer):
    """Gives the parameters other storage, and clears the gradients."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.data = p.data - p.grad
        self.zero_grad()


class GoingOn(torch.optim.SGD):
    """Does more after its parent's step, which has hooks of its own once there is an optimizer of that class."""

    fails = False

    def step(self, closure=None):
        super().step(closure)
        if self.fails:
            raise MemoryError
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad)


@pytest.mark.parametrize("kind", [Rebinding, GoingOn])
def test_lambda_scales_all_that_an_optimizer_of_its_own_kind_does_and_once(kind):
    moved = []
    for lam in (1.0, 0.25):
        policy = make_policy()
        before = policy["state"].weight.detach().clone()
        torch.optim.SGD(policy.parameters())
        optimizer = GoingOn(policy.parameters(), lr=0.1) if kind is GoingOn else Rebinding(policy.parameters(), {})
        gap = attach(policy, "state", LAM_ONLY[lam], total_steps=2)
        gap.watch(optimizer)
        with gap.adjusting(None, 0):
            backward(policy)
        optimizer.step()
        moved.append(policy["state"].weight.detach() - before)
    torch.testing.assert_close(moved[1], 0.25 * moved[0], rtol=1e-4, atol=1e-6)


def test_lambda_acts_again_after_a_step_that_failed():
    policy = make_policy()
    torch.optim.SGD(policy.parameters())
    gap = attach(policy, "state", LAM_ONLY[0.0], total_steps=9)
    optimizer = gap.watch(GoingOn(policy.parameters(), lr=0.1))
    for optimizer.fails in (True, False):
        with gap.adjusting(None, 0):
            backward(policy)
        before = policy["state"].weight.detach().clone()
        if optimizer.fails:
            with pytest.raises(MemoryError):
                optimizer.step()
    optimizer.step()
    assert torch.equal(policy["state"].weight, before)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adafactor, torch.optim.Muon])
def test_decay_of_the_parameter_itself_is_not_scaled(kind):
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    weight = policy["state"].weight
    kept = gap.watch(torch.optim.SGD([policy["state"].bias], lr=0.1))
    optimizer = gap.watch(kind([weight], lr=0.1, weight_decay=0.5))
    with gap.adjusting(None, 0):
        (0 * policy["state"](X)).sum().backward()
    before = weight.detach().clone()
    optimizer.step()
    kept.step()
    torch.testing.assert_close(weight.detach(), before * 0.95)


def test_lambda_without_a_watched_optimizer_is_an_error_at_the_first_step():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
    head = gap.watch(torch.optim.SGD(policy["head"].parameters(), lr=0.1))  # trains nothing that is adjusted
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"state\.weight is watched.*gap\.watch"), gap.adjusting(None, 0):
            backward(policy)
        gap.watch(torch.optim.SGD(policy.parameters(), lr=0.1))  # is gone at once
    assert head.param_groups


def test_an_optimizer_that_is_watched_again_or_given_parameters_later_is_scaled_once():
    once, thrice = make_policy(), make_policy()
    for policy, grows in ((once, False), (thrice, True)):
        gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
        weight, *others = [p for name, p in sorted(policy.named_parameters(), reverse=True)]
        optimizer = gap.watch(torch.optim.AdamW([weight] if grows else [weight, *others], lr=0.1))
        if grows:
            optimizer.add_param_group({"params": others})
            assert gap.watch(optimizer) is gap.watch(optimizer) is optimizer
        with gap.adjusting(None, 0):
            backward(policy)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), thrice.parameters()))


def test_of_a_wrapper_the_optimizer_within_is_watched():
    class Wrapper(torch.optim.Optimizer):
        """As accelerate's."""

        def __init__(self, inner):
            self.optimizer, self.param_groups = inner, inner.param_groups

        def step(self, closure=None):
            self.optimizer.step()

    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.0], total_steps=4)
    optimizer = gap.watch(Wrapper(torch.optim.SGD(policy.parameters(), lr=1.0)))
    with gap.adjusting(None, 0):
        backward(policy)
    before = policy["state"].weight.detach().clone()
    optimizer.step()
    assert torch.equal(policy["state"].weight, before)


def test_optimizers_that_step_in_the_backward_pass_are_scaled():
    policy = make_policy()
    gap, optimizers = attach(policy, "state", LAM_ONLY[0.0], total_steps=2), []
    for p in policy.parameters():
        optimizers.append(gap.watch(torch.optim.SGD([p], lr=1.0)))
        p.register_post_accumulate_grad_hook(lambda _, own=optimizers[-1]: own.step())
    before = copy.deepcopy(policy.state_dict())
    with gap.adjusting(None, 0):
        backward(policy)
    same = {name: torch.equal(before[name], value) for name, value in policy.state_dict().items()}
    assert same == {name: name.startswith("state") for name in same}
