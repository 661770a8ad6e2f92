"""What checks read and what they say."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

Level = Literal["error", "warning", "note"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement about the data.

    Attributes:
        level: `error` (training on it would be wrong), `warning` (look at it), `note`.
        check: name of the check.
        message: what was found and what to do.
        episode: `split[index]`, or "" for the whole dataset.
        step: first step concerned, or None.
    """

    level: Level
    check: str
    message: str
    episode: str = ""
    step: int | None = None

    def __str__(self) -> str:
        where = self.episode + (f" step {self.step}" if self.step is not None else "")
        return f"{self.level}: {self.check}: {where + ': ' if where else ''}{self.message}"


@dataclasses.dataclass(frozen=True)
class Recording:
    """One episode of any RLDS dataset.

    Attributes:
        name: `split[index]`.
        images: camera to uint8[T, h, w, 3].
        fields: every other numeric step field by path (`observation/proprio`, `action`, …), leading dimension T.
        language: instruction per step.
        proprio: float32[T, 9 * arms] if the layout of the state is known, else None.
        action: float32[T, A].
        action_limit: the largest action that there may be; None: in the robot's own units.
    """

    name: str
    images: dict[str, np.ndarray]
    fields: dict[str, np.ndarray]
    language: list[str]
    proprio: np.ndarray | None
    action: np.ndarray
    action_limit: float | None = 1.0

    def __len__(self) -> int:
        return len(self.action)

    @property
    def arms(self) -> int:
        return 0 if self.proprio is None else self.proprio.shape[1] // 9
