"""RLDS with rho of pickled Meta-World recordings (dictionaries of numpy arrays). In this folder:

GAP_VLA_SOURCE=/path/to/pickles tfds build --data_dir ~/tensorflow_datasets
"""

from typing import ClassVar

from gap_vla.demos.fields import Fields
from gap_vla.rlds.tfds_builder import DemosBuilder


class MetaworldPickles(DemosBuilder):
    """Name a copy of folder, file and class after your task; the names are those of the keys in your pickles."""

    KIND = "pickle"
    FIELDS: ClassVar[Fields] = Fields(layout="gap", state="state", action="action", images={"image_primary": "image"})
