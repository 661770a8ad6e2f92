"""Of test_adjusted_wrapped.py, which is one of the processes and runs this file as the other: they train one
policy with DDP (gloo), each on half of a batch.
"""

import datetime
import os
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach
from tests.helpers.torch_policy import Policy


def train(policy, module, rows, kind):
    gap = attach(policy, "state", AdjustmentSchedule(lam=0.25, rho=kind), total_steps=4)
    optimizer = gap.watch(torch.optim.AdamW(policy.parameters(), lr=0.05, weight_decay=0.1))
    generator = torch.Generator().manual_seed(1)
    for step in range(3):  # GAP acts in the first two
        image, proprio = torch.randn(4, 6, generator=generator), torch.randn(4, 3, generator=generator)
        rho = torch.rand(4, 2, generator=generator)  # of two actions: the two outputs
        optimizer.zero_grad()
        with gap.adjusting(rho[rows], step):
            loss = gap.scale_losses(module(image[rows], proprio[rows]).square()).mean()
        loss.backward()
        optimizer.step()
    return policy.state_dict()


def train_with_another(rank: int, file: object) -> None:
    """Gradients, λ and the weights after three steps are those of one process with the whole batch."""
    where = {"init_method": f"file://{file}", "timeout": datetime.timedelta(minutes=5)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, **where)
    try:
        for kind in ("chunk_max", "chunk"):
            compare_with_the_whole(rank, kind)
    finally:
        torch.distributed.destroy_process_group()


def compare_with_the_whole(rank: int, kind: str) -> None:
    whole, policy = Policy(), Policy()
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    expected = train(whole, whole, slice(0, 4), kind)
    found = train(policy, DistributedDataParallel(policy), slice(2 * rank, 2 * rank + 2), kind)
    for name, value in expected.items():
        assert not torch.allclose(value, start[name], atol=1e-4), name
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    train_with_another(1, sys.argv[1])
