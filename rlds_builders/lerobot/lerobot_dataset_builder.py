"""RLDS with rho of a LeRobot dataset (format v2 or v3). In this folder:

GAP_VLA_SOURCE=/path/to/dataset tfds build --data_dir ~/tensorflow_datasets
"""

from typing import Any, ClassVar

from gap_vla.rlds.tfds_builder import DemosBuilder


class Lerobot(DemosBuilder):
    """Name a copy of folder, file and class after your dataset; `layout` names the columns of `observation.state`."""

    KIND = "lerobot"
    READER_OPTIONS: ClassVar[dict[str, Any]] = {"layout": "gap"}
