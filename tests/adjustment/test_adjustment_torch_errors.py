"""GAP on a PyTorch policy: what cannot be meant is refused in words."""

import copy
import dataclasses
import functools
import io
import warnings
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal
from torch_policy import IMAGE, ONLY_RHO, PROPRIO, RHO

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.schedule import AdjustmentError
from gap_vla.adjustment.torch import attach, attach_columns, scale_gradient
from gap_vla.adjustment.torch_places import OBJECTS, tensors_in


def test_names_that_are_nearly_right_are_answered_with_the_right_ones(policy):
    with pytest.raises(ValueError, match="no submodule 'state_0'; near that: state"):
        attach(policy, "state_0", ONLY_RHO, total_steps=2)
    model = nn.ModuleDict({"model": nn.ModuleDict({"state_proj": nn.Linear(2, 2), "vision": nn.Linear(2, 2)})})
    for wrong in ("state_proj", "model.proprio_projector", "policy.model.state_proj"):
        with pytest.raises(ValueError, match=r"near that: .*model\.state_proj"):
            attach(model, wrong, ONLY_RHO, total_steps=2)


def test_impossible_attachments_are_refused_in_words(policy):
    with pytest.raises(ValueError, match="no submodule 'xyz'"):
        attach(policy, "xyz", ONLY_RHO, total_steps=2)
    with pytest.raises(ValueError, match="no submodule is named"):
        attach(policy, [], ONLY_RHO, total_steps=2)
    with pytest.raises(ValueError, match="no trainable parameter"):
        attach(policy, "state.1", ONLY_RHO, total_steps=2)
    policy.head2 = policy.state[2]
    with pytest.raises(ValueError, match=r"head2\.weight is shared"):
        attach(policy, "state", ONLY_RHO, total_steps=2)
    del policy.head2
    policy.alias = policy.state  # the same module under two names is adjusted under both
    attach(policy, "state", ONLY_RHO, total_steps=2).detach()


def test_a_rho_that_does_not_fit_or_is_absent_stops_before_the_backward_pass(policy):
    with attach(policy, "state", ONLY_RHO, total_steps=2) as gap:
        with pytest.raises(ValueError, match="must be the batch"), gap.adjusting(np.zeros(3, np.float32), 0):
            policy(IMAGE, PROPRIO)
        with pytest.raises(ValueError, match="training step 0 has no rho"), gap.adjusting(None, 0):
            policy(IMAGE, PROPRIO)
        with pytest.raises(ValueError, match="must lie in"), gap.adjusting(RHO + 0.5, 0):
            policy(IMAGE, PROPRIO)
        with pytest.raises(ValueError, match=r"float32\[0\]"), gap.adjusting(RHO[:0], 0):
            policy(IMAGE, PROPRIO)
        with pytest.raises(ValueError, match="without rho"):
            policy(IMAGE, PROPRIO)
        policy.eval()(IMAGE, PROPRIO)
        with torch.no_grad():
            policy.train()(IMAGE, PROPRIO)


def test_a_submodule_that_is_never_called_is_noticed_at_the_first_step(policy):
    policy.unused = nn.Linear(3, 4)
    gap = attach(policy, "unused", ONLY_RHO, total_steps=2)
    with (
        pytest.raises(ValueError, match=r"no forward pass went through unused while rho was set"),
        gap.adjusting(RHO, 0),
    ):
        policy(IMAGE, PROPRIO)


class Wrapped(nn.Module):
    """An encoder whose output no tree of tensors is."""

    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(3, 4), wrap

    def forward(self, proprio):
        return self.wrap(self.layer(proprio))


class Out:
    def __init__(self, hidden):
        self.hidden = self.mean = hidden

    def with_one(self):
        return self.hidden + 1


class Features(dict):
    pass


