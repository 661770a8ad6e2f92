"""RLDS with rho of a folder of .npz files, one demonstration each. In this folder:

GAP_VLA_SOURCE=/path/to/folder tfds build --data_dir ~/tensorflow_datasets
"""

from typing import Any, ClassVar

from gap_vla.rlds.tfds_builder import DemosBuilder


class NpzFolder(DemosBuilder):
    """Name a copy of folder, file and class after your dataset, and adapt the names of the arrays."""

    KIND = "npz"
    READER_OPTIONS: ClassVar[dict[str, Any]] = {"state_key": "proprio", "action_key": "action", "layout": "gap"}
