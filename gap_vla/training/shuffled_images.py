"""A control: batches whose pictures come from other episodes, so that whoever learns from them learns not to look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.windows import Batch


class ShuffledImages:
    """A loader's batches with the pictures of an episode drawn at random for each window, at the same steps.

    Proprioception, actions and ρ stay; pictures still tell how far an episode has got, but nothing of this one's
    layout. An episode that is shorter shows its last picture. Once in as many windows as there are episodes, a window
    keeps its own. Same seed, same batches, also after resuming.

    Args:
        loader: of windows of `split` of `store`.
        seed: of the drawing.
        augment: `image_<camera>` to the random changes of the pictures that are shown instead.
    """

    def __init__(
        self,
        loader: WindowLoader,
        store: EpisodeStore,
        split: str,
        seed: int,
        augment: Mapping[str, Augmentation] | None = None,
    ) -> None:
        self._augment = augment or {}
        self._loader, self._data, self._seed = loader, store.split(split), seed
        self._delivered = 0

    def __iter__(self) -> Iterator[Batch]:
        iter(self._loader)
        return self

    def __next__(self) -> Batch:
        batch = self._shuffled(next(self._loader))
        self._delivered += 1
        return batch

    def peek(self) -> Batch:
        """The next batch, without moving on."""
        return self._shuffled(self._loader.peek())

    def state(self) -> dict[str, Any]:
        """The position after the last delivered batch, JSON-able."""
        return {**self._loader.state(), "shuffled_images": self._delivered}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly behind `state`.

        Raises:
            ConfigError: the state is of other data, or of a run whose pictures were not shuffled.
        """
        if "shuffled_images" not in state:
            raise ConfigError("the run was trained without data.shuffle_images; resume with the same settings")
        self._loader.restore({key: value for key, value in state.items() if key != "shuffled_images"})
        self._delivered = state["shuffled_images"]

    def _shuffled(self, batch: Batch) -> Batch:
        timestep = batch["observation"]["timestep"]
        offsets = self._data.offsets
        rng = np.random.default_rng([self._seed, self._delivered])
        drawn = rng.integers(len(offsets) - 1, size=len(timestep))
        step = np.minimum(offsets[drawn][:, None] + timestep, offsets[drawn + 1][:, None] - 1)
        cameras = [key for key in batch["observation"] if key.startswith("image_")]
        pictures = {key: np.take(self._data.fields[key], step, axis=0) for key in cameras}
        if self._augment:
            draws = rng.random((len(timestep), DRAWS))
            for key, augmentation in self._augment.items():
                pictures[key] = augmentation(pictures[key], batch["observation"]["timestep_pad_mask"], draws)
        return {**batch, "observation": {**batch["observation"], **pictures}}
