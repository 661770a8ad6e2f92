"""Statistics have upstream's keys, leave grippers and still columns alone, and belong to the array they scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gap_vla.core.columns import DELTA, Columns
from gap_vla.core.errors import UserError
from gap_vla.rlds.statistics import (
    dataset_statistics,
    load_statistics,
    normalize,
    save_statistics,
    unnormalize,
)


def of_data(width: int = 7, columns: Columns | None = DELTA) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    actions = [rng.standard_normal((steps, width)).astype(np.float32) for steps in (30, 70)]
    return dataset_statistics(actions, [rng.standard_normal((len(a), 9)).astype(np.float32) for a in actions], columns)


@pytest.mark.parametrize(
    ("width", "columns", "left_alone"),
    [
        (7, DELTA, [6]),
        (14, DELTA.times(2), [6, 13]),
        (7, None, []),  # seven joints, say
        (7, Columns.parse("joints:7"), []),
        (8, Columns.parse("gripper_01 joints:6 gripper"), [0, 7]),
    ],
)
def test_columns_described_as_grippers_are_not_normalised(
    width: int, columns: Columns | None, left_alone: list[int]
) -> None:
    assert np.flatnonzero(~of_data(width, columns)["action"]["mask"]).tolist() == left_alone


def test_counts_and_moments_are_over_all_steps() -> None:
    statistics = of_data()
    rng = np.random.default_rng(0)
    every = np.concatenate([rng.standard_normal((steps, 7)).astype(np.float32) for steps in (30, 70)]).astype(float)
    assert (statistics["num_transitions"], statistics["num_trajectories"]) == (100, 2)
    np.testing.assert_allclose(statistics["action"]["mean"], every.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics["action"]["std"], every.std(0), rtol=1e-6)
    np.testing.assert_array_equal(statistics["action"]["p99"], statistics["action"]["q99"])


@pytest.mark.parametrize("kind", ["normal", "bounds", "bounds_q99", "min_max", "none"])
def test_unnormalize_takes_normalize_back(kind: str) -> None:
    statistics = of_data()["action"]
    x = np.random.default_rng(1).uniform(statistics["p01"], statistics["p99"], (5, 3, 7)).astype(np.float32)
    scaled = normalize(x, statistics, kind)
    np.testing.assert_array_equal(scaled[..., 6], x[..., 6])
    np.testing.assert_allclose(unnormalize(scaled, statistics, kind), x, atol=1e-5)


def test_statistics_come_back_from_their_file(tmp_path: Path) -> None:
    statistics = of_data()
    save_statistics(statistics, tmp_path / "dataset_statistics.json")
    found = load_statistics(tmp_path / "dataset_statistics.json")
    for key, value in statistics["action"].items():
        np.testing.assert_array_equal(found["action"][key], value, strict=True)


def test_statistics_of_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="7"):
        normalize(np.zeros((4, 9)), of_data()["action"])
