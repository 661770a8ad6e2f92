"""What a policy with a memory keeps of each episode: upstream Octo's history wrapper, for many episodes at once."""

from __future__ import annotations

from collections import deque

import numpy as np

from gap_vla.rollouts.chunks import ChunkExecutor


class EpisodeHistory:
    """What one episode remembers: the last W observations, and its chunks. The first observation fills the window,
    marked as padding, as in training.
    """

    def __init__(self, number: int, window: int, chunks: ChunkExecutor) -> None:
        self.number, self.steps, self.instruction = number, 0, ""
        self.chunks = chunks
        self._window = window
        self._history: deque[dict[str, np.ndarray]] = deque(maxlen=window)

    def see(self, observation: dict[str, np.ndarray], instruction: str = "") -> None:
        self.instruction = instruction
        if not self._history:
            self._history.extend([observation] * self._window)
        else:
            self._history.append(observation)
        self.steps += 1

    def inputs(self) -> dict[str, np.ndarray]:
        seen = np.arange(self._window) >= self._window - self.steps
        timestep = np.maximum(np.arange(self._window) + self.steps - self._window, 0).astype(np.int32)
        stacked = {key: np.stack([moment[key] for moment in self._history]) for key in self._history[0]}
        return {**stacked, "timestep": timestep, "timestep_pad_mask": seen}
