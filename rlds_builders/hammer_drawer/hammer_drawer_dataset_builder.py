"""RLDS of the hammer_drawer task with rho. In this folder: GAP_VLA_SOURCE=/path/to/file tfds build"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class HammerDrawer(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task hammer_drawer --episodes 100 --out hammer_drawer.hdf5"
