"""Windows, chunk execution and image preparation in a rollout are upstream's."""

from __future__ import annotations

from typing import Any

import numpy as np
import octo_golden as golden
import pytest

from gap_vla.octo import wrappers
from gap_vla.octo.bins import BinTokenizer
from gap_vla.octo.images import prepare_image

DATA = golden.arrays(golden.DATA / "data_transforms.npz")


class Counter:
    """An environment that returns its step number, and ends after `length` steps."""

    def __init__(self, length: int = 100) -> None:
        self.length = length
        self.executed: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.executed = []
        return {"proprio": np.zeros(2, np.float32)}, {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.executed.append(np.asarray(action))
        steps = len(self.executed)
        return {"proprio": np.full(2, steps, np.float32)}, 1.0, steps == self.length, False, {"steps": steps}


def test_history_repeats_the_first_observation_as_padding() -> None:
    expected = DATA["wrap/history3/proprio"]
    frames = expected[:, -1]
    history = wrappers.History(3)
    windows = [history.reset({"proprio": frames[0]})] + [history.step({"proprio": f}) for f in frames[1:]]
    np.testing.assert_array_equal([window["proprio"] for window in windows], expected)
    np.testing.assert_array_equal(
        [window["timestep_pad_mask"] for window in windows], DATA["wrap/history3/timestep_pad_mask"]
    )


def test_history_starts_over_at_reset() -> None:
    env = wrappers.HistoryWrapper(Counter(), 2)
    env.reset()
    env.step(np.zeros(1))
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation["timestep_pad_mask"], [0, 1])
    assert not observation["proprio"].any()


@pytest.mark.parametrize("weight", [0, 0.5])
def test_ensemble_averages_chunks(weight: float) -> None:
    ensemble = wrappers.TemporalEnsemble(4, weight)
    executed = [ensemble(chunk) for chunk in DATA["wrap/ensemble/chunks"]]
    np.testing.assert_allclose(executed, DATA[f"wrap/ensemble/executed_exp{weight}"], atol=1e-6)


def test_receding_horizon_sums_rewards_and_stops_at_the_end() -> None:
    inner = Counter(length=5)
    env = wrappers.RHCWrapper(inner, 3)
    env.reset()
    chunk = np.arange(8.0).reshape(4, 2)
    _, reward, done, _, info = env.step(chunk)
    assert (reward, done, info["steps"], len(info["observations"])) == (3.0, False, [1, 2, 3], 3)
    _, reward, done, _, _ = env.step(chunk)
    assert (reward, done) == (2.0, True)
    np.testing.assert_array_equal(inner.executed, [*chunk[:3], *chunk[:2]])


@pytest.mark.parametrize("size", [16, 48, 64])
def test_resizing_is_tensorflows(size: int) -> None:
    found = prepare_image(DATA["resize/in"], (size, size)).astype(int)
    difference = np.abs(found - DATA[f"resize/lanczos3_{size}x{size}"])
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_rollout_images_are_cropped_like_the_average_augmentation() -> None:
    resized = prepare_image(DATA["resize/in"], (32, 32))
    np.testing.assert_array_equal(resized, DATA["wrap/resize_primary_32_no_crop"])
    found = prepare_image(DATA["resize/in"], (32, 32), central_area=0.9).astype(int)
    difference = np.abs(found - DATA["wrap/resize_primary_32_with_avg_crop"])
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-2


def test_proprio_is_normalised_with_the_models_statistics() -> None:
    statistics = {key: DATA[f"normalize/stats/proprio/{key}"] for key in ("mean", "std")}
    inner = Counter()
    env = wrappers.NormalizeProprio(inner, {"proprio": statistics})
    observation, _ = env.reset()
    np.testing.assert_allclose(observation["proprio"], -statistics["mean"] / (statistics["std"] + 1e-8), rtol=1e-6)
    with pytest.raises(ValueError, match="no entry 'proprio'"):
        wrappers.NormalizeProprio(inner, {}).reset()


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("n_bins", [4, 256])
def test_bins_are_upstreams(kind: str, n_bins: int) -> None:
    prefix = f"bins/{kind}_{n_bins}"
    tokenizer = BinTokenizer(n_bins=n_bins, bin_type=kind, low=-2.0, high=2.0)
    np.testing.assert_allclose(tokenizer.thresholds(), DATA[f"{prefix}/thresholds"], rtol=1e-5, atol=1e-7)
    bins = tokenizer(DATA["bins/in"])
    np.testing.assert_array_equal(bins, DATA[f"{prefix}/tokens"])
    np.testing.assert_allclose(tokenizer.decode(bins), DATA[f"{prefix}/decoded"], rtol=1e-5, atol=1e-6)


def test_all_wrappers_together_give_windows_and_take_chunks() -> None:
    config = {"window_size": 2, "model": {"heads": {"action": {"kwargs": {"action_horizon": 4}}}}}
    statistics = {"proprio": {"mean": np.ones(2), "std": np.full(2, 2.0)}}
    inner = Counter()
    env = wrappers.add_octo_env_wrappers(inner, config, statistics)
    observation, _ = env.reset()
    np.testing.assert_allclose(observation["proprio"], np.full((2, 2), -0.5))
    chunks = [np.arange(4.0)[:, None], np.arange(4.0)[:, None]]
    for chunk in chunks:
        observation, *_ = env.step(chunk)
    np.testing.assert_allclose(observation["proprio"][:, 0], [0.0, 0.5])
    np.testing.assert_allclose(np.concatenate(inner.executed), [0.0, 0.5])
