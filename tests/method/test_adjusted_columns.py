"""GAP on a policy that concatenates raw state: the columns that read it learn by 1 - ρ, and nothing else changes."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach_columns
from gap_vla.core.errors import ConfigError

GENERATOR = torch.Generator().manual_seed(3)
IMAGE = torch.randn(4, 2, 6, generator=GENERATOR)
STATE = torch.randn(4, 2, 3, generator=GENERATOR)
RHO = torch.tensor([[0.0, 0.3], [1.0, 0.6], [0.5, 0.0], [0.2, 1.0]])
ONLY_RHO = AdjustmentSchedule(lam=1.0)
STEPS = [slice(5, 8), slice(12, 15)]
"""Where the state of both steps lies behind one time value and, step by step, four image features."""


class Conditioned(nn.Module):
    """Diffusion Policy's way: per step [image features, raw state], flattened, read by a layer of every block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.vision = nn.Linear(6, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Mish(), nn.Linear(15, 5)) for _ in range(2)])
        self.head = nn.Linear(5, 1)

    def forward(self, image, state):
        condition = torch.cat([self.vision(image), state], -1).flatten(1)
        condition = torch.cat([torch.ones(len(condition), 1), condition], -1)
        return self.head((self.blocks[0](condition) * self.blocks[1](condition)).tanh())


COLUMNS = {"blocks.0.1": STEPS, "blocks.1.1": STEPS}


@pytest.fixture
def policy():
    return Conditioned()


def gradients(policy, call=lambda policy: policy(IMAGE, STATE)):
    policy.zero_grad()
    call(policy).square().sum().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}


def per_sample(policy):
    """Gradient of every sample's loss, float32[B, …] a parameter, by vmap."""
    parameters = {n: p.detach() for n, p in policy.named_parameters()}

    def loss(parameters, image, state):
        return torch.func.functional_call(policy, parameters, (image[None], state[None])).square().sum()

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, IMAGE, STATE)


@pytest.mark.parametrize("which", ["step", "current"])
def test_columns_sum_samples_with_one_minus_rho_and_all_other_gradients_stay(policy, which):
    singles, plain, output = per_sample(policy), gradients(policy), policy(IMAGE, STATE)
    schedule = AdjustmentSchedule(lam=1.0, rho=which)
    with attach_columns(policy, COLUMNS, schedule, total_steps=2) as gap, gap.adjusting(RHO, 0):
        assert torch.equal(policy(IMAGE, STATE), output)
        found = gradients(policy)
    read = torch.zeros(15, dtype=torch.bool)
    for step, columns in enumerate(STEPS):
        read[columns] = True
        factor = 1 - RHO[:, step if which == "step" else -1]
        for layer in ("blocks.0.1.weight", "blocks.1.1.weight"):
            expected = torch.einsum("b,boi->oi", factor, singles[layer][:, :, columns])
            torch.testing.assert_close(found[layer][:, columns], expected, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(found[layer][:, columns], plain[layer][:, columns], rtol=1e-2)
    for name, gradient in plain.items():
        if name in ("blocks.0.1.weight", "blocks.1.1.weight"):
            gradient, found[name] = gradient[:, ~read], found[name][:, ~read]
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-7)


def test_what_follows_the_layer_may_work_in_place():
    policy = nn.Sequential(nn.Linear(9, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    plain = policy(torch.cat([IMAGE, STATE], -1))
    gap = attach_columns(policy, {"0": slice(6, 9)}, ONLY_RHO, total_steps=2)
    with gap.adjusting(torch.ones(4, 2), 0):
        output = policy(torch.cat([IMAGE, STATE], -1))
    output.sum().backward()
    assert torch.equal(output, plain)
    assert not policy[0].weight.grad[:, 6:].any() and policy[0].weight.grad[:, :6].any()


def test_tokens_with_an_axis_of_time_use_the_rho_of_their_step():
    policy = nn.ModuleDict({"embed": nn.Linear(5, 2)})
    x = torch.randn(4, 2, 5)
    with attach_columns(policy, {"embed": slice(3, 5)}, ONLY_RHO, total_steps=2) as gap:
        for shape in ((4, 2, 5), (8, 5)):
            policy.zero_grad()
            with gap.adjusting(RHO, 0):
                policy["embed"](x.reshape(shape)).sum().backward()
            expected = torch.cat([x[..., :3], (1 - RHO)[..., None] * x[..., 3:]], -1).sum((0, 1)).expand(2, 5)
            torch.testing.assert_close(policy["embed"].weight.grad, expected)


def test_lambda_scales_the_update_of_these_columns_and_of_no_other():
    moved = []
    for lam in (1.0, 0.25):
        policy = Conditioned()
        before = {n: p.detach().clone() for n, p in policy.named_parameters()}
        schedule = AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=lam)
        gap = attach_columns(policy, COLUMNS, schedule, total_steps=2)
        optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.3))
        with gap.adjusting(None, 0):
            gradients(policy)
        optimizer.step()
        moved.append({n: p.detach() - before[n] * (1 - 0.03) for n, p in policy.named_parameters()})
    for name, expected in moved[0].items():
        if name in ("blocks.0.1.weight", "blocks.1.1.weight"):
            for columns in STEPS:
                expected[:, columns] *= 0.25
        torch.testing.assert_close(moved[1][name], expected, rtol=1e-4, atol=1e-6)


def test_columns_under_autocast_checkpointing_and_after_the_window(policy):
    def again(policy):
        return checkpoint(policy, IMAGE, STATE, use_reentrant=False)

    plain = gradients(policy)
    with attach_columns(policy, COLUMNS, ONLY_RHO, total_steps=2) as gap:
        with gap.adjusting(RHO, 0):
            expected, computed_again = gradients(policy), gradients(policy, again)
        with torch.autocast("cpu", torch.bfloat16), gap.adjusting(RHO, 0):
            half = gradients(policy)
        with gap.adjusting(RHO, 1):  # the window ended
            after = gradients(policy, again)
    detached = gradients(policy)
    for name, gradient in expected.items():
        torch.testing.assert_close(computed_again[name], gradient, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(half[name], gradient, rtol=0.1, atol=0.1)
        assert torch.equal(after[name], plain[name]) and torch.equal(detached[name], plain[name])


class LoRA(nn.Linear):
    """Of which the gradient would not be that of its weight alone."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_columns_that_do_not_exist_and_layers_that_compute_more_than_a_linear_one_are_refused(policy):
    policy.lora = LoRA(15, 5)
    for columns, name in (
        ({"blocks.0.1": slice(12, 16)}, "'blocks.0.1' reads 15 values"),
        ({"blocks.0.1": [slice(0, 3), slice(2, 4)]}, "'blocks.0.1' reads 15 values"),
        ({"blocks.0": slice(0, 3)}, r"'blocks\.0' is a Sequential.*plain nn\.Linear"),
        ({"lora": slice(0, 3)}, "'lora' is a LoRA"),
    ):
        with pytest.raises(ConfigError, match=name):
            attach_columns(policy, columns, ONLY_RHO, total_steps=2)
