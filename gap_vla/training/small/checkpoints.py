"""Resumable state of a small run: one file, whole or absent, and the exported policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import replacing


class SmallState:
    """`state/training.pt`: parameters, optimizer, step, and which data they belong to."""

    def __init__(self, folder: Path, data: str):
        self.path, self._data = folder / "training.pt", data

    def save(self, step: int, parts: dict[str, Any]) -> None:
        """Replaces the file; a kill in between leaves the older one."""
        with replacing(self.path) as temporary:
            torch.save({"step": step, "data": self._data, "parts": parts}, temporary)

    def restore(self) -> tuple[int, dict[str, Any]] | None:
        """Step and parts of the file, or None if there is none.

        Raises:
            ConfigError: it was saved with other data.
        """
        if not self.path.exists():
            return None
        found = torch.load(self.path, map_location="cpu", weights_only=True)
        if found["data"] != self._data:
            raise ConfigError(f"{self.path} was saved with another dataset; start a new run with --run_name NAME")
        return found["step"], found["parts"]
