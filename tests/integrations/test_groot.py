"""GAP in GR00T's training: groot_like.py stands in for it."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gap_vla.adjustment import AdjustmentSchedule
from gap_vla.core.errors import ConfigError
from gap_vla.demos import lerobot_sidecar
from gap_vla.integrations.groot import LabelledDataset, with_gap
from tests.integrations import groot_like

LAM, LENGTHS = 0.25, [7, 5]
RHO = np.linspace(0, 1, 12, dtype=np.float32)  # of episode 0, then of episode 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    columns = {
        "index": np.arange(12),
        "episode_index": np.repeat([0, 1], LENGTHS),
        "frame_index": np.concatenate([np.arange(n) for n in LENGTHS]),
        "rho": RHO,
        "change_point": np.zeros(12, bool),
    }
    lerobot_sidecar.write(folder / lerobot_sidecar.NAME, columns, {}, [], {})
    return folder


@pytest.fixture(scope="module")
def steps(folder):
    """The four steps of a run in which GAP acts in the first two."""
    trainer = groot_like.Gr00tTrainer
    with_gap(groot_like, AdjustmentSchedule(lam=LAM, rho="current"))
    try:
        groot_like.run(SimpleNamespace(dataset_path=folder, lengths=LENGTHS, max_steps=4))
    finally:
        groot_like.Gr00tTrainer = trainer
    return groot_like.LOG


ORDER = [*(7 + np.arange(5)[::-1]), *np.arange(7)[::-1]]  # in which the stand-in's shards have the frames


def plain(step, counted=(0, 1, 2)):
    model = groot_like.Gr00t()
    model.load_state_dict(step["before"])
    inputs, action = step["inputs"], step["inputs"]["action"].clone()
    with torch.no_grad():
        others = [b for b in range(3) if b not in counted]
        features = model.backbone(inputs["pixels"])[:, None]
        state = model.action_head.state_encoder(inputs["state"], inputs["embodiment_id"])
        dropped = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
        state = state * (1 - dropped) + model.action_head.mask_token * dropped
        action[others] = model.action_head.action_decoder((features + state).tanh())[others]  # an error of 0
    loss = model({**inputs, "action": action})["loss"]
    names = [name for name, _ in model.named_parameters()]
    return loss.item(), dict(zip(names, torch.autograd.grad(loss, model.parameters())))


@pytest.mark.parametrize("number", range(4))
def test_the_state_encoder_learns_from_each_sample_by_one_minus_rho_and_lambda_in_the_window(steps, number):
    step, rho = steps[number], torch.from_numpy(RHO[ORDER[3 * number : 3 * number + 3]])
    assert torch.equal(step["rho"], rho) and "rho" not in step["inputs"]
    loss, gradients = plain(step)
    assert step["loss"] == pytest.approx(loss, rel=1e-6)
    singles = [plain(step, (b,))[1] for b in range(3)]
    for name, gradient in gradients.items():
        lam = 1.0
        if "state_encoder" in name and number < 2:
            gradient, lam = sum((1 - rho[b]) * singles[b][name] for b in range(3)), LAM
        torch.testing.assert_close(
            step["after"][name] - step["before"][name], -0.1 * lam * gradient, rtol=1e-4, atol=1e-6
        )


def test_labelled_data_travel_to_another_process_and_need_a_file_of_rho(folder, tmp_path):
    dataset = LabelledDataset(groot_like.ShardedSingleStepDataset(folder, LENGTHS))
    copied = pickle.loads(pickle.dumps(dataset))
    assert copied.embodiment_tag == "new_embodiment" and len(copied) == 2
    assert [sample["rho"] for sample in copied.get_shard(1)] == [*RHO[4::-1]]
    with pytest.raises(ConfigError, match=r"gap_rho\.parquet"):
        LabelledDataset(groot_like.ShardedSingleStepDataset(tmp_path, LENGTHS))
