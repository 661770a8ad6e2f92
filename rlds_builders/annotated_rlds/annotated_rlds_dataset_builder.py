"""An existing RLDS dataset with rho added and nothing else changed. In this folder:

GAP_VLA_SOURCE=~/tensorflow_datasets/bridge_dataset/1.0.0 tfds build --data_dir ~/tensorflow_datasets
"""

from gap_vla.rlds.tfds_builder import AnnotatedRldsBuilder


class AnnotatedRlds(AnnotatedRldsBuilder):
    """Copy this folder under the name of your dataset and name its state field and the columns of that field."""

    STATE_KEY = "observation/state"
    LAYOUT = "bridge"
