"""RLDS with rho of a folder of .npz files, one demonstration each. In this folder:

GAP_VLA_SOURCE=/path/to/folder tfds build --data_dir ~/tensorflow_datasets
"""

from typing import ClassVar

from gap_vla.demos.fields import Fields
from gap_vla.rlds.tfds_builder import DemosBuilder


class NpzFolder(DemosBuilder):
    """Name a copy of folder, file and class after your dataset, and adapt the names of the arrays."""

    KIND = "npz"
    FIELDS: ClassVar[Fields] = Fields(layout="gap", state="proprio", action="action")
