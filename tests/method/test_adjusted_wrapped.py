"""GAP inside what people wrap around a policy: a compiler, several processes, half precision, accelerate.

There the weights move in three steps as in a plain loop of one process.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach
from gap_vla.core.errors import ConfigError
from tests.helpers.torch_policy import IMAGE, PROPRIO, RHO, TARGET, Policy
from tests.method.distributed_policy import train_with_another

HERE = Path(__file__).parent
ALONE = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
BACKEND = "inductor" if shutil.which("g++") else "aot_eager"  # the former needs a C++ compiler


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", BACKEND])
def test_a_compiled_policy_is_adjusted_in_one_whole_graph(backend):
    call = [sys.executable, str(HERE / "compiled_policy.py"), backend]
    done = subprocess.run(call, capture_output=True, text=True, env=ALONE, check=False)
    for claim in ("submodule: whole", "columns: whole", "chunk: as without", "compiled before it was attached"):
        assert claim in done.stdout, done.stderr


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    call = [sys.executable, str(HERE / "distributed_policy.py"), str(tmp_path / "rendezvous")]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env=ALONE) as other:
        train_with_another(0, tmp_path / "rendezvous")
        assert other.wait() == 0, other.stderr.read()


GAP = AdjustmentSchedule(lam=0.25, rho="current")
TOTAL = 4
"""Steps of the whole run: GAP acts in its first two, and three are taken."""
HALF = 2 * torch.finfo(torch.bfloat16).eps
"""Of the largest movement of a parameter: what rounding to bfloat16 on the way may make of it."""


def start():
    policy = Policy()
    return policy, torch.optim.AdamW(policy.parameters(), lr=0.05, weight_decay=0.1)


def train(context=contextlib.nullcontext, parts=1, schedule=GAP):
    """How far each parameter moved, by name; `parts` of the batch come one after the other."""
    policy, optimizer = start()
    gap = attach(policy, "state", schedule, total_steps=TOTAL)
    gap.watch(optimizer)
    for step in range(TOTAL - 1):
        optimizer.zero_grad()
        for rows in torch.arange(4).chunk(parts):
            with gap.adjusting(RHO[rows], step), context():
                loss = (policy(IMAGE[rows], PROPRIO[rows]) - TARGET[rows]).square().mean() / parts
            loss.backward()
        optimizer.step()
    return moved(policy)


def moved(policy):
    return {name: value - Policy().state_dict()[name] for name, value in policy.state_dict().items()}


def compare(found, rounding):
    expected, without = train(), train(schedule=AdjustmentSchedule(mode="none"))
    for name, value in expected.items():
        atol = rounding * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol)
        if name.startswith("state"):
            assert not torch.allclose(without[name], value, rtol=0, atol=10 * atol)


def test_gathered_gradients_and_autocast_move_the_weights_as_the_whole_batch_in_full_precision_does():
    compare(train(parts=2), 1e-5)
    compare(train(context=lambda: torch.autocast("cpu", torch.bfloat16)), HALF)


@pytest.mark.parametrize(("first", "precision"), [("attach", "no"), ("prepare", "bf16")])
def test_accelerate_moves_the_weights_as_a_plain_loop_does(first, precision):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    policy, optimizer = start()
    if first == "attach":
        gap = attach(policy, "state", GAP, total_steps=TOTAL)
    data = torch.utils.data.TensorDataset(IMAGE, PROPRIO, TARGET, RHO)
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    module, optimizer, loader = accelerator.prepare(policy, optimizer, loader)
    if first == "prepare":
        gap = attach(accelerator.unwrap_model(module), "state", GAP, total_steps=TOTAL)
    gap.watch(optimizer)
    for step in range(TOTAL - 1):  # each an epoch of two batches, whose gradients are gathered
        for image, proprio, target, rho in loader:
            with accelerator.accumulate(module):
                with gap.adjusting(rho, step):
                    loss = (module(image, proprio) - target).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
    accelerate.state.AcceleratorState._reset_state(True)
    compare(moved(policy), 1e-5 if precision == "no" else HALF)


def test_parameters_that_fully_shard_divides_are_refused_at_attach_or_in_the_first_step(tmp_path):
    import torch.distributed.fsdp  # takes longer than all else that this folder imports

    where = f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method=where)
    try:
        policy, mesh = Policy(), torch.distributed.init_device_mesh("cpu", (1,))
        gap = attach(policy, "state", GAP, total_steps=TOTAL)
        torch.distributed.fsdp.fully_shard(policy, mesh=mesh)
        with pytest.raises(ConfigError, match=r"state\.0\.weight .*fully_shard"), gap.adjusting(RHO, 0):
            policy(IMAGE, PROPRIO)
        with pytest.raises(ConfigError, match=r"state\.0\.weight .*fully_shard"):
            attach(policy, "state", GAP, total_steps=TOTAL)
    finally:
        torch.distributed.destroy_process_group()
