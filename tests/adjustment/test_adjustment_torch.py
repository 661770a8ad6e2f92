"""GAP on a PyTorch policy: what it changes, what it leaves alone."""

import contextlib
import copy
import io
import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch_policy import IMAGE, ONLY_RHO, PROPRIO, RHO, TARGET, Policy

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.schedule import AdjustmentError
from gap_vla.adjustment.torch import attach, scale_gradient
from gap_vla.adjustment.torch_gradients import overlap


def gradients(policy, image=IMAGE, proprio=PROPRIO, target=TARGET):
    policy.zero_grad()
    ((policy(image, proprio) - target) ** 2).mean().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}


def adjusted(policy, rho=RHO, step=0):
    with attach(policy, "state", ONLY_RHO, total_steps=10) as gap, gap.adjusting(rho, step):
        return gradients(policy)


def test_forward_is_identical_and_only_the_proprio_gradient_changes(policy):
    plain, output = gradients(policy), policy(IMAGE, PROPRIO)
    gap = attach(policy, "state", ONLY_RHO, total_steps=10)
    with gap.adjusting(RHO, 0):
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
    for found in (adjusted(policy, step=5), adjusted(policy, rho=None, step=5), gradients(policy)):
        assert all(torch.equal(plain[name], found[name]) for name in plain)


@pytest.mark.parametrize("total_steps", [0, -5, True])
def test_a_number_of_steps_in_which_gap_never_acts_is_refused(policy, total_steps):
    with pytest.raises(AdjustmentError, match=r"total_steps is .*; it must be a whole number from 1"):
        attach(policy, "state", ONLY_RHO, total_steps=total_steps)


def test_what_follows_the_submodule_may_work_in_place():
    class InPlace(Policy):
        def forward(self, image, proprio):
            return self.head(torch.cat([self.vision(image), self.state(proprio).relu_()], -1)).tanh()

    policy = InPlace()
    plain = gradients(policy)
    with attach(policy, "state", ONLY_RHO, total_steps=10) as gap, gap.adjusting(torch.zeros(4), 0):
        found = gradients(policy)
    assert all(torch.equal(plain[name], found[name]) for name in plain)


class Outputs(nn.Module):
    """Tokens, and whatever else is made of them."""

    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(3, 4), make

    def forward(self, x):
        return self.make(self.layer(x))


@pytest.mark.parametrize(
    ("make", "change", "sound"),
    [
        (lambda t: (t, t[:, -1]), lambda t, last: t.add_(1), False),
        (lambda t: (t, t[:, -1]), lambda t, last: last.relu_(), False),
        (lambda t: (t, t[:, -1]), lambda t, last: t[:, 1:].mul_(2), False),
        (lambda t: (t, t.detach()), lambda t, fixed: t.add_(1), False),
        (lambda t: (t[:, :2], t[:, 1:]), lambda early, late: early.add_(1), False),
        (lambda t: (t, t), lambda t, same: t.relu_(), True),
        (lambda t: (t[..., :2], t[..., 2:]), lambda left, right: left.relu_(), True),
        (lambda t: (t, t[:, -1] + 1), lambda t, last: last.relu_(), True),
        (lambda t: (t[..., ::2], t.transpose(1, 2)[:, 1::2]), lambda even, odd: odd.relu_(), True),
        (lambda t: (t.unfold(1, 2, 1)[:, :1], t[:, 1:]), lambda windows, late: late.relu_(), False),
        (lambda t: (t[..., ::2], t[:, :0]), lambda even, empty: even.relu_(), True),
        (lambda t: (t, t[:, -1]), lambda t, last: None, True),
    ],
)
def test_outputs_that_share_values_are_never_cut_apart_unnoticed(make, change, sound):
    torch.manual_seed(0)
    encoder, x = nn.ModuleDict({"state": Outputs(make)}), torch.randn(4, 3, 3)

    def run():
        outputs = encoder["state"](x)
        change(*outputs)
        return [output.detach().clone() for output in outputs if output.requires_grad], outputs

    plain, _ = run()
    with attach(encoder, "state", ONLY_RHO, total_steps=2) as gap, gap.adjusting(torch.ones(4), 0):
        try:
            found, outputs = run()
        except RuntimeError as refused:
            assert "is a view and is being modified inplace" in str(refused) and not sound
            return
    assert all(map(torch.equal, plain, found)) and len(plain) == len(found)
    sum(output.sum() for output in outputs).backward()
    assert not encoder["state"].layer.weight.grad.any()


class Nothing(TorchDispatchMode):
    def __torch_dispatch__(self, operation, *_):
        raise AssertionError(f"{operation} is computed")


def test_parts_of_one_tensor_are_told_apart_without_a_look_at_its_values():
    left, right = torch.zeros(256, 1024).chunk(2, -1)
    parts = [*left.chunk(8, -1), *right.unflatten(-1, (64, 8)).chunk(8, 1), *right[:, :0].chunk(1)]
    with Nothing():
        assert not any(overlap(one, other) for one, other in itertools.combinations(parts, 2))
        assert overlap(parts[3], left) and not overlap(parts[3], right)


