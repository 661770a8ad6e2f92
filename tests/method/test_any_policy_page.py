"""The blocks of docs/ANY_POLICY.md that need no other package, run as they are written."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gap_vla.demos import lerobot_sidecar

PAGE = (Path(__file__).parents[2] / "docs" / "ANY_POLICY.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
RHO = np.linspace(0, 1, 6, dtype=np.float32)  # of three frames in each of two episodes


def run(words: str, names: dict) -> dict:
    """The names after the one block that has these words."""
    (block,) = [block for block in BLOCKS if words in block]
    exec(block, names)
    return names


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"state_proj": nn.Linear(3, 4), "head": nn.Linear(4, 2)})

    def predict(self, batch):
        return self.model["head"](self.model["state_proj"](batch["state"]).tanh())[:, None].expand(-1, 2, -1)

    def forward(self, batch):
        return (self.predict(batch) - batch["action"]).square().mean()


class LeRobotPolicy(Policy):
    """Its forward gives a loss and a dictionary."""

    def forward(self, batch):
        return super().forward(batch), {}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "state": torch.randn(2, 3, generator=generator),
        "action": torch.randn(2, 2, 2, generator=generator),
        "mask": torch.ones(2, 2),
        "rho": torch.tensor([0.2, 0.9]),
        "index": torch.tensor([1, 5]),
    }


def test_the_loop_trains_and_takes_itself_away(batch):
    policy = Policy()
    before = policy.model["state_proj"].weight.detach().clone()
    names = run(
        "from gap_vla.adjustment.torch import attach\n\ngap = attach(", {"policy": policy, "batches": [batch] * 2}
    )
    assert not torch.equal(policy.model["state_proj"].weight, before) and names["step"] == 1
    assert not policy.model["state_proj"]._forward_hooks
    names |= {"batch": batch, "step": 0, "rho_of_actions": torch.tensor([[0.2, 0.9], [0.5, 0.5]])}
    run("gap.scale_losses(losses)", names)["loss"].backward()
    assert policy.model["state_proj"].weight.grad.any()


def test_rho_beside_a_lerobot_dataset_is_looked_up_by_frame(batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("path/to/dataset")
    folder.mkdir(parents=True)
    columns = {
        "index": np.arange(6),
        "episode_index": np.repeat([0, 1], 3),
        "frame_index": np.tile(np.arange(3), 2),
        "rho": RHO,
        "change_point": np.zeros(6, bool),
    }
    lerobot_sidecar.write(folder / lerobot_sidecar.NAME, columns, {}, [], {})
    names = run("from gap_vla.adjustment.torch import attach\n\ngap = attach(", {"policy": Policy(), "batches": []})
    policy = LeRobotPolicy()
    gap = names["attach"](policy, "model.state_proj", names["AdjustmentSchedule"](lam=1.0), total_steps=2)
    names = run("gap_rho.parquet", {"gap": gap, "policy": policy, "batch": batch, "step": 0})
    assert torch.equal(names["rho_of_frame"], torch.from_numpy(RHO)) and names["loss"] > 0
    run("np.roll(rho", names)  # for two observation steps: the previous frame's ρ beside it
    before = [RHO[0], RHO[0], RHO[1], RHO[3], RHO[3], RHO[4]]
    np.testing.assert_array_equal(names["rho_of_frame"], np.stack([before, RHO], 1))
