"""RLDS of the pick_place task with rho. In this folder:

python ../../scripts/collect_demos.py --task pick_place --episodes 100 --out pick_place.hdf5
GAP_VLA_SOURCE=pick_place.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class PickPlace(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task pick_place --episodes 100 --out pick_place.hdf5"
