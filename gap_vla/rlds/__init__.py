"""RLDS with ρ: writing and reading datasets, and loading windows of them for training.

Importing this loads neither TensorFlow, JAX nor torch.
"""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "account": "dataset_metadata",
        "version_files": "DatasetError",
        "shards": "BeamRunner with_rho",
        "store": "EpisodeStore",
        "loader": "WindowLoader",
        "convert": "build_dataset",
        "tfds_builder": "dataset_builder",
        "reader": "read_rlds",
        "statistics": "dataset_statistics normalize unnormalize",
        "windows": "window_indices",
        "builder": "write_rlds",
    },
)
