"""RLDS of the assembly task with rho. In this folder: GAP_VLA_SOURCE=/path/to/file tfds build"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class Assembly(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task assembly --episodes 100 --out assembly.hdf5"
