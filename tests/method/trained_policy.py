"""One policy's training of three steps, as plain loops and loops of other people's trainers do it.

Run as a program it is of test_adjusted_wrapped.py: a compiled policy's, in a process of its own for the reason that
compiled_policy.py names.
"""

import contextlib

import torch

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.adjustment.torch import attach
from tests.helpers.torch_policy import IMAGE, PROPRIO, RHO, TARGET, Policy

GAP = AdjustmentSchedule(lam=0.25, rho="current")
TOTAL = 4
"""Steps of the whole run: GAP acts in its first two, and three are taken."""


def start():
    policy = Policy()
    return policy, torch.optim.AdamW(policy.parameters(), lr=0.05, weight_decay=0.1)


def loss_of(policy, rows=slice(None)):
    return (policy(IMAGE[rows], PROPRIO[rows]) - TARGET[rows]).square().mean()


def train(wrap=lambda policy: policy, context=contextlib.nullcontext, parts=1, schedule=GAP):
    """How far each parameter moved, by name; `parts` of the batch come one after the other."""
    policy, optimizer = start()
    gap = attach(policy, "state", schedule, total_steps=TOTAL)
    gap.watch(optimizer)
    module = wrap(policy)
    for step in range(TOTAL - 1):
        optimizer.zero_grad()
        for rows in torch.arange(4).chunk(parts):
            with gap.adjusting(RHO[rows], step), context():
                loss = loss_of(module, rows) / parts
            loss.backward()
        optimizer.step()
    return moved(policy)


def moved(policy):
    return {name: value - Policy().state_dict()[name] for name, value in policy.state_dict().items()}


if __name__ == "__main__":
    plain = train()
    for name, value in train(lambda policy: torch.compile(policy, backend="eager", fullgraph=True)).items():
        torch.testing.assert_close(value, plain[name], rtol=1e-5, atol=1e-6)
    print("compiled: the same updates")
