"""Which optimizers λ acts on: those that are watched, in their steps alone; what trains beside them is refused."""

import pytest
import torch
from jaxtyping import config
from test_adjustment_torch_optimizer import LAM_ONLY, backward, make_policy

from gap_vla.adjustment.schedule import AdjustmentError
from gap_vla.adjustment.torch import attach


def test_lambda_without_a_watched_optimizer_is_an_error_at_the_first_step():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
    with pytest.raises(ValueError, match=r"state\.weight is watched: call gap\.watch"), gap.adjusting(None, 0):
        backward(policy)
    gap.watch(torch.optim.SGD(policy["head"].parameters(), lr=0.1))  # trains nothing that is adjusted
    with pytest.raises(ValueError, match=r"state\.weight is watched: call gap\.watch"), gap.adjusting(None, 0):
        backward(policy)


def test_an_optimizer_that_is_watched_again_is_scaled_once():
    once, thrice = make_policy(), make_policy()
    for policy, times in ((once, 1), (thrice, 3)):
        gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
        for _ in range(times):
            assert gap.watch(optimizer) is optimizer
        with gap.adjusting(None, 0):
            backward(policy)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), thrice.parameters()))
    with pytest.raises(ValueError, match="is watched already, with decoupled=None; say it the first time"):
        gap.watch(optimizer, decoupled=False)


def test_what_says_nothing_of_the_decay_is_refused(unchecked):
    gap = attach(policy := make_policy(), "state", LAM_ONLY[0.25], total_steps=2)
    with pytest.raises(ValueError, match="decoupled is 'no'; give True or False"):
        gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.1), decoupled="no")


def test_an_optimizer_that_trains_nothing_of_the_state_is_left_alone_whatever_it_is():
    class ScheduleFree(torch.optim.SGD):
        def train(self):
            pass

        def eval(self):
            pass

    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=2)
    gap.watch(ScheduleFree(policy["head"].parameters(), lr=0.1))
    with pytest.raises(ValueError, match="keeps weights of its own"):
        gap.watch(ScheduleFree(policy["state"].parameters(), lr=0.1))


def test_parameters_that_an_optimizer_gets_later_have_the_decay_that_was_said_of_it():
    at_once, later = make_policy(), make_policy()
    for policy, grows in ((at_once, False), (later, True)):
        gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
        first, *further = policy["state"].parameters()
        optimizer = torch.optim.SGD([first] if grows else [first, *further], lr=0.5, weight_decay=0.5)
        gap.watch(optimizer, decoupled=True)
        if grows:
            optimizer.add_param_group({"params": further})
            gap.watch(optimizer)
            gap.watch(optimizer, decoupled=True)
        with gap.adjusting(None, 0):
            backward(policy)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(at_once.parameters(), later.parameters()))


def test_a_step_of_an_optimizer_that_is_not_watched_is_refused_while_lambda_acts():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    first = gap.watch(torch.optim.SGD(policy.parameters(), lr=1.0))
    second = torch.optim.SGD(policy.parameters(), lr=1.0)
    with gap.adjusting(None, 0):
        backward(policy)
    before = policy["state"].weight.detach().clone()
    with pytest.raises(ValueError, match=r"trains state\.weight takes a step and is not watched"):
        second.step()
    policy.zero_grad()
    with pytest.raises(ValueError, match=r"trains state\.weight takes a step and is not watched"):
        second.step(lambda: backward(policy))
    assert torch.equal(policy["state"].weight, before)
    with gap.adjusting(None, 0):
        backward(policy)
    with pytest.raises(ValueError, match="watched already"):
        gap.watch(second)
    other = torch.optim.SGD(policy["head"].parameters(), lr=0.0)
    other.step()  # trains nothing that is adjusted
    del first
    gap.watch(second).step()  # the other one is gone
    torch.testing.assert_close(before - policy["state"].weight, 0.25 * policy["state"].weight.grad)
    gap.detach()
    torch.optim.SGD(policy.parameters(), lr=0.0).step()
    with pytest.raises(ValueError, match="GAP is detached"):
        gap.watch(second)


def test_after_a_step_that_failed_a_step_of_another_optimizer_is_refused():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise MemoryError

    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    watched = gap.watch(Failing(policy.parameters(), lr=1.0))
    with gap.adjusting(None, 0):
        backward(policy)
    with pytest.raises(MemoryError):
        watched.step()
    with pytest.raises(ValueError, match="takes a step and is not watched"):
        torch.optim.SGD(policy.parameters(), lr=1.0).step()


def test_parameters_that_an_optimizer_gets_later_are_watched_with_a_second_call():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    optimizer = gap.watch(torch.optim.SGD([policy["state"].weight], lr=1.0))
    optimizer.add_param_group({"params": [policy["state"].bias]})
    assert gap.watch(optimizer) is optimizer
    with gap.adjusting(None, 0):
        backward(policy)
    before = {n: p.detach().clone() for n, p in policy["state"].named_parameters()}
    optimizer.step()
    for name, p in policy["state"].named_parameters():
        torch.testing.assert_close(before[name] - p, 0.25 * p.grad)


class Wrapper(torch.optim.Optimizer):
    """Hands everything on, and is no optimizer itself, as accelerate's."""

    def __init__(self, inner):
        self.optimizer = inner
        self.param_groups = inner.param_groups

    def step(self, closure=None):
        self.optimizer.step()


@pytest.mark.parametrize("wrap", [Wrapper, lambda inner: {"policy": inner}])
def test_what_takes_no_hooks_on_its_steps_is_refused(wrap):
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    config.update("jaxtyping_disable", True)  # as outside of the tests, in which annotations are checked first
    with pytest.raises(AdjustmentError, match=r"a (Wrapper|dict) takes no hooks on its steps; .*optimizer\.optimizer"):
        gap.watch(wrap(torch.optim.SGD(policy.parameters(), lr=1.0)))
    config.update("jaxtyping_disable", False)


class Around(torch.optim.Optimizer):
    """Steps another optimizer of the same parameters, as Lookahead or SAM does."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        self.inner.step()


def test_an_optimizer_around_another_is_watched_by_its_own_steps():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    inner = torch.optim.SGD(policy.parameters(), lr=1.0)
    outer = gap.watch(Around(inner))
    with gap.adjusting(None, 0):
        backward(policy)
    before = policy["state"].weight.detach().clone()
    outer.step()
    torch.testing.assert_close(before - policy["state"].weight, 0.25 * policy["state"].weight.grad)
    with pytest.raises(ValueError, match="takes a step and is not watched"):
        inner.step()


def test_optimizers_with_weights_or_rates_of_their_own_are_refused():
    class ScheduleFree(torch.optim.SGD):
        def train(self):
            """Puts other weights into the parameters."""

        eval = train

    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.25], total_steps=4)
    with pytest.raises(AdjustmentError, match="ScheduleFree keeps weights of its own"):
        gap.watch(ScheduleFree(policy.parameters(), lr=1.0))
    optimizer = gap.watch(torch.optim.SGD(policy.parameters(), lr=1.0, weight_decay=0.1), decoupled=True)
    optimizer.param_groups[0]["lr"] = None  # as Adafactor of others has, whose steps have sizes of their own
    with gap.adjusting(None, 0):
        backward(policy)
    with pytest.raises(AdjustmentError, match="SGD has no lr of its own"):
        optimizer.step()
