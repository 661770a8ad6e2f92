"""Windows of several stores in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds.windows import Batch, Windows


class Mixture:
    """Gathers batches whose rows come from different stores.

    Args:
        parts: windows with equal picture sizes, widths and fields.

    Raises:
        ConfigError: they differ; says in what.
    """

    def __init__(self, parts: Sequence[Windows]) -> None:
        self._parts = list(parts)
        shapes = [{k: v.shape[1:] for k, v in part.data.fields.items()} for part in parts]
        needed = [*parts[0].image_keys, "proprio", "action"]
        for part, shape in zip(self._parts, shapes):
            for key in needed:
                if shape.get(key) != shapes[0].get(key):
                    raise ConfigError(
                        f"{part.store.directory}: {key} is {shape.get(key)}, in {self._parts[0].store.directory} it is "
                        f"{shapes[0].get(key)}; build the stores with `resize`, or pad the smaller one"
                    )
            if ("change_point" in shape) != ("change_point" in shapes[0]):
                raise ConfigError(f"{part.store.directory}: not all of the datasets have rho; annotate them all")

    def gather(self, addresses: np.ndarray) -> Batch:
        """The batch of these addresses (int[B, 3]: store, epoch, window) in their order."""
        batches, rows = [], []
        for number, part in enumerate(self._parts):
            mine = np.flatnonzero(addresses[:, 0] == number)
            if len(mine):
                batches.append(part.gather(addresses[mine, 2], addresses[mine, 1]))
                rows.append(mine)
        order = np.argsort(np.concatenate(rows), kind="stable")
        return _concatenate(batches, order)


def address(store: int, windows_per_epoch: int, position: int, window: int) -> tuple[int, int, int]:
    """Which store, which pass over it, which window."""
    return store, position // windows_per_epoch, window


def _concatenate(batches: list[Any], order: np.ndarray) -> Any:
    if isinstance(batches[0], dict):
        return {key: _concatenate([b[key] for b in batches], order) for key in batches[0]}
    return np.concatenate(batches)[order]
