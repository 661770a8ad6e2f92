"""RLDS with rho of a robomimic or MimicGen HDF5 file, low-dimensional or with images. In this folder:

GAP_VLA_SOURCE=/path/to/image.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from typing import ClassVar

from gap_vla.demos.fields import Fields
from gap_vla.rlds.tfds_builder import DemosBuilder


class Robomimic(DemosBuilder):
    """Name a copy of folder, file and class after your dataset, and adapt the fields."""

    KIND = "robomimic_hdf5"
    FIELDS: ClassVar[Fields] = Fields(
        images={"image_primary": "obs/agentview_image", "image_wrist": "obs/robot0_eye_in_hand_image"}
    )
