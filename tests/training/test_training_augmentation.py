"""What the configuration asks for is what the pictures of training batches look like, and only those."""

import numpy as np
import pytest

from gap_vla.drawing.batch import batch_picture
from gap_vla.rlds import EpisodeStore
from gap_vla.training.data import make_loader
from gap_vla.training.octo import FinetuneConfig

AUGMENT = {"cameras": ["primary"], "primary": {"crop_scale": [0.5, 0.8], "brightness": 0.2}}


def loader(store, split="train", seed=0, **data):
    small = {"demos": {"image_size": 32}, "train": {"batch_size": 16, "seed": seed}, "model": {"window_size": 2}}
    config = FinetuneConfig.from_dict({"task": "assembly", "method": "vp", **small, "data": data})
    return make_loader(config, EpisodeStore.open(store), split, train=split == "train")


def pictures(batch):
    return batch["observation"]["image_primary"]


def test_without_augmentation_pictures_are_those_of_the_store_to_the_bit(store):
    batch = next(loader(store))
    stored = np.asarray(EpisodeStore.open(store).split("train").fields["image_primary"])
    assert all((stored == frame).all((1, 2, 3)).any() for frame in pictures(batch)[:, -1])


@pytest.mark.parametrize("shuffled", [False, True])
def test_augmentation_changes_pictures_alone_and_both_frames_of_a_window_alike(store, shuffled):
    plain = next(loader(store, shuffle_images=shuffled))
    changed = next(loader(store, shuffle_images=shuffled, augment=AUGMENT))
    for key in ("proprio", "timestep", "timestep_pad_mask"):
        np.testing.assert_array_equal(plain["observation"][key], changed["observation"][key])
    np.testing.assert_array_equal(plain["action"], changed["action"])
    real = changed["observation"]["timestep_pad_mask"].all(1)
    before, after = pictures(plain)[real], pictures(changed)[real]
    assert (before != after).any((1, 2, 3, 4)).all()
    still = (before[:, 0] == before[:, 1]).all((1, 2, 3))  # the dots do not move within an episode
    assert still.any()
    np.testing.assert_array_equal(after[still, 0], after[still, 1])
    padding = ~changed["observation"]["timestep_pad_mask"]
    np.testing.assert_array_equal(pictures(plain)[padding], pictures(changed)[padding])


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_changes_follow_from_seed_and_position_and_go_on_after_a_resume(store, shuffled):
    first = loader(store, shuffle_images=shuffled, augment=AUGMENT)
    batches = [next(first)]
    state = first.state()
    batches += [next(first) for _ in range(4)]  # into the next epoch
    resumed = loader(store, shuffle_images=shuffled, augment=AUGMENT)
    resumed.restore(state)
    for batch in batches[1:]:
        np.testing.assert_array_equal(pictures(next(resumed)), pictures(batch))
    other = loader(store, seed=1, shuffle_images=shuffled, augment=AUGMENT)
    assert (pictures(next(other)) != pictures(batches[0])).any()


def test_validation_shows_pictures_as_they_are(store):
    plain, asked = loader(store, "val"), loader(store, "val", augment=AUGMENT)
    np.testing.assert_array_equal(pictures(next(iter(plain))), pictures(next(iter(asked))))


def test_the_picture_of_the_first_batch_shows_what_training_sees(store):
    augmented = loader(store, augment=AUGMENT)
    np.testing.assert_array_equal(batch_picture(augmented.peek()), batch_picture(next(augmented)))
