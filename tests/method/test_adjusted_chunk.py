"""M6 for each predicted action of a torch policy (`rho="chunk"`)."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach, attach_columns
from gap_vla.core.errors import ConfigError
from tests.helpers.torch_policy import IMAGE, PROPRIO, TARGET, Policy

CHUNK = AdjustmentSchedule(lam=1.0, rho="chunk")
RHO = torch.tensor([[0.0, 0.3], [0.9, 1.0], [0.5, 0.0], [1.0, 0.2]])  # of two actions: the policy's two outputs
MASK = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]], dtype=torch.bool)


@pytest.fixture
def policy():
    return Policy()


def losses(policy, output=None):
    return ((policy(IMAGE, PROPRIO) if output is None else output) - TARGET) ** 2


def mean(found):
    return found[MASK].mean()


def taken(policy, loss):
    policy.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}


def two_passes(policy):
    """Gradients of w·head(v, p) + (1 - w)·head(v, stop_gradient(p)), as METHOD writes it."""
    vision, state = policy.vision(IMAGE), policy.state(PROPRIO)
    whole, stopped = (policy.head(torch.cat([vision, p], -1)).tanh() for p in (state, state.detach()))
    return taken(policy, mean(losses(policy, (1 - RHO) * whole + RHO * stopped)))


def chunk_gradients(policy, rho=RHO, step=0, make=None):
    with (make or (lambda: attach(policy, "state", CHUNK, total_steps=2)))() as gap, gap.adjusting(rho, step):
        return taken(policy, mean(gap.scale_losses(losses(policy))))


def close(found, expected):
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7)


def test_each_action_has_its_own_factor_as_in_two_passes_through_the_head(policy):
    plain, found = taken(policy, mean(losses(policy))), chunk_gradients(policy)
    close(found, two_passes(policy))
    for name in plain:
        assert torch.equal(plain[name], found[name]) != name.startswith("state"), name
    with attach(policy, "state", CHUNK, total_steps=2) as gap, gap.adjusting(RHO, 0):
        assert torch.equal(gap.scale_losses(losses(policy)), losses(policy))


def test_columns_of_a_layer_learn_from_each_action_by_its_own_factor(policy):
    plain = taken(policy, mean(losses(policy)))
    weighted = taken(policy, (losses(policy) * (1 - RHO) * MASK).sum() / MASK.sum())
    expected = {**plain, "head.weight": torch.cat([plain["head.weight"][:, :4], weighted["head.weight"][:, 4:]], 1)}
    make = lambda: attach_columns(policy, {"head": slice(4, 8)}, CHUNK, total_steps=2)  # noqa: E731
    close(chunk_gradients(policy, make=make), expected)


def test_passes_are_summed_and_other_terms_of_the_loss_are_not_adjusted(policy):
    plain, once = taken(policy, mean(losses(policy))), chunk_gradients(policy)
    with attach(policy, "state", CHUNK, total_steps=2) as gap:
        with gap.adjusting(RHO, 0):
            first = mean(gap.scale_losses(losses(policy)))
        with gap.adjusting(RHO, 0):
            second = mean(gap.scale_losses(losses(policy)))
        with gap.plain():
            other = mean(gap.scale_losses(losses(policy)))
        found = taken(policy, first + second + other)
        close(found, {name: 2 * once[name] + plain[name] for name in plain})
        with gap.plain():
            assert torch.equal(taken(policy, mean(losses(policy)))["state.0.weight"], plain["state.0.weight"])


def test_after_the_window_and_after_detaching_gradients_are_plain(policy):
    plain = taken(policy, mean(losses(policy)))
    for found in (chunk_gradients(policy, step=1), taken(policy, mean(losses(policy)))):
        assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_activation_checkpointing_and_dropout_are_gone_through_twice_with_the_same_draws():
    class Dropped(Policy):
        def forward(self, image, proprio):
            def rest(x):
                return self.head(nn.functional.dropout(x, 0.5)).tanh()

            return checkpoint(rest, torch.cat([self.vision(image), self.state(proprio)], -1), use_reentrant=False)

    policy = Dropped()
    torch.manual_seed(3)
    found = chunk_gradients(policy)
    torch.manual_seed(3)
    weighted = taken(policy, (losses(policy) * (1 - RHO) * MASK).sum() / MASK.sum())
    close(found, {name: weighted[name] for name in weighted if name.startswith("state")})


def test_rho_of_another_length_and_losses_that_do_not_pass_are_refused(policy):
    gap = attach(policy, "state", CHUNK, total_steps=2)
    with pytest.raises(ConfigError, match=r"rho is \[4, 3\] and the losses are \[4, 2\]"):
        with gap.adjusting(torch.zeros(4, 3), 0):
            gap.scale_losses(losses(policy))
    with pytest.raises(ConfigError, match="scale_losses"), gap.adjusting(RHO, 0):
        losses(policy)
