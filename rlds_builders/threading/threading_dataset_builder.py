"""RLDS of the threading task with rho. In this folder:

python ../../scripts/collect_demos.py --task threading --episodes 100 --out threading.hdf5
GAP_VLA_SOURCE=threading.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class Threading(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task threading --episodes 100 --out threading.hdf5"