@dataclasses.dataclass(slots=True)
class Slots:
    hidden: object


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (Out, "Out, in which there is no tensor"),
        (lambda x: Normal(x, 1.0), "Normal, in which there is no tensor"),
        (lambda x: (x, Normal(x, 1.0)), "tuple, in which there is a Normal, whose tensors would"),
        (lambda x: (x, Independent(Normal(x, 1.0), 1)), "tuple, in which there is a Independent, w"),
        (lambda x: (x, Slots(x)), "tuple, in which there is a Slots, whose"),
        (lambda x: (x, {"deep": Out([Slots(Features(h=x))])}), "tuple, in which there is a Out, whose"),
        (lambda x: (x, frozenset([x.exp()])), "tuple, in which there is a frozenset, whose"),
        (lambda x: (x, functools.partial(torch.add, x)), "tuple, in which there is a partial, whose"),
        (lambda x: (x, lambda: x), "tuple, in which there is a function, whose"),
        (lambda x: (x, Out(x).with_one), "tuple, in which there is a method, whose"),
        (lambda x: (x, iter([x])), "tuple, in which there is a list_iterator, whose"),
        (lambda x: (x, {"of": x}.values()), "tuple, in which there is a dict_values, whose"),
        (lambda x: {x.exp(): x}, "dict, in which there is a tensor as a key"),
    ],
)
def test_an_output_in_which_a_tensor_cannot_be_found_is_refused(wrap, said):
    policy = nn.ModuleDict({"state": Wrapped(wrap)})
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    with pytest.raises(ValueError, match=f"'state' gives {said}"):
        with gap.adjusting(RHO, 0):
            policy["state"](PROPRIO)
    with gap.adjusting(RHO, 1):  # behind the window nothing is adjusted
        policy["state"](PROPRIO)


