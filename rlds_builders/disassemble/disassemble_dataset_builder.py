"""RLDS of the disassemble task with rho. In this folder:

python ../../scripts/collect_demos.py --task disassemble --episodes 100 --out disassemble.hdf5
GAP_VLA_SOURCE=disassemble.hdf5 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import DemosBuilder


class Disassemble(DemosBuilder):
    """Demonstrations of the scripted expert; any other file in robomimic's layout works as well."""

    HINT = "python scripts/collect_demos.py --task disassemble --episodes 100 --out disassemble.hdf5"
