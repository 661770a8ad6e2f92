"""Which settings of a run are part of what is trained, which of what is measured, and which may change at any time.

| settings | part of | changed with `--resume` |
|---|---|---|
| `NO_PART_OF_THE_RESULT`: folders, workers, videos, rhythm, device, logger | nothing | the run goes on |
| the other `eval.*` | what is measured | training goes on; rollouts that are there are set aside and made again |
| everything else | what is trained | refused: that is another run, in another directory |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gap_vla.core.identity import digest, flat

NO_PART_OF_THE_RESULT = {
    "runs",
    "data.root",
    "eval.workers",
    "eval.videos",
    "train.log_every",
    "train.validate_every",
    "train.save_every",
    "train.threads",
    "train.device",
    "train.logger",
}
"""Folders, workers, rhythm, device, logger. (With other threads or on another device, sums are rounded otherwise.)"""


def settings_hash(config: Mapping[str, Any]) -> str:
    """Hash of everything that can change what is trained; saved states carry it."""
    return digest(of_training(config))


def of_result(config: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, everything that can change what is trained or measured."""
    return {key: value for key, value in flat(config) if key not in NO_PART_OF_THE_RESULT}


def of_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, everything that can change what is trained."""
    return {key: value for key, value in of_result(config).items() if not key.startswith("eval.")}