class OfBatch(nn.Module):
    """Reads an object, not a tensor."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, batch):
        return self.layer(batch.hidden)


def test_a_submodule_that_reads_what_is_learned_is_refused():
    policy = nn.ModuleDict({"vision": nn.Linear(6, 3), "fuse": nn.Linear(6, 2)})
    gap = attach(policy, "fuse", ONLY_RHO, total_steps=2)
    joined = torch.cat([policy["vision"](IMAGE), PROPRIO], -1)
    with pytest.raises(ValueError, match="'fuse' reads a tensor that has a gradient of its own"), gap.adjusting(RHO, 0):
        policy["fuse"](joined)
    with pytest.raises(ValueError, match="'fuse' reads a tensor that"), gap.adjusting(RHO, 0):
        policy["fuse"](input=joined)
    with pytest.raises(ValueError, match="'fuse' reads a tensor that"), gap.adjusting(RHO, 0):
        policy["fuse"](nn.Parameter(joined.detach()))  # a learned embedding, which the features would be adjusted with
    with gap.adjusting(RHO, 0):
        policy["fuse"](joined.detach().requires_grad_())  # as gradient checkpointing asks for
    policy["of_batch"] = OfBatch(nn.Linear(6, 2))
    gap = attach(policy, "of_batch", ONLY_RHO, total_steps=2)
    with pytest.raises(ValueError, match="'of_batch' reads a tensor that"), gap.adjusting(RHO, 0):
        policy["of_batch"](Out(joined))
    with pytest.raises(ValueError, match="'of_batch' reads a tensor that"), gap.adjusting(RHO, 0):
        policy["of_batch"](Slots(joined))
    with pytest.raises(ValueError, match="'of_batch' reads a tensor that"), gap.adjusting(RHO, 0):
        policy["of_batch"](SimpleNamespace(hidden=joined.detach(), of=SimpleNamespace(seen=[Normal(joined, 1.0)])))


class Unread(Mapping):
    """Reads a file for each of its values."""

    def __getitem__(self, key):
        raise AssertionError("nothing is to be read")

    def __iter__(self):
        return iter(["image"])

    def __len__(self):
        return 1


def test_what_the_batch_of_a_submodule_knows_of_the_training_is_not_read_by_it():
    policy = nn.ModuleDict({"state": OfBatch(nn.Linear(3, 4)), "vision": nn.Linear(6, 3)})
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    optimizer = torch.optim.Adam(policy.parameters())
    logged = SimpleNamespace(last={"loss": policy["vision"](IMAGE).sum()})
    trainer = SimpleNamespace(optimizers=[optimizer], policies=[policy], gap=gap, log=logged)
    batch = SimpleNamespace(hidden=PROPRIO, trainer=trainer, file=Unread())
    with gap.adjusting(torch.ones(4), 0):
        policy["state"](batch).sum().backward()
    assert not policy["state"].layer.weight.grad.any()


def test_of_all_that_a_batch_holds_a_number_of_objects_is_looked_into():
    texts = ["close the drawer"] * OBJECTS
    assert list(tensors_in({"texts": texts, "state": PROPRIO})) == [PROPRIO]
    assert not list(tensors_in([texts, [PROPRIO]]))


class WritesIntoItsBatch(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, batch):
        batch["features"] = self.layer(batch["state"])
        return batch


def test_a_submodule_may_write_its_output_into_the_batch_that_it_reads():
    policy = nn.ModuleDict({"state": WritesIntoItsBatch(nn.Linear(3, 4)), "vision": nn.Linear(6, 3)})
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    with gap.adjusting(torch.ones(4), 0):
        policy["state"]({"state": PROPRIO})["features"].sum().backward()
    assert not policy["state"].layer.weight.grad.any()
    with pytest.raises(ValueError, match="'state' reads a tensor that has a gradient"), gap.adjusting(RHO, 0):
        policy["state"]({"state": PROPRIO, "image": policy["vision"](IMAGE)})  # handed on, it would be adjusted too


def test_gap_does_not_act_twice(policy):
    for names in (["state", "state"], ["state", "state.0"], ["state.2", "state"]):
        with pytest.raises(ValueError, match=r"is part of 'state', and GAP would act twice"):
            attach(policy, names, ONLY_RHO, total_steps=2)
    attach(policy, ["state.0"], ONLY_RHO, total_steps=2).detach()
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    for name in ("state", "state.0"):
        with pytest.raises(ValueError, match=r"attached to state\.0\.weight already.*call detach"):
            attach(policy, name, ONLY_RHO, total_steps=2)
    with pytest.raises(ValueError, match=r"attached to state\.0\.weight already"):
        attach_columns(policy, {"state.0": slice(0, 2)}, ONLY_RHO, total_steps=2)
    gap.detach()
    attach(policy, "state", ONLY_RHO, total_steps=2).detach()


def test_each_of_several_submodules_has_to_be_called(policy):
    policy.unused = nn.Linear(3, 4)
    gap = attach(policy, ["state", "unused"], ONLY_RHO, total_steps=2)
    with pytest.raises(ValueError, match="went through unused while rho was set"), gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)


def test_in_each_step_of_the_window_a_pass_with_rho_is_needed_or_a_word_that_it_is_left_out(policy):
    gap = attach(policy, "state", ONLY_RHO, total_steps=4)
    for step in range(2):
        with gap.adjusting(RHO, step):
            policy(IMAGE, PROPRIO)
        policy.eval()(IMAGE, PROPRIO)  # without rho: does not count
        with pytest.raises(ValueError, match="no forward pass went through state while rho was set"):
            with gap.adjusting(RHO, step):
                policy.vision(IMAGE)
        with gap.adjusting(RHO, step), gap.plain():
            policy.vision(IMAGE)
        policy.train()
    with torch.no_grad(), gap.adjusting(RHO, 1), gap.adjusting(RHO, 2):  # of validation; behind the window
        policy.vision(IMAGE)


def wrapped(policy):
    class Around(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    policy.state = Around(policy.state)


class LowRank(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base.requires_grad_(False), nn.Linear(3, 1), nn.Linear(1, 5)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize(
    ("change", "sound"),
    [
        (lambda policy: setattr(policy, "state", nn.Linear(3, 4)), False),
        (lambda policy: policy.state.__setitem__(0, LowRank(policy.state[0])), False),
        (lambda policy: setattr(policy, "state", nn.Sequential(policy.state, nn.Linear(4, 4))), False),
        (lambda policy: policy.state[2].requires_grad_(True), False),
        (lambda policy: nn.utils.parametrizations.weight_norm(policy.state[0]), False),
        (lambda policy: policy.load_state_dict(copy.deepcopy(policy.state_dict()), assign=True), False),
        (lambda policy: policy.state.requires_grad_(False), True),
        (lambda policy: policy.load_state_dict(copy.deepcopy(policy.state_dict())), True),
        (wrapped, True),
    ],
)
def test_a_submodule_that_is_another_one_by_now_or_trains_more_has_to_be_attached_again(policy, change, sound):
    policy.state[2].requires_grad_(False)
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    change(policy)
    if not sound:
        with pytest.raises(AdjustmentError, match=r"'state' changed since GAP was attached.*attach again"):
            with gap.adjusting(RHO, 0):
                policy(IMAGE, PROPRIO)
        gap.detach()
        gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    with gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)


def test_another_schedule_takes_effect_as_a_whole(policy):
    current, two_steps = AdjustmentSchedule(lam=1.0, rho="current"), torch.stack([RHO, RHO], 1)
    with attach(policy, "state", current, total_steps=2) as gap:
        gap.schedule = AdjustmentSchedule(lam=1.0, rho="step")
        with pytest.raises(AdjustmentError, match="differs over the window"), gap.adjusting(two_steps, 0):
            policy(IMAGE, PROPRIO)
        gap.schedule = current
        with gap.adjusting(two_steps, 0):
            gap.schedule = AdjustmentSchedule(lam=1.0, rho="step")  # from the next one on
            policy(IMAGE, PROPRIO)


@pytest.mark.parametrize("steps", [0, 2])
def test_weights_that_are_tied_after_gap_was_attached_are_refused_at_the_next_step(policy, steps):
    gap = attach(policy, "state", ONLY_RHO, total_steps=9)
    for step in range(steps):
        with gap.adjusting(RHO, step):
            policy(IMAGE, PROPRIO)
    policy.tied = nn.Linear(*reversed(policy.state[0].weight.shape))
    policy.tied.weight = policy.state[0].weight
    with pytest.raises(AdjustmentError, match=r"tied\.weight is shared with 'state'"), gap.adjusting(RHO, steps):
        policy(IMAGE, PROPRIO)


def test_a_layer_of_columns_whose_weight_is_another_one_by_now_has_to_be_attached_again(policy):
    gap = attach_columns(policy, {"head": slice(4, 8)}, ONLY_RHO, total_steps=2)
    policy.head.bias.requires_grad_(False)
    with gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)
    policy.head.weight = nn.Parameter(policy.head.weight.detach().clone())
    with pytest.raises(AdjustmentError, match="'head' changed since GAP was attached"), gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)


def test_a_schedule_that_is_none_is_refused_and_a_layer_before_its_first_pass_is_not(unchecked):
    policy = nn.ModuleDict({"state": nn.LazyLinear(4)})
    with pytest.raises(AdjustmentError, match=r"schedule is \{'lam': 0\.3\}; give an AdjustmentSchedule"):
        attach(policy, "state", {"lam": 0.3}, total_steps=2)
    gap = attach(policy, "state", ONLY_RHO, total_steps=2)
    assert "on 0 values" in repr(gap) and "state.weight before its first pass" in repr(gap)
    with gap.adjusting(RHO, 0):
        policy["state"](PROPRIO)
    assert "on 16 values" in repr(gap)


@pytest.mark.parametrize(
    "rho",
    [
        0.5,
        torch.tensor(0.5),
        np.array(["a"] * 4),
        torch.ones(4) + 0.5j,
        np.ma.masked_greater(np.full(4, 0.5), 0.1),
        torch.zeros(4, 2, 3),
    ],
)
def test_a_rho_that_is_no_number_per_sample_is_refused(unchecked, policy, rho):
    with attach(policy, "state", ONLY_RHO, total_steps=2) as gap:
        with pytest.raises(AdjustmentError, match=r"give numbers of shape \[B\] or \[B, W\]"), gap.adjusting(rho, 0):
            policy(IMAGE, PROPRIO)


@pytest.mark.parametrize("step", [-1, 0.5, float("nan"), None, "0"])
def test_a_step_that_is_none_is_refused(unchecked, policy, step):
    with attach(policy, "state", ONLY_RHO, total_steps=2) as gap:
        with pytest.raises(AdjustmentError, match="the training step is"), gap.adjusting(RHO, step):
            policy(IMAGE, PROPRIO)
        for good in (torch.tensor(0), np.int64(0)):
            with gap.adjusting(RHO, good):
                policy(IMAGE, PROPRIO)


def test_a_step_beyond_the_end_of_training_is_warned_of_at_the_line_that_counts(policy):
    with attach(policy, "state", ONLY_RHO, total_steps=2) as gap:
        with warnings.catch_warnings(action="error"), gap.adjusting(RHO, 1):
            policy(IMAGE, PROPRIO)
        with pytest.warns(UserWarning, match="step 2 of a run of 2 steps: .* counted in epochs") as caught:
            with gap.adjusting(RHO, 2):
                policy(IMAGE, PROPRIO)
        assert [warning.filename for warning in caught] == [__file__]


def test_a_step_that_goes_back_as_a_number_within_an_epoch_does_is_warned_of(policy):
    with attach(policy, "state", ONLY_RHO, total_steps=9) as gap:
        for step, warned in ((0, 0), (1, 0), (1, 0), (0, 1), (1, 0)):
            with warnings.catch_warnings(record=True) as caught, gap.adjusting(RHO, step):
                policy(IMAGE, PROPRIO)
            assert ["step 0 after step 1: steps count over" in str(w.message) for w in caught] == [True] * warned


@pytest.mark.parametrize("name", [None, 5, b"state", [5]])
def test_what_is_no_name_is_refused(unchecked, policy, name):
    with pytest.raises(AdjustmentError, match="give a name, or a list of names"):
        attach(policy, name, ONLY_RHO, total_steps=2)
    with pytest.raises(AdjustmentError, match=r"the policy is a OrderedDict; give the torch\.nn\.Module"):
        attach(policy.state_dict(), "state", ONLY_RHO, total_steps=2)


def test_copies_of_a_policy_and_files_of_it_are_without_gap(policy):
    gap = attach(policy, "state", AdjustmentSchedule(lam=0.3), total_steps=2)
    gap.watch(torch.optim.SGD(policy.parameters(), lr=1.0))
    saved = io.BytesIO()
    torch.save(policy, saved)
    assert b"gap_vla" not in saved.getvalue()  # nor is it needed where they are read
    saved.seek(0)
    for copied in (copy.deepcopy(policy), torch.load(saved, weights_only=False)):
        copied(IMAGE, PROPRIO).sum().backward()  # in training mode, without rho
        attach(copied, "state", ONLY_RHO, total_steps=2).detach()
    with pytest.raises(ValueError, match="without rho"):
        policy(IMAGE, PROPRIO)


@pytest.mark.parametrize("shape", [(4,), (3,), (1, 5), (2, 4), (3, 1), (1, 4, 1)])
def test_factors_of_others_than_the_first_axes_are_refused(shape):
    with pytest.raises(AdjustmentError, match=r"for x of shape \[1, 4\]; give \[B\] or \[B, T\]"):
        scale_gradient(torch.ones(1, 4), torch.ones(shape))


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -0.5])
def test_a_factor_that_scales_no_gradient_is_refused(odd):
    with pytest.raises(AdjustmentError, match=r"factor is .* in places; factors are 0 or more"):
        scale_gradient(torch.ones(2, 3), torch.tensor([1.0, odd]))


@pytest.mark.parametrize("features", [slice(7, 9), slice(1, 9), slice(2, 2), slice(-5, 2)])
def test_a_part_of_the_features_that_is_not_there_is_refused(features):
    with pytest.raises(AdjustmentError, match="are none of the 3 of the last axis"):
        scale_gradient(torch.ones(2, 3, requires_grad=True), torch.ones(2), features=features)
