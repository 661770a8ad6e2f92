"""What a loader may be asked for: tensors, augmentation, several datasets at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gap_vla.core.errors import ConfigError
from gap_vla.rlds.loader import WindowLoader, gathered
from gap_vla.rlds.store import EpisodeStore
from gap_vla.rlds.windows import Windows

OPTIONS: dict[str, Any] = {"split": "train", "window_size": 2, "action_horizon": 3, "batch_size": 16, "seed": 0}


def test_torch_makes_tensors_of_a_batch_by_itself(store: EpisodeStore) -> None:
    batch = next(WindowLoader(store, **OPTIONS))
    tensors = torch.utils.data.default_convert(batch)
    assert isinstance(tensors["action"], torch.Tensor) and tensors["action"].dtype == torch.float32
    np.testing.assert_array_equal(tensors["observation"]["image_primary"], batch["observation"]["image_primary"])
    assert list(tensors["task"]["language_instruction"]) == list(batch["task"]["language_instruction"])


def test_augmentation_changes_real_frames_only_and_alike_within_a_window(store: EpisodeStore) -> None:
    augment = {"image_primary": {"brightness": 0.2}}
    plain, changed = next(WindowLoader(store, **OPTIONS)), next(WindowLoader(store, **OPTIONS, augment=augment))
    before, after = (b["observation"]["image_primary"].astype(float) for b in (plain, changed))
    real = plain["observation"]["timestep_pad_mask"]
    assert (before != after)[real].any()
    np.testing.assert_array_equal(before[~real], after[~real])
    middle = (before > 60) & (before < 195)
    shift = np.where(middle, after - before, np.nan)
    both = real.all(1)
    np.testing.assert_allclose(
        np.nanmean(shift[both, 0], axis=(1, 2, 3)), np.nanmean(shift[both, 1], axis=(1, 2, 3)), atol=1
    )
    with pytest.raises(ConfigError, match="image_third"):
        WindowLoader(store, **OPTIONS, augment={"image_third": {}})


def test_several_datasets_are_mixed_by_weight(store: EpisodeStore) -> None:
    loader = WindowLoader([(store, 0.75), (store, 0.25)], **{**OPTIONS, "batch_size": 200})
    batch = next(loader)
    assert batch["action"].shape == (200, 2, 3, 7) and len(batch["task"]["language_instruction"]) == 200
    addresses = np.array([[1, 0, 3], [0, 0, 5], [1, 0, 0]])
    windows = Windows(store, **{key: OPTIONS[key] for key in ("split", "window_size", "action_horizon")})
    mixed, single = gathered([windows, windows], addresses), windows.gather(np.array([3, 5, 0]))
    for key in ("action", "rho"):
        np.testing.assert_array_equal(mixed[key], single[key])
    np.testing.assert_array_equal(mixed["observation"]["proprio"], single["observation"]["proprio"])
    ordered = WindowLoader([(store, 1.0), (store, 1.0)], **{**OPTIONS, "train": False})
    assert sum(len(b["rho"]) for b in ordered) == 2 * store.split("train").steps
    with pytest.raises(ConfigError, match="weights"):
        WindowLoader([(store, 1.0), (store, 0.0)], **OPTIONS)


def test_datasets_of_a_mixture_are_alike_in_what_is_shown(store: EpisodeStore, tmp_path: Path) -> None:
    other, split = copy.copy(store), copy.copy(store.split("train"))
    split.fields = {**split.fields, "proprio": split.fields["proprio"][:, :3]}
    other.directory, other.splits = tmp_path, {"train": split}
    other.statistics = {**store.statistics, "proprio": {k: v[:3] for k, v in store.statistics["proprio"].items()}}
    mixture = [(store, 1.0), (other, 1.0)]
    assert "proprio" not in next(WindowLoader(mixture, **OPTIONS, proprio=False))["observation"]
    with pytest.raises(ConfigError, match=f"{tmp_path}: proprio"):
        WindowLoader(mixture, **OPTIONS)


def test_a_change_is_told_the_number_of_the_batch(store: EpisodeStore) -> None:
    loader = WindowLoader(store, **OPTIONS, change=lambda number, batch: {**batch, "number": number})
    assert [next(loader)["number"] for _ in range(3)] == [0, 1, 2]
