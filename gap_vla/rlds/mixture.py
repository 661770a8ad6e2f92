"""Windows of several stores in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gap_vla.rlds.windows import Batch, Windows


class Mixture:
    """Gathers batches whose rows come from different stores.

    Args:
        parts: windows with equal picture sizes, widths and fields.

    Raises:
        ValueError: they differ; says in what.
    """

    def __init__(self, parts: Sequence[Windows]) -> None:
        self._parts = list(parts)
        shapes = [{k: v.shape[1:] for k, v in part.data.fields.items()} for part in parts]
        needed = [*parts[0].image_keys, "proprio", "action"]
        for part, shape in zip(self._parts, shapes):
            for key in needed:
                if shape.get(key) != shapes[0].get(key):
                    raise ValueError(
                        f"{part.store.directory}: {key} is {shape.get(key)}, in {self._parts[0].store.directory} it is "
                        f"{shapes[0].get(key)}; build the stores with `resize`, or pad the smaller one"
                    )
            if ("change_point" in shape) != ("change_point" in shapes[0]):
                raise ValueError(f"{part.store.directory}: not all of the datasets have rho; annotate them all")

    @property
    def random(self) -> bool:
        return self._parts[0].random

    @staticmethod
    def tag(number: int, window: int) -> tuple[int, int]:
        """A window's address: which store, which window."""
        return number, window

    def gather(self, addresses: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        """The batch of these addresses (int[B, 2]) in their order."""
        batches, rows = [], []
        for number, part in enumerate(self._parts):
            mine = np.flatnonzero(addresses[:, 0] == number)
            if len(mine):
                batches.append(part.gather(addresses[mine, 1], rng))
                rows.append(mine)
        order = np.argsort(np.concatenate(rows), kind="stable")
        return _concatenate(batches, order)


def _concatenate(batches: list[Any], order: np.ndarray) -> Any:
    if isinstance(batches[0], dict):
        return {key: _concatenate([b[key] for b in batches], order) for key in batches[0]}
    return np.concatenate(batches)[order]
