"""RLDS with ρ: writing and reading datasets, and loading windows of them for training.

    convert     `build_dataset`: demonstrations of any format to a TFDS dataset with ρ
    source      `RLDS`: any RLDS dataset as episodes
    annotate    ρ added to a copy of existing data
    store       `EpisodeStore.build(dataset)`: decoded once, read at random
    loader      `WindowLoader(store, …)`: batches of windows
    statistics  `normalize`, `unnormalize`

No module but `transforms`, `upstream` and `tfds_builder` loads TensorFlow before it is used.
"""
