"""The picture of a first batch, with ρ and without."""

import numpy as np

from gap_vla.drawing.batch import batch_picture


def test_without_rho_the_frames_are_drawn_without_its_strip():
    observation = {"image_primary": np.full((3, 2, 8, 8, 3), 200, np.uint8), "timestep_pad_mask": np.ones((3, 2), bool)}
    bare = batch_picture({"observation": observation})
    with_rho = batch_picture({"observation": observation, "rho": np.ones((3, 2), np.float32)})
    assert bare.shape[0] < with_rho.shape[0] and bare.shape[1] == with_rho.shape[1]
    assert set(np.unique(bare)) == {200, 255}
