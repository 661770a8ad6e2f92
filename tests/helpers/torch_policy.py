"""A small torch policy with a proprioceptive branch, and a batch for it."""

import torch
from torch import nn

from gap_vla.adjustment import AdjustmentSchedule


class Policy(nn.Module):
    """Image features and proprioception, concatenated."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.vision = nn.Linear(6, 4)
        self.state = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))
        self.head = nn.Linear(8, 2)

    def forward(self, image, proprio):
        return self.head(torch.cat([self.vision(image), self.state(proprio)], -1)).tanh()


GENERATOR = torch.Generator().manual_seed(1)
IMAGE = torch.randn(4, 6, generator=GENERATOR)
PROPRIO = torch.randn(4, 3, generator=GENERATOR)
TARGET = torch.randn(4, 2, generator=GENERATOR)
RHO = torch.tensor([0.0, 0.3, 0.9, 1.0])
ONLY_RHO = AdjustmentSchedule(lam=1.0)


def gradients(policy, image=IMAGE, proprio=PROPRIO, target=TARGET):
    """Gradients of the mean squared error, by the parameter's name."""
    policy.zero_grad()
    ((policy(image, proprio) - target) ** 2).mean().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}
