"""RLDS of the hammer_drawer task with rho. In this folder:

python ../../scripts/collect_demos.py --task hammer_drawer --episodes 100 --out hammer_drawer.hdf5
GAP_VLA_SOURCE=hammer_drawer.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class HammerDrawer(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task hammer_drawer --episodes 100 --out hammer_drawer.hdf5"
