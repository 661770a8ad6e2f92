"""A table of ρ over all episodes of a LeRobot dataset is looked up with the `index` of its batches."""

from pathlib import Path

import numpy as np
import pytest

from gap_vla.demos import open_source

DATASETS = Path(__file__).parents[1] / "data" / "lerobot"


@pytest.mark.parametrize("name", ["v21_video", "v30_image", "v30_video"])
def test_frames_are_numbered_through_the_episodes_in_the_order_they_are_read(name):
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = [parquet.read_table(file) for file in sorted((DATASETS / name).glob("data/**/*.parquet"))]
    index = np.concatenate([table["index"].to_numpy() for table in tables])
    action = np.concatenate([np.stack(table["action"].to_pylist()) for table in tables])
    episodes = open_source(DATASETS / name, kind="lerobot").without_images()
    read = np.concatenate([episode.action for episode in episodes])
    assert len(read) == len(index) > 1 and len(np.unique(action[:, 0])) > 1
    np.testing.assert_allclose(read, action[np.argsort(index)], atol=1e-6)
