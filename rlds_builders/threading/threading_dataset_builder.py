"""RLDS of the threading task with rho. In this folder: GAP_VLA_SOURCE=/path/to/file tfds build"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class Threading(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task threading --episodes 100 --out threading.hdf5"
