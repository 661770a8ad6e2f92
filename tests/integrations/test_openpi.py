"""GAP in openpi's π0: the real `scripts/train.py` cannot run here, so openpi_like.py stands in for it."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.jax import path_of
from gap_vla.core.errors import ConfigError
from gap_vla.integrations import openpi, openpi_state
from tests.integrations import openpi_like

RHO = np.linspace(0, 1, 12, dtype=np.float32)  # of each frame
CONFIG = openpi_like.TrainConfig()


def flat(tree):
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.fixture(scope="module")
def steps():
    """The four steps of a run with λ = 0.25 in the first two."""
    openpi_like.LOG.clear()
    plain = openpi_like.train_step
    openpi.train(openpi_like, CONFIG, RHO, lam=0.25, window=0.5)
    assert openpi_like.train_step is plain
    return [*openpi_like.LOG]


def plain_gradients(step, number):
    """What π0 itself makes of a step's parameters and batch without ρ: its loss, and each sample's gradient."""
    observation, actions = step["batch"]
    observation = dataclasses.replace(observation, state=observation.state.at[:, -1].set(0))
    graph = nnx.graphdef(CONFIG.model.create(jax.random.key(0)))
    rng = jax.random.fold_in(jax.random.key(1), number)

    def losses(params):
        return nnx.merge(graph, params).compute_loss(rng, observation, actions, train=True).mean(-1)

    return float(losses(step["before"]).mean()), flat(jax.jacobian(losses)(step["before"]))


@pytest.mark.parametrize("number", range(4))
def test_state_proj_learns_from_each_sample_by_one_minus_rho_and_lambda_in_the_window(steps, number):
    step = steps[number]
    loss, gradients = plain_gradients(step, number)
    assert step["loss"] == pytest.approx(loss, rel=1e-6)
    rho = RHO[3 * number : 3 * number + 3]
    np.testing.assert_allclose(step["batch"][0].state[:, -1], rho, rtol=1e-6)  # before the model reads it
    before, after = flat(step["before"]), flat(step["after"])
    assert sum(name.startswith("state_proj") for name in before) == 2
    for name, of_samples in gradients.items():
        acts = name.startswith("state_proj") and number < 2
        weight, lam = (1 - rho, 0.25) if acts else (np.ones(3), 1.0)
        expected = -0.1 * lam * np.einsum("b,b...->...", weight, of_samples) / 3
        np.testing.assert_allclose(after[name] - before[name], expected, rtol=1e-4, atol=1e-6)


def test_rho_never_reaches_a_weight(steps):
    kernels = [flat(step["after"]) for step in steps]
    kernel = next(name for name in kernels[0] if name.startswith("state_proj/kernel"))
    rows = [flat(steps[0]["before"])[kernel][-1], *(tree[kernel][-1] for tree in kernels)]
    assert all(np.array_equal(row, rows[0]) for row in rows)


def test_serving_with_the_same_data_config_needs_no_rho():
    data = openpi_state.RhoInState(CONFIG.data, RHO).create("assets", CONFIG.model)
    sample = {"observation/state": np.ones(3), "observation/image": np.ones(6), "actions": np.ones((2, 3))}
    for transform in [*data.data_transforms.inputs, *data.model_transforms.inputs]:
        sample = transform(sample)
    assert sample["state"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model": openpi_like.Pi0Config(pi05=True)}, "π0.5"),  # openpi#650, #680: does π0.5 see the state?
        ({"model": openpi_like.Pi0Config(action_dim=3)}, "3 values of 3"),
    ],
)
def test_a_model_without_state_proj_and_a_full_state_are_refused(change, name):
    with pytest.raises(ConfigError, match=name):
        openpi.train(openpi_like, dataclasses.replace(CONFIG, **change), RHO)


class PI0Pytorch(nn.Module):
    def __init__(self, pi05=False):
        super().__init__()
        self.pi05 = pi05
        self.state_proj, self.action_in_proj, self.action_out_proj = nn.Linear(8, 8), nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, observation, actions, noise=None, time=None):
        assert not observation.state[:, -1].any()
        token = self.state_proj(observation.state)
        tokens = torch.cat([token[:, None], self.action_in_proj(actions)], 1)
        return nn.functional.mse_loss(self.action_out_proj(tokens.cumsum(1).tanh())[:, 1:], actions, reduction="none")


def test_pytorchs_pi0_is_adjusted_by_the_rho_in_the_state():
    torch.manual_seed(0)
    model, rho, actions = PI0Pytorch(), torch.tensor([0.0, 0.4, 1.0]), torch.randn(3, 2, 3)
    clean = openpi_like.Observation({}, torch.cat([torch.randn(3, 7), torch.zeros(3, 1)], 1))
    packed = dataclasses.replace(clean, state=torch.cat([clean.state[:, :7], rho[:, None]], 1))
    names = [name for name, _ in model.named_parameters()]
    losses = model(clean, actions)
    singles = [
        dict(zip(names, torch.autograd.grad(losses[b].mean() / 3, model.parameters(), retain_graph=True)))
        for b in range(3)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gap = openpi_state.attach_pytorch(model, AdjustmentSchedule(lam=0.25, rho="current"), total_steps=2)
    gap.watch(optimizer)
    for step in range(2):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        if step == 0:
            with openpi_state.adjusting(gap, packed, step) as observation:
                found = model(observation, actions)
            assert torch.equal(found, losses)
            found.mean().backward()
        else:  # after the window: the gradients of the first step again
            with openpi_state.adjusting(gap, packed, step):
                pass
        optimizer.step()
        for name, p in model.named_parameters():
            factor = 1 - rho if name.startswith("state_proj") else torch.ones(3)
            lam = 0.25 if name.startswith("state_proj") and step == 0 else 1.0
            expected = -0.1 * lam * sum(factor[b] * singles[b][name] for b in range(3))
            torch.testing.assert_close(p.detach() - before[name], expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(ConfigError, match=r"π0\.5"):
        openpi_state.attach_pytorch(PI0Pytorch(pi05=True), AdjustmentSchedule(), total_steps=2)
