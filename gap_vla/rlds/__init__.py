"""RLDS with ρ: writing and reading datasets, and loading windows of them for training.

Importing this loads neither TensorFlow, JAX nor torch.
"""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "DatasetError": "version_files",
        "BeamRunner": "shards",
        "EpisodeStore": "store",
        "WindowDataset": "torch_windows",
        "WindowLoader": "loader",
        "annotate_with": "shards",
        "build_dataset": "convert",
        "dataset_builder": "tfds_builder",
        "dataset_metadata": "reader",
        "dataset_statistics": "statistics",
        "normalize": "statistics",
        "read_rlds": "reader",
        "torch_batches": "torch_windows",
        "unnormalize": "statistics",
        "window_indices": "windows",
        "write_rlds": "builder",
    },
)
