"""The published sizes without their weights: configs, example batches and shapes of parameters."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np

from gap_vla.octo.module import OctoModule
from gap_vla.octo.parameters import parameter_shapes
from tests.helpers import octo_golden as golden

FILES = {"octo-small-1.5": "octo_small_1.5_tree.json", "octo-base-1.5": "octo_base_1.5_tree.json"}


def tree(name: str) -> dict[str, Any]:
    return json.loads((golden.DATA / FILES[name]).read_text())


def config(name: str) -> dict[str, Any]:
    return tree(name)["config"]


def batch(window: int = 2, proprio: int = 0, wrist: bool = True) -> dict[str, Any]:
    cameras = {"image_primary": 256, **({"image_wrist": 128} if wrist else {})}
    observation: dict[str, Any] = {key: np.zeros((1, window, size, size, 3), np.uint8) for key, size in cameras.items()}
    if proprio:
        observation["proprio"] = np.zeros((1, window, proprio), np.float32)
    observation["timestep_pad_mask"] = np.ones((1, window), bool)
    words = {"input_ids": np.zeros((1, 16), np.int64), "attention_mask": np.ones((1, 16), np.int64)}
    task: dict[str, Any] = {key: np.zeros((1, size, size, 3), np.uint8) for key, size in cameras.items()}
    return {"observation": observation, "task": {**task, "language_instruction": words}}


@functools.cache
def pretrained(name: str) -> Any:
    """Shapes of a published model's parameters."""
    return shapes(config(name)["model"], batch())


def shapes(model: dict[str, Any], example: dict[str, Any]) -> Any:
    return parameter_shapes(OctoModule.create(**model), example)
