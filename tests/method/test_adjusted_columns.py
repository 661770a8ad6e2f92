"""GAP on a policy that concatenates raw state: the columns that read it learn by 1 - ρ, and nothing else changes."""

import pytest
import torch
from torch import nn

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach_columns
from gap_vla.core.errors import ConfigError

GENERATOR = torch.Generator().manual_seed(3)
IMAGE = torch.randn(4, 2, 6, generator=GENERATOR)
STATE = torch.randn(4, 2, 3, generator=GENERATOR)
RHO = torch.tensor([[0.0, 0.3], [1.0, 0.6], [0.5, 0.0], [0.2, 1.0]])
STEPS = [slice(5, 8), slice(12, 15)]
"""Where the state of both steps lies behind one time value and, step by step, four image features."""


class Conditioned(nn.Module):
    """Diffusion Policy's way: per step [image features, raw state], flattened, read by a layer of every block."""

    def __init__(self):
        super().__init__()
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
    torch.manual_seed(0)
    return Conditioned()


def gradients(policy):
    policy.zero_grad()
    policy(IMAGE, STATE).square().sum().backward()
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


def test_a_rho_of_one_gives_these_columns_no_gradient_at_all(policy):
    schedule = AdjustmentSchedule(lam=1.0)
    with attach_columns(policy, COLUMNS, schedule, total_steps=2) as gap, gap.adjusting(torch.ones(4, 2), 0):
        found = gradients(policy)
    assert not found["blocks.0.1.weight"][:, 5:8].any() and found["blocks.0.1.weight"][:, 8:12].all()


@pytest.mark.parametrize("after", [nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.ReLU()])
def test_what_follows_the_layer_may_work_in_place(after):
    policy = nn.Sequential(nn.Linear(9, 4), after, nn.Linear(4, 1))
    plain = policy(torch.cat([IMAGE, STATE], -1))
    gap = attach_columns(policy, {"0": slice(6, 9)}, AdjustmentSchedule(lam=1.0), total_steps=2)
    with gap.adjusting(torch.ones(4, 2), 0):
        output = policy(torch.cat([IMAGE, STATE], -1))
    output.sum().backward()
    assert torch.equal(output, plain)
    assert not policy[0].weight.grad[:, 6:].any() and policy[0].weight.grad[:, :6].any()


def test_columns_keep_their_gradient_where_another_hook_changes_the_output(policy):
    policy.blocks[0][1].register_forward_hook(lambda layer, inputs, output: torch.tanh(3 * output))
    singles = per_sample(policy)["blocks.0.1.weight"]
    with (
        attach_columns(policy, COLUMNS, AdjustmentSchedule(lam=1.0), total_steps=2) as gap,
        gap.adjusting(RHO[:, 0], 0),
    ):
        found = gradients(policy)["blocks.0.1.weight"]
    for columns in STEPS:
        expected = torch.einsum("b,boi->oi", 1 - RHO[:, 0], singles[:, :, columns])
        torch.testing.assert_close(found[:, columns], expected, rtol=1e-5, atol=1e-6)


def test_tokens_with_an_axis_of_time_use_the_rho_of_their_step():
    torch.manual_seed(0)
    policy = nn.ModuleDict({"embed": nn.Linear(5, 2)})
    x = torch.randn(4, 2, 5)
    with attach_columns(policy, {"embed": slice(3, 5)}, AdjustmentSchedule(lam=1.0), total_steps=2) as gap:
        for shape in ((4, 2, 5), (8, 5)):
            policy.zero_grad()
            with gap.adjusting(RHO, 0):
                policy["embed"](x.reshape(shape)).sum().backward()
            expected = torch.cat([x[..., :3], (1 - RHO)[..., None] * x[..., 3:]], -1).sum((0, 1)).expand(2, 5)
            torch.testing.assert_close(policy["embed"].weight.grad, expected)


