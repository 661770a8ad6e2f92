"""What a run says at its start of the ρ that it trains with."""

import numpy as np
import pytest

from gap_vla.adjustment.account import account, crossing_shares
from gap_vla.adjustment.schedule import AdjustmentSchedule
from gap_vla.core.errors import ConfigError

LENGTH, EVERY, HORIZON = 40, 10, 5
OFFSETS = np.array([0, LENGTH, 2 * LENGTH])
POINTS = np.tile(np.arange(LENGTH) % EVERY == 0, 2) & (np.arange(2 * LENGTH) % LENGTH > 0)
NARROW = POINTS.astype(np.float32)


def shares(kind, rho=NARROW):
    return crossing_shares(AdjustmentSchedule(rho=kind), rho, POINTS, OFFSETS, HORIZON)


def lines(horizon=HORIZON, **fields):
    return account(AdjustmentSchedule(**fields), NARROW, POINTS, OFFSETS, horizon)


def test_the_shares_are_those_counted_step_by_step():
    weights, crossing, whole = [], [], []
    for t in range(2 * LENGTH):
        chunk = [step for step in range(t, t + HORIZON) if step // LENGTH == t // LENGTH]
        weights.append([1 - NARROW[t], np.mean(1 - NARROW[chunk]), 1 - NARROW[chunk].max()])
        crossing.append(POINTS[chunk[1:]].any())
        whole.append(len(chunk) == HORIZON)
    weights, crossing = np.array(weights), np.array(crossing)
    for kind, weight in zip(("current", "chunk", "chunk_max"), weights.T):
        expected = weight[crossing].sum() / weight.sum(), crossing.mean(), weight[whole].mean()
        assert shares(kind) == pytest.approx(expected)


def test_a_narrow_rho_leaves_plain_trainings_share_and_the_largest_of_the_chunk_leaves_none():
    assert shares("current")[0] > 0.9 * shares("current")[1] > 0 == shares("chunk_max")[0]
    assert len(lines()) == 2 and "next to nothing" in lines()[1]
    assert len(lines(rho="chunk_max")) == 1


def test_a_chunk_longer_than_every_segment_leaves_the_branch_nothing_and_is_refused():
    with pytest.raises(ConfigError, match="rho=chunk_max and 11 actions"):
        lines(EVERY + 1, rho="chunk_max")
    assert lines(EVERY, rho="chunk_max") and lines(EVERY + 1, rho="chunk")


def test_where_no_sample_has_a_factor_of_its_own_there_is_nothing_to_say():
    assert lines(mode="fixed") == lines(window=0.0) == []
