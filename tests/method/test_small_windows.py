"""What small policies read of a store: their own windows, cameras, statistics and ρ."""

import itertools

import numpy as np
import pytest
import torch

from gap_vla.core.errors import ConfigError
from gap_vla.policies.windows import SmallWindows, rho_of
from gap_vla.rlds.statistics import dataset_statistics, normalize
from tests.helpers.toy_store import episode, toy_config, write_store

LENGTH = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("toy") / "store", cameras=("primary", "wrist"))


def windows_of(store, split="train", **changes):
    rho = store.split(split).fields["rho"]
    return SmallWindows(toy_config(store.directory, **changes), store, split, rho)


def test_every_window_comes_once_per_epoch_in_an_order_of_epoch_and_seed(store):
    def epochs(seed):
        windows = windows_of(store, train=dict(batch_size=18, seed=seed))
        steps = 2 * len(windows) // 18
        shown = np.concatenate([windows.batch(step)["window"] for step in range(steps)])
        return np.split(shown, 2)

    first, second = epochs(3)
    assert sorted(first) == sorted(second) == list(range(6 * LENGTH))
    assert (first != second).any() and (first != epochs(4)[0]).any()
    assert np.array_equal(first, epochs(3)[0])


def test_a_window_shows_its_own_history_and_never_the_episode_before(store):
    batch = windows_of(store, model=dict(image_history=2)).gather(np.array([LENGTH, LENGTH + 6]))
    fields, first = store.split("train").fields, LENGTH  # of the second episode
    assert np.array_equal(batch["image_primary"][0], fields["image_primary"][[first, first]])
    assert np.array_equal(batch["image_primary"][1], fields["image_primary"][[first + 5, first + 6]])
    assert batch["rho"][0].tolist() == [fields["rho"][first]] * 3
    assert batch["rho"][1].tolist() == fields["rho"][first + 4 : first + 7].tolist()
    states = normalize(fields["proprio"], store.statistics["proprio"])
    assert np.array_equal(batch["proprio"][0], states[[first] * 3])
    assert np.array_equal(batch["proprio"][1], states[first + 4 : first + 7])


def test_each_camera_shows_its_own_pictures(store):
    batch = windows_of(store, demos=dict(cameras=("primary", "wrist"))).batch(0)
    for camera in ("primary", "wrist"):
        expected = store.split("train").fields[f"image_{camera}"][batch["window"]]
        assert np.array_equal(batch[f"image_{camera}"][:, 0], expected)
    assert (batch["image_primary"] != batch["image_wrist"]).any()


def test_both_splits_are_normalised_with_the_statistics_of_the_training_split(store):
    episodes = {"train": [episode(seed) for seed in range(6)], "val": [episode(100), episode(101)]}
    learnt = episodes["train"]
    known = dataset_statistics([e.action for e in learnt], [e.proprio for e in learnt], learnt[0].action_columns)
    for split, shown in episodes.items():
        windows = windows_of(store, split)
        batch = windows.gather(np.arange(len(windows)))
        states, actions = (np.concatenate([getattr(e, name) for e in shown]) for name in ("proprio", "action"))
        np.testing.assert_allclose(batch["proprio"][:, -1], normalize(states, known["proprio"]), atol=1e-5)
        np.testing.assert_allclose(batch["action"][:, 0], normalize(actions, known["action"]), atol=1e-5)


def test_a_chunk_ends_with_its_episode(store):
    mask = windows_of(store).gather(np.arange(LENGTH))["action_pad_mask"]
    assert mask.sum(1).tolist() == [4] * (LENGTH - 3) + [3, 2, 1]


def test_pictures_of_other_episodes_leave_everything_else_alone(store):
    one, other = (windows_of(store, data=data).batch(0) for data in ({}, {"shuffle_images": True}))
    same = {key: torch.equal(one[key], other[key]) for key in one}
    assert same == {key: key != "image_primary" for key in one}


def test_augmentation_changes_pictures_alone_and_follows_from_seed_and_step(store):
    augment = {"cameras": ["primary"], "primary": {"brightness": 0.3}}
    plain, changed, again = (windows_of(store, data=data) for data in ({}, {"augment": augment}, {"augment": augment}))
    before, after = plain.batch(5), changed.batch(5)
    same = {key: torch.equal(before[key], after[key]) for key in before}
    assert same == {key: key != "image_primary" for key in before}
    assert torch.equal(again.batch(5)["image_primary"], after["image_primary"])
    shown = [next(iter(windows.in_order()))["image_primary"] for windows in (plain, changed)]
    assert torch.equal(*shown)  # what is held out is never changed


@pytest.mark.parametrize("method", ["vp", "gap_change_points"])
def test_transitions_are_those_of_the_dataset_whatever_the_method_trains_with(method, store, tmp_path):
    config = toy_config(tmp_path, method)
    windows = SmallWindows(config, store, "train", rho_of(config, store, keep=False)["train"])
    everything = windows.gather(np.arange(len(windows)))
    assert everything["transition"].tolist() == (store.split("train").fields["rho"] > 0.5).tolist()
    assert everything["change_distance"].tolist() == [abs(step % LENGTH - 12) for step in range(6 * LENGTH)]


def test_rho_of_the_controls_is_the_datasets_permuted_or_its_mean(store):
    own = store.split("train").fields["rho"]
    found = {
        m: rho_of(toy_config(store.directory, m), store)["train"] for m in ("vp_gap", "gap_shuffled", "lambda_matched")
    }
    assert np.array_equal(found["vp_gap"], own) and np.ptp(found["lambda_matched"]) == 0
    assert sorted(found["gap_shuffled"]) == sorted(own) and not np.array_equal(found["gap_shuffled"], own)
    np.testing.assert_allclose(found["lambda_matched"], own.mean(), rtol=1e-6)


def test_moved_rho_is_turned_by_half_of_each_segment_of_an_episode(store):
    data = store.split("train")
    [own], [found] = ([rho_of(toy_config(store.directory, m), store)["train"]] for m in ("vp_gap", "gap_moved"))
    bounds = sorted({*data.offsets.tolist(), *np.flatnonzero(data.fields["change_point"]).tolist()})
    assert len(bounds) > len(data.offsets)
    for a, b in itertools.pairwise(bounds):
        assert found[a:b].tolist() == [float(own[a + (i - (b - a) // 2) % (b - a)]) for i in range(b - a)]


def test_labels_that_a_method_makes_are_fitted_on_the_training_split_and_kept(tmp_path, capsys):
    from gap_vla.phases.annotation import annotate

    store, config = write_store(tmp_path / "store"), toy_config(tmp_path, "gap_gaussian")
    found = rho_of(config, store)
    episodes = [episode(seed) for seed in [*range(6), 100, 101]]
    expected = annotate(episodes, method="gaussian", workers=1, fit=range(6)).rho
    assert np.array_equal(found["train"], np.concatenate(expected[:6]))
    assert np.array_equal(found["val"], np.concatenate(expected[6:]))
    assert "labelling" in capsys.readouterr().out
    assert np.array_equal(rho_of(config, store)["train"], found["train"])
    assert "labelling" not in capsys.readouterr().out


def test_a_dataset_without_rho_is_refused_for_gap_and_trains_vp(tmp_path):
    store = write_store(tmp_path / "store", rho=False)
    with pytest.raises(ConfigError, match=r"no steps/rho, which method (vp_)?gap needs"):
        rho_of(toy_config(tmp_path, "vp_gap"), store)
    assert not rho_of(toy_config(tmp_path, "vp"), store)["train"].any()
