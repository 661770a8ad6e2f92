"""RLDS of the bin_picking task with rho. In this folder:

python ../../scripts/collect_demos.py --task bin_picking --episodes 100 --out bin_picking.hdf5
GAP_VLA_SOURCE=bin_picking.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class BinPicking(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task bin_picking --episodes 100 --out bin_picking.hdf5"
