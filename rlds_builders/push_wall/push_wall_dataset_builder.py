"""RLDS of the push_wall task with rho. In this folder:

python ../../scripts/collect_demos.py --task push_wall --episodes 100 --out push_wall.hdf5
GAP_VLA_SOURCE=push_wall.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class PushWall(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task push_wall --episodes 100 --out push_wall.hdf5"
