"""Claims about the control that trains with other episodes' pictures."""

import numpy as np

from gap_vla.rlds import EpisodeStore
from gap_vla.training.data import make_loader
from gap_vla.training.octo import FinetuneConfig


def loaders(store, **data):
    small = {"demos": {"image_size": 32}, "train": {"batch_size": 16}, "model": {"window_size": 2}}
    config = FinetuneConfig.from_dict({"task": "assembly", "method": "vp", **small, "data": data})
    opened = EpisodeStore.open(store)
    return make_loader(config, opened, "train", train=True), opened.split("train")


def of_same_step(split, timestep):
    """Every picture that any episode shows at this step, [E, h, w, 3]."""
    last = np.diff(split.offsets) - 1
    return split.fields["image_primary"][split.offsets[:-1] + np.minimum(timestep, last)]


def test_only_pictures_change_and_they_are_other_episodes_of_the_same_step(store):
    plain, split = loaders(store)
    shuffled, _ = loaders(store, shuffle_images=True)
    kept = 0
    for _ in range(4):
        right, wrong = next(plain), next(shuffled)
        for key in ("proprio", "timestep", "timestep_pad_mask"):
            np.testing.assert_array_equal(right["observation"][key], wrong["observation"][key])
        np.testing.assert_array_equal(right["action"], wrong["action"])
        for row, timestep in enumerate(right["observation"]["timestep"][:, -1]):
            picture = wrong["observation"]["image_primary"][row, -1]
            assert (of_same_step(split, timestep) == picture).all((1, 2, 3)).any()
            kept += (picture == right["observation"]["image_primary"][row, -1]).all()
    assert kept < 64


def test_batches_repeat_with_the_seed_and_continue_after_a_saved_position(store):
    shuffled, _ = loaders(store, shuffle_images=True)
    pictures = []
    for number in range(4):
        peeked = shuffled.peek()["observation"]["image_primary"]
        pictures.append(next(shuffled)["observation"]["image_primary"])
        np.testing.assert_array_equal(peeked, pictures[-1])
        if number == 1:
            state = shuffled.state()
    resumed, _ = loaders(store, shuffle_images=True)
    resumed.restore(state)
    for expected in pictures[2:]:
        np.testing.assert_array_equal(next(resumed)["observation"]["image_primary"], expected)


def test_validation_shows_the_right_pictures(store):
    small = {"task": "assembly", "method": "vp", "demos": {"image_size": 32}}
    shown = []
    for shuffled in (False, True):
        config = FinetuneConfig.from_dict({**small, "data": {"shuffle_images": shuffled}})
        batch = next(make_loader(config, EpisodeStore.open(store), "val", train=False))
        shown.append(batch["observation"]["image_primary"])
    np.testing.assert_array_equal(*shown)
