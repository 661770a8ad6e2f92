"""ρ of the frames of a LeRobot dataset, by their `index`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int

from gap_vla.core.errors import UserError
from gap_vla.demos import lerobot_sidecar
from gap_vla.demos.lerobot import as_array, read_column


class RhoOfFrames:
    """ρ of every frame, and where the episode of the frame begins and ends.

    Args:
        folder: the dataset.
        file: what `gap-vla annotate` wrote; None: `gap_rho.parquet` in the folder.

    Raises:
        UserError: no such file, or it was written for other frames than the dataset has.
    """

    def __init__(self, folder: Path, file: Path | None = None):
        self.file = file or folder / lerobot_sidecar.NAME
        labels = lerobot_sidecar.read(self.file)
        if labels is None:
            raise UserError(f"{self.file} does not exist; write it with: gap-vla annotate {folder}")
        parts = []  # of each episode: first index, ρ
        for table in sorted((folder / "data").glob("**/*.parquet")):
            state = [name for name in labels.state if name in pq.read_schema(table).names]
            names = ["index", "episode_index", "frame_index", *state]
            index, episodes, *frames = (as_array(read_column(table, name)) for name in names)
            numbers, firsts, counts = np.unique(episodes, return_index=True, return_counts=True)
            for number, first, count in zip(numbers.tolist(), firsts, counts):
                rows = slice(first, first + count)
                frame, *values = (column[rows] for column in frames)
                if number not in labels.rows:
                    parts.append((index[first], np.full(count, np.nan, np.float32)))
                elif lerobot_sidecar.frames_hash(frame, values) == labels.frames[number]:
                    parts.append((index[first], labels.rho[slice(*labels.rows[number])]))
                else:
                    what = f"is of another version of the dataset (episode {number} differs)"
                    raise UserError(f"{self.file} {what}; annotate again: gap-vla annotate {folder} --overwrite")
        size = max(first + len(rho) for first, rho in parts)
        self.rho = torch.full((size,), torch.nan)
        self._first, self._last = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
        for first, rho in parts:
            rows = slice(first, first + len(rho))
            self.rho[rows] = torch.tensor(rho)
            self._first[rows], self._last[rows] = first, first + len(rho) - 1

    def of(self, index: Int[torch.Tensor, "b"], steps: list[int]) -> Float[torch.Tensor, "b h"]:
        """ρ of the frames so many `steps` after those of `index`; 0 outside their episode."""
        index = index.reshape(-1, 1)
        frames = index + torch.tensor(steps)
        inside = (frames >= self._first[index]) & (frames <= self._last[index])
        return torch.where(inside, self.rho[frames.clamp(0, len(self.rho) - 1)], 0.0)
