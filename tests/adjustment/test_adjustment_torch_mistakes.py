"""GAP on a PyTorch policy: training loops that run, and would train with another ρ, another λ, or without GAP."""

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_adjustment_torch_optimizer import LAM_ONLY, backward, make_policy
from torch import nn
from torch.nn.utils import prune
from torch_policy import IMAGE, ONLY_RHO, PROPRIO, RHO

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.schedule import AdjustmentError
from gap_vla.adjustment.torch import attach, attach_columns, scale_gradient


def moved_by_a_step(policy, optimizers):
    before = [p.detach().clone() for p in policy["state"].parameters()]
    for optimizer in optimizers:
        optimizer.step()
    return [float((p.detach() - b).abs().max()) for p, b in zip(policy["state"].parameters(), before)]


def test_a_rho_that_collate_turned_into_a_list_of_window_steps_is_refused(unchecked, policy):
    samples = [{"rho": [0.0, float(r)]} for r in RHO]
    rho = torch.utils.data.default_collate(samples)["rho"]  # two tensors of shape [4]
    with attach(policy, "state", AdjustmentSchedule(lam=1.0, rho="current"), total_steps=9) as gap:
        for wrong in (rho, [*rho[1:]]):
            with pytest.raises(AdjustmentError, match=r"rho is a list of \d parts: torch's default_collate"):
                with gap.adjusting(wrong, 0):
                    policy(IMAGE, PROPRIO)
        for right in (torch.stack(rho, 1), [*RHO], RHO.tolist(), torch.stack(rho, 1).tolist()):
            with gap.adjusting(right, 0):
                policy(IMAGE, PROPRIO)


def test_a_step_that_never_counts_on_is_warned_of_and_several_passes_of_one_are_not():
    policy = make_policy()
    with attach(policy, "state", LAM_ONLY[0.25], total_steps=1000) as gap:
        optimizer = gap.watch(torch.optim.SGD(policy.parameters(), lr=0.0))

        def train(step):
            with gap.adjusting(None, step):
                backward(policy)
            optimizer.step()

        with warnings.catch_warnings(action="error"):
            for turn in range(200):
                train(turn // 5)  # as of a critic that takes five steps to one of the policy
            for _ in range(200):  # gradients are gathered
                with gap.adjusting(None, 40):
                    backward(policy)
        with pytest.warns(UserWarning, match="training step 41 for the 100th time, ") as caught:
            for _ in range(120):
                train(41)
        assert len(caught) == 1


def test_lambda_ends_with_its_step_also_where_a_policy_in_eval_mode_is_trained_on_without_gap():
    policy = make_policy().eval()
    gap = attach(policy, "state", LAM_ONLY[0.0], total_steps=10)
    optimizer = gap.watch(torch.optim.SGD(policy.parameters(), lr=0.1))
    with gap.adjusting(None, 0):
        backward(policy)
    assert max(moved_by_a_step(policy, [optimizer])) == 0
    backward(policy)
    assert min(moved_by_a_step(policy, [optimizer])) > 0


def test_a_plain_pass_between_the_steps_of_two_optimizers_does_not_end_the_lambda_of_the_second():
    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.0], total_steps=10)
    optimizers = [gap.watch(torch.optim.SGD([p], lr=0.1)) for p in policy["state"].parameters()]
    with gap.adjusting(None, 0):
        backward(policy)
    assert max(moved_by_a_step(policy, optimizers[:1])) == 0
    with gap.plain(), torch.no_grad():
        policy["state"](torch.ones(1, 3))
    assert max(moved_by_a_step(policy, optimizers[1:])) == 0
    with gap.plain():
        backward(policy)
    assert min(moved_by_a_step(policy, optimizers)) > 0


def test_adjusting_within_plain_would_scale_steps_alone_and_is_refused(policy):
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    with pytest.raises(AdjustmentError, match=r"adjusting within `gap\.plain"), gap.plain(), gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)
    with gap.plain(), gap.adjusting(None, 1):  # past the window
        policy(IMAGE, PROPRIO)


def test_two_threads_within_adjusting_would_take_each_others_rho_and_are_refused(policy):
    gap = attach(policy, "state", AdjustmentSchedule(window=0.0), total_steps=10)

    def another():
        with gap.adjusting(RHO, 0):
            return "adjusted"

    with ThreadPoolExecutor(1) as pool:
        with gap.adjusting(RHO, 0):
            with pytest.raises(AdjustmentError, match=r"another thread is within `gap\.adjusting` of this policy"):
                pool.submit(another).result()
            with pytest.raises(AdjustmentError, match="another thread is within"):
                pool.submit(gap.plain().__enter__).result()  # it would leave this thread's rho out
            assert another() == "adjusted"
        assert pool.submit(another).result() == "adjusted"


