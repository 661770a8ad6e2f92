"""RLDS with ρ: writing and reading datasets, and loading windows of them for training.

Importing this loads neither TensorFlow, JAX nor torch.
"""

import importlib
from typing import Any

_HOME = {
    "DatasetError": "disk",
    "EpisodeStore": "store",
    "Labels": "shards",
    "StreamingLoader": "streaming",
    "WindowDataset": "torch_windows",
    "WindowLoader": "loader",
    "build_dataset": "convert",
    "dataset_builder": "tfds_builder",
    "dataset_metadata": "reader",
    "dataset_statistics": "statistics",
    "normalize": "statistics",
    "read_rlds": "reader",
    "torch_batches": "torch_windows",
    "unnormalize": "statistics",
    "window_indices": "windows",
    "write_rlds": "builder",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
