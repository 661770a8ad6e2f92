"""The same windows for PyTorch: a map-style Dataset, and a WindowLoader's batches as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.store import EpisodeStore
from gap_vla.rlds.windows import Batch, Windows


class WindowDataset(torch.utils.data.Dataset):
    """Windows of one split by number. For a `DataLoader` give `collate_fn=WindowDataset.collate`: it then fetches each
    batch in one piece.

    Args:
        store: an `EpisodeStore`.
        **options: of `gap_vla.rlds.windows.Windows`: split, window_size, action_horizon, image_keys, normalization, …

    Example:
        dataset = WindowDataset(store, split="train", window_size=1, action_horizon=8)
        loader = torch.utils.data.DataLoader(dataset, 64, shuffle=True, collate_fn=WindowDataset.collate)
    """

    def __init__(self, store: EpisodeStore, **options: Any) -> None:
        self.windows = Windows(store, **options)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Batch:
        return _first(self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        # A Dataset is not told the epoch; torch's generator, which a DataLoader seeds per worker and pass, stands in.
        epoch = np.full(len(indices), int(torch.randint(2**62, ()))) if self.windows.augment else None
        return as_tensors(self.windows.gather(np.asarray(indices), epoch))

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """The batch is whole already."""
        return batch


def torch_batches(loader: WindowLoader) -> Iterator[Batch]:
    """A WindowLoader's batches as tensors; order, epochs and resume are the loader's."""
    for batch in loader:
        yield as_tensors(batch)


def as_tensors(batch: Any) -> Any:
    """Arrays to tensors without copying; texts stay a list of bytes."""
    if isinstance(batch, dict):
        return {key: as_tensors(value) for key, value in batch.items()}
    return list(batch) if batch.dtype == object else torch.from_numpy(batch)


def _first(batch: Any) -> Any:
    return {key: _first(value) for key, value in batch.items()} if isinstance(batch, dict) else batch[0]
