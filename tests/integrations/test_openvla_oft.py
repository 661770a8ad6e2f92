"""GAP in OpenVLA-OFT's fine-tuning script: oft_like.py stands in for it."""

from types import SimpleNamespace

import pytest
import torch

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.integrations.openvla_oft import with_gap
from tests.integrations import oft_like

CFG = SimpleNamespace(use_proprio=True, max_steps=4, grad_accumulation_steps=2, resume=False, resume_step=None)
LAM = 0.25


@pytest.fixture(scope="module")
def passes():
    """The eight micro-batches of four steps; GAP acts in the first two."""
    names = {name: value for name, value in vars(oft_like).items() if not name.startswith("__")}
    with_gap(oft_like, AdjustmentSchedule(lam=LAM, rho="current"))
    try:
        oft_like.finetune(CFG)
    finally:
        vars(oft_like).update(names)
    return oft_like.LOG


def plain(one, rows=slice(None)):
    """The loss of some samples and its gradients, without GAP, at the weights before a pass."""
    vla, projector = oft_like.DDP(oft_like.Vla()), oft_like.DDP(oft_like.ProprioProjector(8, 5))
    for module, prefix in ((vla, ""), (projector, "proprio.")):
        module.load_state_dict({name: one["before"][prefix + name] for name in module.state_dict()})
    batch = {name: value[rows] for name, value in one["batch"].items()}
    loss, _ = oft_like.run_forward_pass(vla, projector, batch, True)
    named = {**dict(vla.named_parameters()), **dict(projector.named_parameters(prefix="proprio"))}
    return loss.item(), dict(zip(named, torch.autograd.grad(loss, named.values())))


@pytest.mark.parametrize("step", range(4))
def test_the_projector_learns_from_each_sample_by_one_minus_rho_and_lambda_in_the_window(passes, step):
    micro = passes[2 * step : 2 * step + 2]
    rho = [torch.from_numpy(oft_like.RHO[3 * i : 3 * i + 3]) for i in (2 * step, 2 * step + 1)]
    for one, expected in zip(micro, rho):
        assert torch.equal(one["batch"]["rho"], expected)
        assert one["batch"]["actions"].shape == (3, oft_like.CHUNK, oft_like.ACTION_DIM)
        assert one["loss"] == pytest.approx(plain(one)[0], rel=1e-6)
    for name, before in micro[0]["before"].items():
        assert torch.equal(micro[0]["after"][name], before)  # gradients are gathered
        acts = name.startswith("proprio") and step < 2
        gradient = 0
        for one, own in zip(micro, rho):
            for b in range(3):
                gradient = gradient + (1 - own[b] if acts else 1) * plain(one, slice(b, b + 1))[1][name] / 6
        torch.testing.assert_close(
            micro[1]["after"][name] - before, -0.1 * (LAM if acts else 1) * gradient, rtol=1e-4, atol=1e-6
        )


def test_statistics_are_saved_without_the_dimension_of_rho(passes):
    assert len(oft_like.SAVED["run"]["threading"]["action"]["mean"]) == oft_like.ACTION_DIM
