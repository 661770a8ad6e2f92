"""RLDS with rho of a LeRobot dataset (format v2 or v3). In this folder:

GAP_VLA_SOURCE=/path/to/dataset tfds build --data_dir ~/tensorflow_datasets
"""

from typing import Any, ClassVar

from gap_vla.demos.fields import Fields
from gap_vla.rlds.tfds_builder import DemosBuilder


class Lerobot(DemosBuilder):
    """Name a copy of folder, file and class after your dataset; `columns` says what its state is."""

    KIND = "lerobot"
    FIELDS: ClassVar[Fields] = Fields(columns="joints:6 gripper_01")
    OPTIONS: ClassVar[dict[str, Any]] = {
        "method": "none"
    }  # ρ is found from a pose; with one among the columns, take "lstm"
