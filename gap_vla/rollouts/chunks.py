"""From predicted chunks of actions to the one to execute now: receding horizon, or temporal ensembling."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
from jaxtyping import Float


class ChunkExecutor(Protocol):
    """One episode's memory of what has been predicted."""

    @property
    def wants_chunk(self) -> bool:
        """Whether a prediction for the present step is needed before `next`."""

    def add(self, chunk: Float[np.ndarray, "H A"]) -> None:
        """The prediction made at the present step, for it and the H - 1 steps after it."""

    def next(self) -> Float[np.ndarray, " A"]:
        """The action to execute now; moves on by one step."""


class RecedingHorizon:
    """Executes the first `execute` actions of a chunk, then asks for the next chunk."""

    def __init__(self, execute: int) -> None:
        self._execute = execute
        self._left: deque[np.ndarray] = deque()

    @property
    def wants_chunk(self) -> bool:
        return not self._left

    def add(self, chunk: Float[np.ndarray, "H A"]) -> None:
        self._left = deque(chunk[: self._execute])

    def next(self) -> Float[np.ndarray, " A"]:
        return self._left.popleft()


class TemporalEnsemble:
    """Predicts at every step and averages what the last chunks say about the present one.

    Weights are exp(-decay * i), with i = 0 for the oldest prediction (T. Zhao et al., 2023); 0 is the plain mean.
    """

    wants_chunk = True

    def __init__(self, horizon: int, decay: float = 0.0) -> None:
        self._chunks: deque[np.ndarray] = deque(maxlen=horizon)
        self._decay = decay

    def add(self, chunk: Float[np.ndarray, "H A"]) -> None:
        self._chunks.append(chunk)

    def next(self) -> Float[np.ndarray, " A"]:
        newest = len(self._chunks) - 1
        opinions = np.stack([chunk[newest - age] for age, chunk in enumerate(self._chunks)])
        weights = np.exp(-self._decay * np.arange(len(opinions)))
        return (opinions * (weights / weights.sum())[:, None]).sum(0)
