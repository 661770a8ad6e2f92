"""RLDS with ρ: writing and reading datasets, and loading windows of them for training.

Importing this loads neither TensorFlow, JAX nor torch.
"""

import contextlib

with contextlib.suppress(ImportError):
    import triton  # noqa: F401  a process that loads it after TensorFlow, as torch's optimizers do, crashes (tensorflow#124205)

from gap_vla.rlds.annotate import annotate_source
from gap_vla.rlds.convert import build_dataset, write_rlds
from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.source import RLDS
from gap_vla.rlds.store import EpisodeStore

__all__ = ["RLDS", "EpisodeStore", "WindowLoader", "annotate_source", "build_dataset", "write_rlds"]
