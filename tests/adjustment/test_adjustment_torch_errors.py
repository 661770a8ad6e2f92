"""GAP on a PyTorch policy: what cannot be meant is refused in words."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_policy import IMAGE, ONLY_RHO, PROPRIO, RHO, Policy

from gap_vla.adjustment.torch import attach


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy()


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
        with pytest.raises(ValueError, match="is empty"), gap.adjusting(RHO[:0], 0):
            policy(IMAGE, PROPRIO)
        with pytest.raises(ValueError, match="without rho"):
            policy(IMAGE, PROPRIO)
        policy.eval()(IMAGE, PROPRIO)
        with torch.no_grad():
            policy.train()(IMAGE, PROPRIO)


def test_a_submodule_that_is_never_called_is_noticed_at_the_first_step(policy):
    policy.unused = nn.Linear(3, 4)
    gap = attach(policy, "unused", ONLY_RHO, total_steps=2)
    with pytest.raises(ValueError, match=r"no forward pass went through unused\.weight"), gap.adjusting(RHO, 0):
        policy(IMAGE, PROPRIO)
