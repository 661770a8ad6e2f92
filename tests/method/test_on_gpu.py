"""On a GPU: GAP does there what it does on a processor, and a training there can be repeated, resumed and taken away.

Without a GPU its tests are skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gap_vla.adjustment.torch import attach
from gap_vla.policies.registry import METHODS
from gap_vla.policies.saving import load_saved_policy, save_policy
from gap_vla.training.torch_trainer import SmallTrainer
from tests.helpers.torch_policy import IMAGE, ONLY_RHO, PROPRIO, RHO, TARGET, Policy
from tests.helpers.toy_store import toy_config, write_store

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICE = "cuda"
ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def gradients(policy, rows=slice(None), autocast=None):
    """Gradient of the mean loss over some samples, and the output."""
    batch = [part[rows].to(DEVICE) for part in (IMAGE, PROPRIO, TARGET)]
    policy.zero_grad()
    with torch.autocast(DEVICE, autocast or torch.bfloat16, enabled=autocast is not None):
        output = policy(*batch[:2])
    ((output.float() - batch[2]) ** 2).mean().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}, output


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy().to(DEVICE)


@pytest.mark.parametrize(("autocast", "close"), [(None, 1e-5), (torch.bfloat16, 3e-2)])
def test_the_proprio_gradient_is_the_sum_of_samples_weighted_with_one_minus_rho(policy, autocast, close):
    plain, output = gradients(policy, autocast=autocast)
    with attach(policy, "state", ONLY_RHO, total_steps=10) as gap, gap.adjusting(RHO, 0):
        found, same = gradients(policy, autocast=autocast)
    assert torch.equal(output, same)
    singles = [gradients(policy, slice(b, b + 1), autocast)[0] for b in range(4)]
    for name in found:
        if not name.startswith("state"):
            assert torch.equal(found[name], plain[name]), name
            continue
        expected = sum((1 - RHO[b]).to(DEVICE) * singles[b][name] for b in range(4)) / 4
        assert not torch.equal(found[name], plain[name]), name
        torch.testing.assert_close(found[name], expected, rtol=close, atol=close * float(expected.abs().max()))


def test_a_compiled_policy_is_adjusted_in_one_whole_graph():
    program = ROOT / "tests" / "method" / "compiled_policy.py"
    call = [sys.executable, str(program), "inductor", DEVICE]
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PATHS})
    assert "submodule: whole graph" in done.stdout and "columns: whole graph" in done.stdout, done.stderr


def trained(folder, device, method="vp_gap", steps=6, restored=False):
    """A trainer after some steps, and their losses; `restored`: half of them were another trainer's."""
    config = toy_config(folder, method, train={"device": device})
    store, losses = write_store(folder / "store"), []
    trainer = SmallTrainer.on(config, store)
    for step in range(steps):
        if step == 0 or (restored and step == steps // 2):
            if step:
                trainer.save(step)
                trainer = SmallTrainer.on(config, store)
            assert trainer.restore(folder) == step
        losses.append(float(trainer.step(trainer.batch(step), step, measure=step == 2).loss))
    return trainer, losses


def weights(trainer):
    return {name: value.cpu() for name, value in trainer.policy.state_dict().items()}


def test_a_training_there_follows_one_on_the_processor(tmp_path):
    here, there = (trained(tmp_path / device, device)[1] for device in ("cpu", DEVICE))
    assert there == pytest.approx(here, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes_also_after_a_restart(method, tmp_path):
    first, losses = trained(tmp_path / "first", DEVICE, method)
    second, same = trained(tmp_path / "second", DEVICE, method, restored=True)
    assert losses == same
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_what_was_trained_there_acts_alike_on_a_processor(tmp_path):
    trainer, _ = trained(tmp_path, DEVICE)
    save_policy(trainer.policy, tmp_path / "checkpoint", trainer.windows.statistics, "normal")
    batch, chunks = trainer.held_out.gather(np.arange(5)), []
    for device in ("cpu", DEVICE):
        policy = load_saved_policy(tmp_path / "checkpoint")[0].to(device)
        with torch.no_grad():
            chunks.append(policy({key: value.to(device) for key, value in batch.items()}).cpu())
    torch.testing.assert_close(*chunks, rtol=1e-3, atol=1e-3)


def test_octos_with_the_same_seed_have_the_same_parameters(tmp_path):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU")
    from gap_vla.training.octo import FinetuneConfig
    from gap_vla.training.octo_trainer import OctoTrainer

    model = {"token_embedding_size": 32, "num_layers": 1, "num_heads": 2, "mlp_dim": 32, "stem_features": [32, 32]}
    config = FinetuneConfig.from_dict({"task": "threading", "model": model, "train": {"steps": 6, "batch_size": 4}})
    store, found = write_store(tmp_path / "store"), []
    for _ in range(2):
        trainer = OctoTrainer.on(config, store)
        for step in range(6):
            trainer.step(trainer.batch(step), step, measure=False)
        found.append(jax.tree.leaves(jax.device_get(trainer.state.params)))
    assert all(map(np.array_equal, *found))