def test_lambda_scales_the_update_of_these_columns_and_of_no_other(policy):
    moved = []
    for lam in (1.0, 0.25):
        torch.manual_seed(0)
        policy = Conditioned()
        before = {n: p.detach().clone() for n, p in policy.named_parameters()}
        schedule = AdjustmentSchedule(mode="fixed", fixed_rho=0.0, lam=lam)
        gap = attach_columns(policy, COLUMNS, schedule, total_steps=2)
        optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.3))
        with gap.adjusting(None, 0):
            gradients(policy)
        optimizer.step()
        moved.append({n: p.detach() - before[n] * (1 - 0.03) for n, p in policy.named_parameters()})
    for name in moved[0]:
        expected = moved[0][name].clone()
        if name in ("blocks.0.1.weight", "blocks.1.1.weight"):
            for columns in STEPS:
                expected[:, columns] *= 0.25
        torch.testing.assert_close(moved[1][name], expected, rtol=1e-4, atol=1e-6)


def test_columns_under_autocast_checkpointing_and_after_the_window(policy):
    from torch.utils.checkpoint import checkpoint

    plain = gradients(policy)
    with attach_columns(policy, COLUMNS, AdjustmentSchedule(lam=1.0), total_steps=2) as gap:
        with gap.adjusting(RHO, 0):
            expected = gradients(policy)
        policy.zero_grad()
        with gap.adjusting(RHO, 0):
            loss = checkpoint(policy, IMAGE, STATE, use_reentrant=False).square().sum()
        loss.backward()
        for name, parameter in policy.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-7)
        with torch.autocast("cpu", torch.bfloat16), gap.adjusting(RHO, 0):
            half = gradients(policy)
        for name in half:
            torch.testing.assert_close(half[name], expected[name], rtol=0.1, atol=0.1)
        policy.zero_grad()
        with gap.adjusting(RHO, 1):  # the window ended
            loss = checkpoint(policy, IMAGE, STATE, use_reentrant=False).square().sum()
        loss.backward()
        assert all(torch.equal(p.grad, plain[n]) for n, p in policy.named_parameters())
    assert all(torch.equal(plain[n], g) for n, g in gradients(policy).items())


def test_columns_that_do_not_exist_and_layers_that_are_not_linear_are_refused(policy):
    def refused(columns, name):
        with pytest.raises(ConfigError, match=name):
            attach_columns(policy, columns, AdjustmentSchedule(lam=1.0), total_steps=2)

    for wrong in (slice(12, 16), [slice(0, 3), slice(2, 4)], slice(3, 3), slice(-3, None), []):
        refused({"blocks.0.1": wrong}, "'blocks.0.1' reads 15 values")
    refused({"blocks.0": slice(0, 3)}, r"'blocks\.0' is a Sequential.*plain nn\.Linear")
    refused({"block.0.1": slice(0, 3)}, r"near that: .*blocks\.0\.1")
    refused({}, "no part")
    policy.rnn = nn.LSTM(9, 4)
    refused({"rnn": slice(0, 5)}, "'rnn' is a LSTM")
    policy.tied = nn.Linear(15, 5)
    policy.tied.weight = policy.blocks[0][1].weight
    refused({"blocks.0.1": slice(0, 3)}, r"tied\.weight is shared")


def test_one_slice_for_a_window_needs_the_rho_of_its_last_step(policy):
    gap = attach_columns(policy, {"blocks.1.1": slice(5, 8)}, AdjustmentSchedule(lam=1.0), total_steps=2)
    with pytest.raises(ConfigError, match="rho='current'"), gap.adjusting(RHO, 0):
        gradients(policy)


class Doubled(nn.Linear):
    """Of which the gradient would not be that of its weight alone."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("layer", [Doubled(5, 2), nn.utils.parametrizations.weight_norm(nn.Linear(5, 2))])
def test_a_layer_that_computes_more_than_a_linear_one_is_refused(layer):
    with pytest.raises(ConfigError, match=r"'0' is a \w*Linear|'0' is a Doubled"):
        attach_columns(nn.Sequential(layer), {"0": slice(3, 5)}, AdjustmentSchedule(), total_steps=10)