def test_adjusting_after_detaching_says_that_nothing_is_adjusted(policy):
    gap = attach(policy, "state", ONLY_RHO, total_steps=10)
    with gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)
    gap.detach()
    with pytest.raises(AdjustmentError, match="GAP is detached from this policy: attach it again"):
        gap.adjusting(RHO, 1).__enter__()
    with gap.adjusting(RHO, 9):  # after the window, as of a training that ends without GAP
        policy(IMAGE, PROPRIO)


def test_detaching_leaves_policy_and_optimizer_bit_for_bit_as_they_were(policy):
    def picture(module):
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        hooks = [(n, k, v) for n, m in module.named_modules() for k, v in vars(m).items() if "hook" in k]
        return file.getvalue(), repr(hooks), policy(IMAGE, PROPRIO)

    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    before, groups = picture(policy), repr(optimizer.param_groups)
    with attach(policy, "state", AdjustmentSchedule(lam=0.3), total_steps=10) as gap:
        gap.watch(optimizer)
        assert policy.state._forward_hooks and optimizer._optimizer_step_pre_hooks
        copied = copy.deepcopy(policy).eval()  # as a moving average of the weights does
        assert torch.equal(copied(IMAGE, PROPRIO), before[2])
    after = picture(policy)
    assert after[:2] == before[:2] and torch.equal(after[2], before[2])
    assert repr(optimizer.param_groups) == groups
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_a_window_of_rho_reaches_tokens_of_their_own_step():
    torch.manual_seed(0)
    module = nn.ModuleDict({"state": nn.Linear(3, 4, bias=False)})
    x, rho = torch.randn(2, 3, 3), torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 0.0]])
    gap = attach(module, "state", ONLY_RHO, total_steps=2)
    for shape in ((2, 3, 3), (6, 3)):
        module.zero_grad()
        with gap.adjusting(rho, 0):
            module["state"](x.reshape(shape)).sum().backward()
        expected = ((1 - rho)[..., None] * x).sum((0, 1)).expand(4, 3)
        torch.testing.assert_close(module["state"].weight.grad, expected)
    with pytest.raises(ValueError, match="differs over the window"), gap.adjusting(rho, 0):
        module["state"](x[:, 0])


def test_the_current_rho_reaches_all_tokens_of_its_window():
    module = nn.ModuleDict({"state": nn.Linear(3, 4, bias=False)})
    x, rho = torch.randn(2, 3, 3), torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 0.25]])
    gap = attach(module, "state", AdjustmentSchedule(lam=1.0, rho="current"), total_steps=2)
    for given in (rho, rho[:, -1]):
        module.zero_grad()
        with gap.adjusting(given, 0):
            module["state"](x).sum().backward()
        expected = (torch.tensor([0.0, 0.75])[:, None] * x.sum(1)).sum(0).expand(4, 3)
        torch.testing.assert_close(module["state"].weight.grad, expected)


class TwoViews(nn.Module):
    """An encoder that returns a tuple with a dict in it."""

    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x):
        return self.near(x), {"far": self.far(x), "count": 7}


