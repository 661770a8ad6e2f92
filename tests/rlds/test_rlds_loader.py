"""What a loader may be asked for: tensors, augmentation, several datasets at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from synthetic_demos import same

from gap_vla.rlds import EpisodeStore, WindowDataset, WindowLoader, torch_batches
from gap_vla.rlds.loader import gathered
from gap_vla.rlds.windows import Windows

OPTIONS: dict[str, Any] = {"split": "train", "window_size": 2, "action_horizon": 3, "batch_size": 16, "seed": 0}


def test_torch_gets_the_same_windows(store: EpisodeStore) -> None:
    options = {k: OPTIONS[k] for k in ("split", "window_size", "action_horizon")}
    dataset = WindowDataset(store, **options)
    loader = torch.utils.data.DataLoader(dataset, 16, collate_fn=WindowDataset.collate)
    batch, expected = next(iter(loader)), next(WindowLoader(store, **OPTIONS, train=False))
    assert isinstance(batch["action"], torch.Tensor) and batch["action"].dtype == torch.float32
    np.testing.assert_array_equal(batch["observation"]["image_primary"], expected["observation"]["image_primary"])
    np.testing.assert_array_equal(batch["rho"], expected["rho"])
    assert batch["task"]["language_instruction"] == list(expected["task"]["language_instruction"])
    np.testing.assert_array_equal(dataset[5]["action"], expected["action"][5])
    first = next(torch_batches(WindowLoader(store, **OPTIONS)))
    np.testing.assert_array_equal(first["rho"], next(WindowLoader(store, **OPTIONS))["rho"])


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
    crop = {"image_primary": {"crop_scale": (0.5, 0.9)}}
    cropped = next(WindowLoader(store, **OPTIONS, augment=crop))["observation"]["image_primary"]
    assert cropped.shape == before.shape and (cropped != before).any()
    with pytest.raises(ValueError, match="augment names image_third"):
        WindowLoader(store, **OPTIONS, augment={"image_third": {}})


def test_several_datasets_are_mixed_by_weight(store: EpisodeStore) -> None:
    loader = WindowLoader([(store, 0.75), (store, 0.25)], **{**OPTIONS, "batch_size": 200})
    batch = next(loader)
    assert batch["action"].shape == (200, 2, 3, 7) and len(batch["task"]["language_instruction"]) == 200
    addresses = np.array([[1, 0, 3], [0, 0, 5], [1, 0, 0]])
    windows = Windows(store, **{key: OPTIONS[key] for key in ("split", "window_size", "action_horizon")})
    mixed, single = gathered([windows, windows], addresses), windows.gather(np.array([3, 5, 0]))
    same(mixed, single)
    ordered = WindowLoader([(store, 1.0), (store, 1.0)], **{**OPTIONS, "train": False})
    assert sum(len(b["rho"]) for b in ordered) == 2 * store.split("train").steps
