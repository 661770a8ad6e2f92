"""On a GPU: GAP does there what it does on a processor, and a training there can be repeated, resumed and taken away.

`make gpu` runs this file and Octo's parity with upstream; without a GPU its tests are skipped.
"""

# ruff: noqa: E402  (a folder of helpers is put on the path first)
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent / name) for name in ("policies",)]
import toy_store
from toy_store import place_store, toy_config, write_store

from gap_vla.adjustment.torch import attach
from gap_vla.core.run_directory import RunDirectory
from gap_vla.policies import METHODS
from gap_vla.policies.windows import SmallWindows
from gap_vla.rlds import EpisodeStore
from gap_vla.rollouts.small_policy import SmallTorchPolicy
from gap_vla.serving.loading import load_checkpoint
from gap_vla.training.run import finetune
from gap_vla.training.stages import stages_of
from gap_vla.training.torch_trainer import SmallTrainer
from tests.helpers.torch_policy import IMAGE, ONLY_RHO, PROPRIO, RHO, TARGET, Policy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICE = "cuda"
ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize(("autocast", "close"), [(None, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 5e-3)])
def test_the_proprio_gradient_is_the_sum_of_samples_weighted_with_one_minus_rho(policy, where, autocast, close):
    plain, output = gradients(policy, autocast=autocast)
    with attach(policy, "state", ONLY_RHO, total_steps=10) as gap, gap.adjusting(RHO.to(where), 0):
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


def losses(tmp_path, device, method="gap", steps=6, **changes):
    config = toy_config(tmp_path, method, **{**changes, "train": {"device": device, **changes.get("train", {})}})
    trainer = SmallTrainer.on(config, place_store(config))
    found = [float(trainer.step(trainer.batch(step), step, measure=step == 2).loss) for step in range(steps)]
    return found, {name: value.cpu() for name, value in trainer.policy.state_dict().items()}


def test_a_training_there_follows_one_on_the_processor(tmp_path):
    here, _ = losses(tmp_path / "here", "cpu")
    there, _ = losses(tmp_path / "there", DEVICE)
    assert there == pytest.approx(here, rel=1e-3)


PARTS = [{"head": "diffusion"}, {"head": "gmm"}, {"fusion": "attention"}, {"encoder": "resnet18"}]
PARTS += [{"temporal": "transformer", "image_history": 3, "proprio_history": 3}]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        *((method, {}) for method in METHODS),
        *(("gap", {"model": part}) for part in PARTS),
        ("gap", {"train": {"precision": "bfloat16"}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, next(iter(value.values()), {}).values())),
)
def test_the_same_seed_gives_the_same_bytes(method, changes, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_store, "SIZE", 40)  # the least that a ResNet takes is 33
    first, second = (losses(tmp_path / name, DEVICE, method, 4, **changes) for name in ("first", "second"))
    assert first[0] == second[0]
    assert all(torch.equal(value, second[1][name]) for name, value in first[1].items())


def test_a_resumed_training_ends_as_an_undisturbed_one_and_acts_on_a_processor(tmp_path, monkeypatch):
    config = toy_config(tmp_path, "gap", train=dict(device=DEVICE))
    place_store(config)
    finetune(config, "whole")
    step = SmallTrainer.step

    def stops(self, batch, number, measure=False):
        if number == 9:
            raise KeyboardInterrupt
        return step(self, batch, number, measure)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SmallTrainer, "step", stops)
        finetune(config, "broken")
    finetune(config, "broken", resume=True)
    runs = [RunDirectory(Path(config.runs) / "assembly" / name) for name in ("whole", "broken")]
    whole, broken = ((run.checkpoint / "policy.safetensors").read_bytes() for run in runs)
    assert whole == broken
    held_out = EpisodeStore.open(stages_of(config).store)
    windows = SmallWindows(config, held_out, "val", held_out.split("val").fields["rho"])
    chunks = []
    for device in ("cpu", DEVICE):
        policy = load_checkpoint(runs[0].path, device=device).policy
        assert isinstance(policy, SmallTorchPolicy)
        batch = {key: value.to(device) for key, value in windows.gather(np.arange(5)).items()}
        with torch.no_grad():
            feature = policy.model.embed(*policy.model.branch_features(batch))
            chunks.append(policy.model.head.predict(feature, torch.Generator().manual_seed(0)).cpu())
    torch.testing.assert_close(*chunks, rtol=1e-3, atol=1e-3)


def test_octos_with_the_same_seed_have_the_same_parameters(tmp_path):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU")
    write_store(tmp_path / "store")
    program = Path(__file__).parent / "training" / "short_training.py"
    found = []
    for name in ("first", "second"):
        call = [sys.executable, str(program), str(tmp_path / "store"), str(tmp_path / name), '{"train": {"steps": 6}}']
        done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PATHS})
        assert done.returncode == 0, done.stderr
        found.append(dict(np.load(tmp_path / name / "parameters.npz")))
    assert all(np.array_equal(value, found[1][name]) for name, value in found[0].items())
