"""RLDS of the assembly task with rho. In this folder:

python ../../scripts/collect_demos.py --task assembly --episodes 100 --out assembly.hdf5
GAP_VLA_SOURCE=assembly.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class Assembly(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task assembly --episodes 100 --out assembly.hdf5"
