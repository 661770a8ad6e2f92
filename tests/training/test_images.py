"""Random changes of training pictures, and the control that shows the pictures of other episodes."""

import numpy as np
import pytest

from gap_vla.rlds.store import EpisodeStore
from gap_vla.training.octo_trainer import make_loader
from tests.training.conftest import configured

AUGMENT = {"cameras": ["primary"], "primary": {"crop_scale": [0.5, 0.8], "brightness": 0.2}}


def loader(store, split="train", seed=0, **data):
    config = configured("octo", train={"batch_size": 16, "seed": seed}, data=data)
    return make_loader(config, EpisodeStore.open(store), split, train=split == "train")


def pictures(batch):
    return batch["observation"]["image_primary"]


def assert_only_pictures_differ(one, other):
    for key in ("proprio", "timestep", "timestep_pad_mask"):
        np.testing.assert_array_equal(one["observation"][key], other["observation"][key])
    np.testing.assert_array_equal(one["action"], other["action"])
    np.testing.assert_array_equal(one["rho"], other["rho"])


def test_augmentation_changes_pictures_alone_and_both_frames_of_a_window_alike(store):
    plain, changed = next(loader(store)), next(loader(store, augment=AUGMENT))
    assert_only_pictures_differ(plain, changed)
    mask = changed["observation"]["timestep_pad_mask"]
    before, after = pictures(plain)[mask.all(1)], pictures(changed)[mask.all(1)]
    assert (before != after).any((1, 2, 3, 4)).all()
    still = (before[:, 0] == before[:, 1]).all((1, 2, 3))  # the dots do not move within an episode
    assert still.any()
    np.testing.assert_array_equal(after[still, 0], after[still, 1])
    np.testing.assert_array_equal(pictures(plain)[~mask], pictures(changed)[~mask])


@pytest.mark.parametrize("data", [{"augment": AUGMENT}, {"shuffle_images": True, "augment": AUGMENT}])
def test_the_changes_follow_from_seed_and_position_and_go_on_after_a_resume(store, data):
    first = loader(store, **data)
    batches = [next(first)]
    state = first.state()
    np.testing.assert_array_equal(pictures(first.peek()), pictures(batch := next(first)))
    batches += [batch, *(next(first) for _ in range(3))]  # into the next epoch
    resumed = loader(store, **data)
    resumed.restore(state)
    for batch in batches[1:]:
        np.testing.assert_array_equal(pictures(next(resumed)), pictures(batch))
    assert (pictures(next(loader(store, seed=1, **data))) != pictures(batches[0])).any()


def test_shuffled_pictures_are_those_of_other_episodes_at_the_same_step(store):
    split = EpisodeStore.open(store).split("train")
    right, wrong = next(loader(store)), next(loader(store, shuffle_images=True))
    assert_only_pictures_differ(right, wrong)
    last, same = np.diff(split.offsets) - 1, 0
    for row, timestep in enumerate(right["observation"]["timestep"][:, -1]):
        shown = pictures(wrong)[row, -1]
        of_same_step = split.fields["image_primary"][split.offsets[:-1] + np.minimum(timestep, last)]
        assert (of_same_step == shown).all((1, 2, 3)).any()
        same += (shown == pictures(right)[row, -1]).all()
    assert same < 16


@pytest.mark.parametrize("data", [{"shuffle_images": True}, {"augment": AUGMENT}])
def test_validation_shows_pictures_as_they_are(store, data):
    plain, asked = (next(iter(loader(store, "val", **own))) for own in ({}, data))
    np.testing.assert_array_equal(pictures(plain), pictures(asked))