def test_tuples_and_several_calls_in_a_step_are_adjusted_whole():
    torch.manual_seed(0)
    policy = nn.ModuleDict({"state": TwoViews()})
    samples = torch.randn(4, 3), torch.randn(4, 3)

    def run(rows):
        policy.zero_grad()
        for x in samples:
            near, rest = policy["state"](x[rows])
            assert rest["count"] == 7
            (near.square().sum() + rest["far"].pow(3).sum()).backward()
        return [p.grad.clone() for p in policy.parameters()]

    singles = [run(slice(b, b + 1)) for b in range(4)]
    with attach(policy, "state", ONLY_RHO, total_steps=2) as gap, gap.adjusting(RHO, 0):
        found = run(slice(0, 4))
    for i, gradient in enumerate(found):
        expected = sum((1 - RHO[b]) * singles[b][i] for b in range(4))
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_several_submodules_are_adjusted_together(policy):
    plain = gradients(policy)
    with attach(policy, ["state.0", "vision"], ONLY_RHO, total_steps=2) as gap, gap.adjusting(torch.ones(4), 0):
        found = gradients(policy)
    for name in plain:
        if name.startswith(("state.0", "vision")):
            assert not found[name].any()
        else:
            assert torch.equal(found[name], plain[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_factors_are_applied_in_full_precision(dtype):
    x = torch.randn(4, 8, dtype=dtype, requires_grad=True)
    factor, cotangent = torch.tensor([1.0, 0.999, 0.3, 0.0]), torch.randn(4, 8).to(dtype)
    scale_gradient(x, factor).backward(cotangent)
    assert torch.equal(x.grad, (cotangent.float() * factor[:, None]).to(dtype))


def test_autocast_and_gradient_accumulation(policy):
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    policy.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        for half in (slice(0, 2), slice(2, 4)):
            with gap.adjusting(RHO[half], 0):
                loss = ((policy(IMAGE[half], PROPRIO[half]) - TARGET[half]) ** 2).mean()
            loss.backward()
    summed = {n: p.grad.clone() / 2 for n, p in policy.named_parameters()}
    gap.detach()
    whole = adjusted(policy)
    for name in whole:
        torch.testing.assert_close(summed[name], whole[name], rtol=0.1, atol=0.02)


def test_a_later_backward_pass_uses_the_rho_of_its_own_forward_pass(policy):
    whole = adjusted(policy)
    with attach(policy, "state", ONLY_RHO, total_steps=10) as gap:
        policy.zero_grad()
        losses = []
        for half in (slice(0, 2), slice(2, 4)):
            with gap.adjusting(RHO[half], 0):
                losses.append(((policy(IMAGE[half], PROPRIO[half]) - TARGET[half]) ** 2).mean() / 2)
        sum(losses).backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-7)


class ForeignCheckpoint(torch.autograd.Function):
    """Reentrant activation checkpointing of others than torch."""

    @staticmethod
    def forward(ctx, function, *tensors):
        ctx.function, ctx.tensors = function, tensors
        with torch.no_grad():
            return function(*tensors)

    @staticmethod
    def backward(ctx, cotangent):
        tensors = [t.detach().requires_grad_(t.requires_grad) for t in ctx.tensors]
        with torch.enable_grad():
            ctx.function(*tensors).backward(cotangent)
        return None, *[t.grad for t in tensors]


class Checkpointed(Policy):
    """The whole policy is computed again in the backward pass."""

    reentrant = False

    def forward(self, image, proprio):
        from torch.utils.checkpoint import checkpoint

        if self.reentrant == "foreign":
            return ForeignCheckpoint.apply(super().forward, image, proprio)
        return checkpoint(super().forward, image, proprio, use_reentrant=self.reentrant)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reentrant", [False, True, "foreign"])
def test_activation_checkpointing_keeps_the_rho_of_the_forward_pass(policy, reentrant, training):
    whole = adjusted(policy)
    again = Checkpointed()
    again.load_state_dict(policy.state_dict())
    again.train(training).reentrant = reentrant
    image = IMAGE.clone().requires_grad_()  # without it, reentrant checkpointing gives no gradients at all
    with attach(again, "state", ONLY_RHO, total_steps=10) as gap:
        for _ in range(2):
            again.zero_grad()
            with gap.adjusting(RHO, 0):
                loss = ((again(image, PROPRIO) - TARGET) ** 2).mean()
            loss.backward()  # outside of the context
            for name, parameter in again.named_parameters():
                torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-7)
        losses = []
        again.zero_grad()
        for half in (slice(0, 2), slice(2, 4)):
            with gap.adjusting(RHO[half], 0):
                losses.append(((again(image[half], PROPRIO[half]) - TARGET[half]) ** 2).mean() / 2)
        if reentrant == "foreign":
            for around in (contextlib.nullcontext(), gap.adjusting(RHO[half], 0)):
                with pytest.raises(AdjustmentError, match="use_reentrant=False"), around:
                    sum(losses).backward(retain_graph=True)
            return
        sum(losses).backward()
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_plain_pass_beside_an_adjusted_one_stays_plain_where_it_is_computed_again(policy, reentrant):
    plain, whole = gradients(policy), adjusted(policy)
    again = Checkpointed()
    again.load_state_dict(policy.state_dict())
    again.train().reentrant = reentrant
    image = IMAGE.clone().requires_grad_()
    with attach(again, "state", ONLY_RHO, total_steps=10) as gap:
        with gap.adjusting(RHO, 0):
            loss = ((again(image, PROPRIO) - TARGET) ** 2).mean()
        with gap.plain():
            loss = loss + ((again(image, PROPRIO) - TARGET) ** 2).mean()
        with torch.no_grad():  # a look at a validation batch in between
            again(image, PROPRIO)
        loss.backward()
        for name, parameter in again.named_parameters():
            torch.testing.assert_close(parameter.grad, whole[name] + plain[name], rtol=1e-5, atol=1e-7)
        with pytest.raises(AdjustmentError, match="without rho"):
            again(image, PROPRIO).sum().backward()


def test_plain_gradients_need_no_rho(policy):
    plain = gradients(policy)
    with attach(policy, "state", ONLY_RHO, total_steps=10) as gap, gap.plain():
        found = gradients(policy)
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_a_constant_rho_needs_no_column(policy):
    schedule = AdjustmentSchedule(mode="fixed", fixed_rho=0.25, lam=1.0)
    plain = gradients(policy)
    with attach(policy, "state", schedule, total_steps=2) as gap, gap.adjusting(None, 0):
        found = gradients(policy)
    for name in plain:
        torch.testing.assert_close(found[name], plain[name] * (0.75 if name.startswith("state") else 1.0))


def test_the_release_mode_scales_the_summed_gradient(policy):
    plain = gradients(policy)
    gap = attach(policy, "state", AdjustmentSchedule(mode="batch", lam=0.3), total_steps=2)
    with gap.adjusting(RHO, 0):
        found = gradients(policy)  # before clipping, as in M7
    for name in plain:
        torch.testing.assert_close(found[name], (0.7 if name.startswith("state") else 1.0) * plain[name])