def test_lambda_acts_where_an_optimizer_gives_its_parameters_other_storage():
    class Rebinding(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.data = p.data - p.grad

    policy = make_policy()
    gap = attach(policy, "state", LAM_ONLY[0.0], total_steps=10)
    optimizer = gap.watch(Rebinding(policy.parameters(), lr=1.0))
    with gap.adjusting(None, 0):
        backward(policy)
    assert max(moved_by_a_step(policy, [optimizer])) == 0


def test_what_is_adjusted_already_is_known_by_whatever_module_it_is_attached_to(policy):
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    with pytest.raises(AdjustmentError, match=r"GAP is attached to 0\.weight already"):
        attach(policy.state, "0", ONLY_RHO, total_steps=2)
    gap.detach()
    attach(policy.state, "0", ONLY_RHO, total_steps=2)


def test_a_copy_or_file_of_what_holds_the_adjustment_is_without_it(policy):
    holder = {"policy": policy, "gap": attach(policy, "state", ONLY_RHO, total_steps=2)}
    for copied in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        assert copied["gap"] is None
        copied["policy"](IMAGE, PROPRIO)


def test_a_recurrent_network_by_itself_is_refused():
    policy = nn.ModuleDict({"state": nn.LSTM(3, 4, num_layers=2, batch_first=True)})  # of a batch of 2, [2, 2, 4]
    with pytest.raises(AdjustmentError, match="'state' is a LSTM, whose hidden state has no batch first"):
        attach(policy, "state", ONLY_RHO, total_steps=2)
    attach(policy, "state", LAM_ONLY[0.25], total_steps=2)  # which needs no rho


def test_columns_of_a_weight_that_pruning_computes_have_to_be_attached_again(policy):
    gap = attach_columns(policy, {"head": slice(4, 8)}, ONLY_RHO, total_steps=2)
    prune.l1_unstructured(policy.head, "weight", 0.5)
    with pytest.raises(AdjustmentError, match="'head' changed since GAP was attached"), gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)


def test_a_factor_that_is_no_tensor_is_refused_and_a_state_without_gradient_is_warned_of(unchecked):
    for factor in (0.5, [0.5], np.full(4, 0.5)):
        with pytest.raises(AdjustmentError, match="give a tensor"):
            scale_gradient(PROPRIO.clone().requires_grad_(), factor)
    with pytest.warns(UserWarning, match="x has no gradient that could be scaled"):
        scale_gradient(PROPRIO, 1 - RHO)
    with warnings.catch_warnings(action="error"), torch.no_grad():
        scale_gradient(PROPRIO, 1 - RHO)


def test_a_schedule_that_is_asked_beyond_its_end_says_so():
    with pytest.warns(UserWarning, match="step 5000 of a run of 100 steps"):
        AdjustmentSchedule().factors(RHO.numpy(), 5000, 100)


@pytest.mark.parametrize("reentrant", [False, True])
def test_optimizers_that_step_in_the_backward_pass_leave_what_is_computed_again_its_rho(reentrant):
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    policy = nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.Linear(3, 4)})
    with attach(policy, ["first", "second"], AdjustmentSchedule(), total_steps=2) as gap:
        for p in policy.parameters():
            optimizer = gap.watch(torch.optim.SGD([p], lr=1.0))
            p.register_post_accumulate_grad_hook(lambda _, own=optimizer: own.step())
        before = copy.deepcopy(policy.state_dict())
        state, x = PROPRIO, IMAGE[:, :4].clone().requires_grad_()
        with gap.adjusting(torch.ones(4), 0):
            for name in policy:
                x = checkpoint(lambda x, name=name: x * policy[name](state), x, use_reentrant=reentrant)
            x.sum().backward()
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


def test_a_rho_that_is_turned_is_told_from_a_last_batch_of_one_sample(unchecked, policy):
    with attach(policy, "state", AdjustmentSchedule(lam=1.0, rho="current"), total_steps=9) as gap:
        with gap.adjusting(RHO, 0):
            policy(IMAGE, PROPRIO)
        with pytest.raises(AdjustmentError, match=r"rho of shape \[1, 4\] is of one sample and 4 .* had 1"):
            with gap.adjusting(RHO[None], 1):
                policy(IMAGE, PROPRIO)
        for rho, rows in ((torch.stack([RHO, RHO], 1), slice(None)), (RHO[None, :2], slice(2)), (RHO[:1], slice(1))):
            with gap.adjusting(rho, 2):
                policy(IMAGE[rows], PROPRIO[rows])


@pytest.mark.parametrize("none", [(), []])
def test_a_layer_of_which_no_columns_are_named_is_refused(policy, none):
    with pytest.raises(AdjustmentError, match=r"\[\] is no choice of columns of 'head'"):
        attach_columns(policy, {"head": none}, ONLY_RHO, total_steps=2)


def test_a_slice_without_a_column_is_refused(policy):
    with pytest.raises(AdjustmentError, match=r"slice\(6, 6, None\)\] is no choice of columns of 'head'"):
        attach_columns(policy, {"head": [slice(4, 6), slice(6, 6)]}, ONLY_RHO, total_steps=2)


@pytest.mark.parametrize("learned", [False, True])
def test_hooks_of_others_on_what_a_submodule_reads_are_no_gradient_of_its_own(policy, learned):
    policy.state.register_full_backward_hook(lambda module, before, behind: None)
    state = PROPRIO.clone().requires_grad_()  # as for a map of what it looks at
    with attach(policy, "state", ONLY_RHO, total_steps=2) as gap:
        if not learned:
            with gap.adjusting(RHO, 0):
                policy(IMAGE, state).sum().backward()
            assert state.grad is not None and not state.grad[3].any()
            return
        with (
            pytest.raises(AdjustmentError, match="reads a tensor that has a gradient of its own"),
            gap.adjusting(RHO, 0),
        ):
            policy(IMAGE, nn.Linear(3, 3)(state))
