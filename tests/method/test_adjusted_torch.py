"""GAP on a PyTorch policy: what it changes, what it leaves alone, and what it refuses."""

import copy
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach, attach_columns, scale_gradient
from gap_vla.core.errors import ConfigError, EpisodeError
from tests.helpers.torch_policy import IMAGE, ONLY_RHO, PROPRIO, RHO, TARGET, Policy, gradients


@pytest.fixture
def policy():
    return Policy()


def adjusted(policy, rho=RHO, step=0, schedule=ONLY_RHO):
    with attach(policy, "state", schedule, total_steps=10) as gap, gap.adjusting(rho, step):
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
    found, of_array = adjusted(policy), adjusted(policy, RHO.numpy())
    singles = [gradients(policy, IMAGE[b : b + 1], PROPRIO[b : b + 1], TARGET[b : b + 1]) for b in range(4)]
    for name in found:
        assert torch.equal(found[name], of_array[name])
        if name.startswith("state"):
            expected = sum((1 - RHO[b]) * singles[b][name] for b in range(4)) / 4
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)


def test_after_the_window_and_in_plain_gradients_are_those_of_the_policy(policy):
    plain = gradients(policy)
    with attach(policy, "state", ONLY_RHO, total_steps=10) as gap, gap.plain():
        without = gradients(policy)
    for found in (adjusted(policy, step=5), adjusted(policy, rho=None, step=5), without, gradients(policy)):
        assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_one_number_for_all_samples_scales_the_summed_gradient(policy):
    schedule = AdjustmentSchedule(mode="fixed", fixed_rho=0.25, lam=1.0)
    plain, found = gradients(policy), adjusted(policy, None, schedule=schedule)
    for name in plain:
        torch.testing.assert_close(found[name], plain[name] * (0.75 if name.startswith("state") else 1.0))


def test_what_follows_the_submodule_may_work_in_place():
    class InPlace(Policy):
        def forward(self, image, proprio):
            return self.head(torch.cat([self.vision(image), self.state(proprio).relu_()], -1)).tanh()

    policy = InPlace()
    plain, found = gradients(policy), adjusted(policy, torch.zeros(4))
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def train(policy, optimizer, steps=3):
    for _ in range(steps):
        gradients(policy)
        optimizer.step()
    return [value.clone() for value in policy.state_dict().values()]


def test_detaching_leaves_no_hook_and_training_goes_on_bit_for_bit(policy):
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    with attach(policy, "state", AdjustmentSchedule(lam=0.3), total_steps=10) as gap:
        gap.watch(optimizer)
        assert policy.state._forward_hooks and optimizer._optimizer_step_pre_hooks
        with gap.adjusting(RHO, 0):
            policy(IMAGE, PROPRIO)
    assert not any(hooks for m in policy.modules() for key, hooks in vars(m).items() if "hook" in key)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    untouched = Policy()
    expected = train(untouched, torch.optim.AdamW(untouched.parameters(), lr=0.1))
    assert all(map(torch.equal, train(policy, optimizer), expected))


def test_by_default_the_branch_is_slower_and_needs_no_rho():
    def moved(**schedule):
        policy = Policy()
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        with attach(policy, "state", **schedule, total_steps=10) as gap:
            gap.watch(optimizer)
            with gap.adjusting(None, 0):
                train(policy, optimizer, steps=1)
            return gap.moved()

    assert moved() == pytest.approx(0.05 * moved(schedule=AdjustmentSchedule(mode="none")), rel=1e-3)


