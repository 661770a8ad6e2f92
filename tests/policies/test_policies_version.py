"""A change of code that changes what training gives must raise the version that recorded cells are judged by."""

import pytest
import torch
from toy_store import place_store, toy_config

from gap_vla.core.run_directory import RunDirectory
from gap_vla.policies.saving import load_saved_policy
from gap_vla.training.run import finetune
from gap_vla.training.stages import TRAINING_VERSION

GIVEN = {2: {"concat": [0.32090, 17.82071], "gap": [0.32217, 17.80490]}}
"""Version to method to held-out action error and norm of the parameters after twelve steps."""


@pytest.mark.parametrize("method", ["concat", "gap"])
def test_training_gives_what_its_version_gave(method, tmp_path):
    config = toy_config(tmp_path, method)
    place_store(config)
    error = finetune(config, "run")["validation"]["val/action_mse"]
    policy = load_saved_policy(RunDirectory(tmp_path / "runs" / "assembly" / "run").checkpoint)[0]
    size = float(torch.cat([value.detach().flatten() for value in policy.parameters()]).norm())
    version = TRAINING_VERSION["small"]
    assert [error, size] == pytest.approx(GIVEN.get(version, {}).get(method), rel=1e-3), (
        f"not what version {version} gave: raise TRAINING_VERSION['small'] in gap_vla/training/stages.py, and write "
        f"here what {method} gives now, {error:.5f}, {size:.5f}"
    )
