"""A change of code that changes what training Octo gives must raise the version that recorded cells are judged by."""

import numpy as np
import pytest

from gap_vla.core.measurements import read_metrics
from gap_vla.training.stages import TRAINING_VERSION

GIVEN = {2: {"vp": [0.93152, 28.30801], "vp_gap": [0.96681, 28.30800]}}
"""Version to method to held-out action error and norm of the parameters after twelve steps."""


@pytest.mark.parametrize("method, name", [pytest.param("vp", "vp", marks=pytest.mark.slow), ("vp_gap", "whole")])
def test_training_gives_what_its_version_gave(training, method, name):
    rows = read_metrics(training.run(name, method=method) / "metrics.jsonl")
    error = [row["val/action_mse"] for row in rows if "val/action_mse" in row][-1]
    size = float(np.sqrt(sum((value.astype(float) ** 2).sum() for value in training.parameters(name).values())))
    version = TRAINING_VERSION["octo"]
    assert [error, size] == pytest.approx(GIVEN.get(version, {}).get(method), rel=1e-3), (
        f"not what version {version} gave: raise TRAINING_VERSION['octo'] in gap_vla/training/stages.py, and write "
        f"here what {method} gives now, {error:.5f}, {size:.5f}"
    )
