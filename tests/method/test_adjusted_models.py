"""GAP on stand-ins with the module names, shapes and call sites of published policies, here without their packages.

LeRobot's real classes are in test_lerobot.py.
"""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach, attach_columns

RHO = torch.tensor([0.0, 0.4, 1.0])


class ProprioProjector(nn.Module):
    """OpenVLA-OFT's: two linear layers around a GELU; a module of its own beside the language model."""

    def __init__(self, llm_dim=8, proprio_dim=5):
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, llm_dim)
        self.fc2 = nn.Linear(llm_dim, llm_dim)
        self.act_fn1 = nn.GELU()

    def forward(self, proprio=None):
        return self.fc2(self.act_fn1(self.fc1(proprio)))


class Oft(nn.Module):
    """The model is handed the projector with every call, and appends its token to the image's."""

    def __init__(self):
        super().__init__()
        self.vision, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, image, proprio, proprio_projector):
        tokens = torch.cat([self.vision(image), proprio_projector(proprio.reshape(len(image), -1)).unsqueeze(1)], 1)
        return self.head(tokens.mean(1).tanh())


class Pi0(nn.Module):
    """openpi's PI0Pytorch: `state_proj`, called inside activation checkpointing that is not reentrant."""

    def __init__(self):
        super().__init__()
        self.state_proj = nn.Linear(5, 8)
        self.action_in_proj, self.action_out_proj = nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, state, noisy):
        def state_proj_func(state):
            return self.state_proj(state)

        token = checkpoint(state_proj_func, state, use_reentrant=False, preserve_rng_state=False)
        tokens = torch.cat([token[:, None], self.action_in_proj(noisy)], 1)
        return self.action_out_proj((tokens.cumsum(1) / 3).tanh())


class RobomimicTransformer(nn.Module):
    """robomimic's MIMO_Transformer: raw low-dimensional keys and image features, concatenated, then `embed_encoder`."""

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleDict(
            {"vision": nn.Linear(6, 4), "embed_encoder": nn.Linear(9, 8), "decoder": nn.Linear(8, 2)}
        )

    def forward(self, image, state):
        embedded = self.nets["embed_encoder"](torch.cat([state, self.nets["vision"](image)], -1))
        return self.nets["decoder"](embedded.cumsum(1).tanh())


def gradients(module, loss):
    module.zero_grad()
    loss().backward()
    return {n: p.grad.clone() for n, p in module.named_parameters()}


def expect_weighted_samples(module, adjusted, found, plain, singles, factors):
    for name, gradient in plain.items():
        if name in adjusted:
            gradient = sum(f * single[name] for f, single in zip(factors, singles))
            assert not torch.allclose(gradient, plain[name], rtol=1e-3)
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["openvla-oft", "openpi"])
def test_published_module_names_are_adjusted_sample_by_sample(model):
    torch.manual_seed(0)
    state, image, noisy = torch.randn(3, 5), torch.randn(3, 4, 6), torch.randn(3, 2, 2)
    if model == "openpi":
        module = nn.ModuleDict({"model": Pi0()})
        place, name = module, "model.state_proj"
        run = lambda rows: module["model"](state[rows], noisy[rows]).square().sum()  # noqa: E731
    else:
        module = nn.ModuleDict({"vla": Oft(), "proprio_projector": ProprioProjector()})
        place, name = module, "proprio_projector"
        run = lambda rows: (  # noqa: E731
            module["vla"](image[rows], state[rows][:, None], module["proprio_projector"]).square().sum()
        )
    plain = gradients(module, lambda: run(slice(None)))
    singles = [gradients(module, lambda b=b: run(slice(b, b + 1))) for b in range(3)]
    with attach(place, name, AdjustmentSchedule(lam=1.0), total_steps=2) as gap:

        def loss():
            with gap.adjusting(RHO, 0):
                return run(slice(None))  # its backward pass comes after the context

        found = gradients(module, loss)
        expect_weighted_samples(module, gap.parameters, found, plain, singles, 1 - RHO)
    assert all(torch.equal(g, plain[n]) for n, g in gradients(module, lambda: run(slice(None))).items())


def test_a_projector_that_is_its_own_module_is_attached_inside_a_dictionary():
    """OpenVLA-OFT's script holds `vla` and `proprio_projector` apart, the latter wrapped by DDP as `.module`."""
    projector = ProprioProjector()
    gap = attach(
        nn.ModuleDict({"proprio_projector": projector}), "proprio_projector", AdjustmentSchedule(), total_steps=2
    )
    assert [n.removeprefix("proprio_projector.") for n in gap.parameters] == [
        n for n, _ in projector.named_parameters()
    ]


def test_raw_state_of_a_transformer_policy_is_adjusted_step_by_step():
    torch.manual_seed(0)
    policy = RobomimicTransformer()
    image, state = torch.randn(3, 2, 6), torch.randn(3, 2, 5)
    rho = torch.tensor([[0.0, 0.5], [1.0, 0.2], [0.3, 1.0]])
    outputs = []
    handle = policy.nets["embed_encoder"].register_full_backward_hook(lambda m, gin, gout: outputs.append(gout[0]))
    plain = gradients(policy, lambda: policy(image, state).square().sum())
    handle.remove()
    schedule = AdjustmentSchedule(lam=1.0, rho="step")
    with (
        attach_columns(policy, {"nets.embed_encoder": slice(0, 5)}, schedule, total_steps=2) as gap,
        gap.adjusting(rho, 0),
    ):
        found = gradients(policy, lambda: policy(image, state).square().sum())
    name = "nets.embed_encoder.weight"
    expected = torch.einsum("bw,bwo,bwi->oi", 1 - rho, outputs[0], state)
    torch.testing.assert_close(found[name][:, :5], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.pop(name)[:, 5:], plain.pop(name)[:, 5:])
    for other in plain:
        torch.testing.assert_close(found[other], plain[other])