def test_attach_loads_torch_and_few_lines_of_this_package():
    program = """
import sys
import gap_vla
assert "torch" not in sys.modules and not hasattr(gap_vla, "nothing")
from gap_vla.adjustment.torch import attach
assert gap_vla.attach is attach
heavy = {"jax", "tensorflow", "mujoco", "h5py", "pandas", "matplotlib"} & {*sys.modules}
assert not heavy, heavy
files = [m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] == "gap_vla" and m.__file__]
print(sum(len(open(file).readlines()) for file in files))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) <= 1200


def test_attaching_changes_nothing_of_torch_as_a_whole(policy):
    def state():
        places = sys.modules["torch.nn.modules.module"], sys.modules["torch.optim.optimizer"]
        hooks = [len(vars(p)[name] or ()) for p in places for name in vars(p) if name.startswith("_global")]
        return hooks, sys.meta_path[:], torch._dynamo.config.get_config_copy()

    before = state()
    gap = attach(policy, "state", AdjustmentSchedule(), total_steps=10)
    gap.watch(torch.optim.AdamW(policy.parameters()))
    assert state() == before


def test_copies_of_a_policy_and_files_of_it_are_without_gap(policy):
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    policy.gap = gap  # as an attribute of what is copied
    saved = io.BytesIO()
    torch.save(policy, saved)
    assert b"gap_vla" not in saved.getvalue()  # nor is it needed where they are read
    saved.seek(0)
    for copied in (copy.deepcopy(policy), torch.load(saved, weights_only=False)):
        copied(IMAGE, PROPRIO).sum().backward()  # in training mode, without rho
        assert copied.gap is None
        attach(copied, "state", ONLY_RHO, total_steps=2).detach()


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
    with pytest.raises(ConfigError, match="rho='current'"), gap.adjusting(rho, 0):
        module["state"](x[:, 0])


def test_the_current_rho_reaches_all_tokens_of_its_window_from_the_step_on_at_which_it_is_chosen():
    module = nn.ModuleDict({"state": nn.Linear(3, 4, bias=False)})
    x, rho = torch.randn(2, 3, 3), torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 0.25]])
    gap = attach(module, "state", ONLY_RHO, total_steps=2)
    gap.schedule = AdjustmentSchedule(lam=1.0, rho="current")
    for given in (rho, rho[:, -1:], rho[:, -1]):
        module.zero_grad()
        with gap.adjusting(given, 0):
            module["state"](x).sum().backward()
        expected = (torch.tensor([0.0, 0.75])[:, None] * x.sum(1)).sum(0).expand(4, 3)
        torch.testing.assert_close(module["state"].weight.grad, expected)


class TwoViews(nn.Module):
    """An encoder that returns a tuple with a dict in it, and one tensor twice."""

    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x):
        near = self.near(x)
        return near, {"far": self.far(x), "again": near, "count": 7}


def test_tuples_and_several_calls_in_a_step_are_adjusted_whole():
    torch.manual_seed(0)
    policy = nn.ModuleDict({"state": TwoViews()})
    samples = torch.randn(4, 3), torch.randn(4, 3)

    def run(rows):
        policy.zero_grad()
        for x in samples:
            near, rest = policy["state"](x[rows])
            assert rest["count"] == 7 and rest["again"] is near
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
    for name, gradient in found.items():
        zero = name.startswith(("state.0", "vision"))
        assert not gradient.any() if zero else torch.equal(gradient, plain[name])


def test_in_half_precision_a_gradient_is_rounded_once_after_the_product():
    x = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    factor, cotangent = torch.tensor([1.0, 0.999, 0.3, 0.0]), torch.randn(4, 8).bfloat16()
    scale_gradient(x, factor).backward(cotangent)
    assert torch.equal(x.grad, (cotangent.float() * factor[:, None]).bfloat16())


class Checkpointed(Policy):
    """The whole policy is computed again in the backward pass."""

    reentrant = False

    def forward(self, image, proprio):
        return checkpoint(super().forward, image, proprio, use_reentrant=self.reentrant)


@pytest.mark.parametrize("kind", [Policy, Checkpointed])
def test_a_backward_pass_uses_the_rho_of_its_own_forward_pass_also_where_that_is_computed_again(policy, kind):
    plain, whole, again = gradients(policy), adjusted(policy), kind()
    with attach(again, "state", ONLY_RHO, total_steps=10) as gap:
        losses = []
        for half in (slice(0, 2), slice(2, 4)):
            with gap.adjusting(RHO[half], 0):
                losses.append(((again(IMAGE[half], PROPRIO[half]) - TARGET[half]) ** 2).mean() / 2)
        with gap.plain():
            losses.append(((again(IMAGE, PROPRIO) - TARGET) ** 2).mean())
        again.zero_grad()
        sum(losses).backward()
        for name, parameter in again.named_parameters():
            torch.testing.assert_close(parameter.grad, whole[name] + plain[name], rtol=1e-5, atol=1e-7)


def test_reentrant_checkpointing_would_not_be_adjusted_and_is_refused(policy):
    again = Checkpointed()
    again.reentrant = True
    gap = attach(again, "state", ONLY_RHO, total_steps=10)
    with pytest.raises(ConfigError, match="use_reentrant=False"), gap.adjusting(RHO, 0):
        again(IMAGE.clone().requires_grad_(), PROPRIO)


def test_what_would_touch_nothing_or_a_wrong_parameter_is_refused_before_the_first_step(policy):
    twice = ["state", "state.0"]
    for names, said in (("policy.state", "near that: state"), ("state.1", r"state\.1"), (twice, "twice")):
        with pytest.raises(ConfigError, match=said):
            attach(policy, names, ONLY_RHO, total_steps=2)
    policy.head2 = policy.state[2]
    with pytest.raises(ConfigError, match=r"head2\.weight is shared"):
        attach(policy, "state", ONLY_RHO, total_steps=2)
    del policy.head2
    policy.alias = policy.state  # the same module under two names is one part
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    for again in (lambda: attach(policy, "state.0", ONLY_RHO, total_steps=2), lambda: columns_of(policy)):
        with pytest.raises(ConfigError, match=r"twice on state\.0\.weight"):
            again()
    gap.detach()
    columns_of(policy).detach()


def columns_of(policy):
    return attach_columns(policy, {"state.0": slice(0, 2)}, ONLY_RHO, total_steps=2)


def test_a_rho_that_does_not_fit_or_is_absent_stops_before_the_backward_pass(policy):
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    for rho, error in ((np.zeros(3, np.float32), ConfigError), (None, ConfigError), (RHO + 0.5, EpisodeError)):
        with pytest.raises(error, match="rho"), gap.adjusting(rho, 0):
            policy(IMAGE, PROPRIO)
    with pytest.raises(ConfigError, match="without rho"):
        policy(IMAGE, PROPRIO)
    policy.eval()(IMAGE, PROPRIO)
    with torch.no_grad():
        policy.train()(IMAGE, PROPRIO)


def test_in_each_step_of_the_window_a_pass_with_rho_is_needed_or_a_word_that_it_is_left_out(policy):
    policy.unused = nn.Linear(3, 4)
    gap = attach(policy, ["state", "unused"], ONLY_RHO, total_steps=4)
    with pytest.raises(ConfigError, match="went through unused while rho was set"), gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)
    with gap.adjusting(RHO, 0), gap.plain():
        policy(IMAGE, PROPRIO)
    with gap.adjusting(RHO, 2):  # after the window
        policy(IMAGE, PROPRIO)


def test_a_submodule_that_reads_what_is_learned_or_gives_no_tensor_is_refused():
    class Distribution(nn.Linear):
        def forward(self, x):
            return torch.distributions.Normal(super().forward(x), 1.0)

    policy = nn.ModuleDict({"vision": nn.Linear(6, 3), "fuse": nn.Linear(6, 2), "state": Distribution(3, 4)})
    joined = torch.cat([policy["vision"](IMAGE), PROPRIO], -1)
    gap = attach(policy, "fuse", ONLY_RHO, total_steps=2)
    with pytest.raises(ConfigError, match="'fuse' reads a tensor"), gap.adjusting(RHO, 0):
        policy["fuse"](input=joined)
    with gap.adjusting(RHO, 0):
        policy["fuse"](joined.detach().requires_grad_())  # as for a map of what it looks at
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    with pytest.raises(ConfigError, match="'state' gives Normal"), gap.adjusting(RHO, 0):
        policy["state"](PROPRIO)
