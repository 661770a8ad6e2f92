"""What a loader may be asked for: tensors, augmentation, several datasets at once."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import config
from ml_collections import ConfigDict
from synthetic_demos import same

from gap_vla.core.episode import EpisodeError
from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.rlds.checking.run import check_dataset
from gap_vla.rlds.loader import gathered
from gap_vla.rlds.windows import Windows

OPTIONS: dict[str, Any] = {"split": "train", "window_size": 2, "action_horizon": 3, "batch_size": 16, "seed": 0}


def test_torch_makes_tensors_of_a_batch_by_itself(store: EpisodeStore) -> None:
    batch = next(WindowLoader(store, **OPTIONS))
    tensors = torch.utils.data.default_convert(batch)
    assert isinstance(tensors["action"], torch.Tensor) and tensors["action"].dtype == torch.float32
    np.testing.assert_array_equal(tensors["observation"]["image_primary"], batch["observation"]["image_primary"])
    np.testing.assert_array_equal(tensors["rho"], batch["rho"])
    assert list(tensors["task"]["language_instruction"]) == list(batch["task"]["language_instruction"])


def test_augmentation_changes_real_frames_only_and_alike_within_a_window(store: EpisodeStore) -> None:
    augment = {"image_primary": {"brightness": 0.2}}
    plain, changed = next(WindowLoader(store, **OPTIONS)), next(WindowLoader(store, **OPTIONS, augment=augment))
    before, after = (b["observation"]["image_primary"].astype(float) for b in (plain, changed))
    real = plain["observation"]["timestep_pad_mask"]
    assert (before != after)[real].any()
    np.testing.assert_array_equal(before[~real], after[~real])
    middle = (before > 60) & (before < 195)
    shift = np.where(middle, after - before, np.nan)
    both = real.all(1)
    np.testing.assert_allclose(
        np.nanmean(shift[both, 0], axis=(1, 2, 3)), np.nanmean(shift[both, 1], axis=(1, 2, 3)), atol=1
    )
    crop = {"image_primary": {"crop_scale": (0.5, 0.9)}}
    cropped = next(WindowLoader(store, **OPTIONS, augment=crop))["observation"]["image_primary"]
    assert cropped.shape == before.shape and (cropped != before).any()
    again = next(WindowLoader(store, **OPTIONS, augment=ConfigDict(crop)))["observation"]["image_primary"]
    assert np.array_equal(cropped, again)
    with pytest.raises(ValueError, match="augment names image_third"):
        WindowLoader(store, **OPTIONS, augment={"image_third": {}})
    with pytest.raises(ValueError, match="augment is list; give a map from cameras"):
        WindowLoader(store, **OPTIONS, augment=["image_primary"])


@pytest.mark.parametrize("given", ["data/toy", Path("data/toy"), None, ["data/toy"], ("data/toy", 1.0), [("toy", 1.0)]])
def test_what_is_no_store_is_refused_by_name(given: Any, store: EpisodeStore) -> None:
    for wrong in (given, [store, given], (store, 1.0)):
        with pytest.raises(ConfigError, match=r"is no (pair of an )?EpisodeStore\b.*; give EpisodeStore\.build"):
            WindowLoader(wrong, **OPTIONS)
    with pytest.raises(ConfigError, match="weights \\[\\]"):
        WindowLoader([], **OPTIONS)


def test_several_datasets_are_mixed_by_weight(store: EpisodeStore) -> None:
    loader = WindowLoader([(store, np.float32(0.75)), (store, 0.25)], **{**OPTIONS, "batch_size": 200})
    batch = next(loader)
    assert batch["action"].shape == (200, 2, 3, 7) and len(batch["task"]["language_instruction"]) == 200
    addresses = np.array([[1, 0, 3], [0, 0, 5], [1, 0, 0]])
    windows = Windows(store, **{key: OPTIONS[key] for key in ("split", "window_size", "action_horizon")})
    mixed, single = gathered([windows, windows], addresses), windows.gather(np.array([3, 5, 0]))
    same(mixed, single)
    ordered = WindowLoader([(store, 1.0), (store, 1.0)], **{**OPTIONS, "train": False})
    assert sum(len(b["rho"]) for b in ordered) == 2 * store.split("train").steps


def test_datasets_whose_states_are_not_shown_may_have_others(store: EpisodeStore, tmp_path: Path) -> None:
    other, split = copy.copy(store), copy.copy(store.split("train"))
    split.fields = {**split.fields, "proprio": split.fields["proprio"][:, :3]}
    other.directory, other.splits = tmp_path, {"train": split}
    mixture: Any = [(store, 1), (other, 1)]
    assert "proprio" not in next(WindowLoader(mixture, **OPTIONS, proprio=False))["observation"]


class _Windows(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __init__(self, store: EpisodeStore) -> None:
        self._loader = WindowLoader(store, **{**OPTIONS, "image_keys": (), "train": False})

    def __iter__(self) -> Iterator[int]:
        return (len(batch["rho"]) for batch in self._loader)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_workers_of_torch_do_not_each_give_all_windows(store: EpisodeStore) -> None:
    one, two = (torch.utils.data.DataLoader(_Windows(store), batch_size=None, num_workers=n) for n in (1, 2))
    assert sum(one) == store.split("train").steps
    with pytest.raises(ConfigError, match="each of 2 workers of torch would give the same batches; give num_workers"):
        list(two)


def test_a_change_that_returns_nothing_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(ConfigError, match="change returned None; let it return the batch"):
        next(WindowLoader(store, **OPTIONS, change=lambda _, batch: batch.update(rho=0)))


@pytest.mark.parametrize("windows", [[True, False], [1.7], [10**6], [-1]])
def test_windows_that_are_no_numbers_of_windows_are_refused(
    store: EpisodeStore, windows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Windows(store, split="train", window_size=2, action_horizon=3)
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as outside of the tests
    with pytest.raises(ConfigError, match="give their numbers, below"):
        part.gather(np.array(windows))


@pytest.mark.parametrize("seed", [True, 1.7, "1"])
def test_a_seed_of_windows_is_a_whole_number(store: EpisodeStore, seed: object) -> None:
    with pytest.raises(ConfigError, match=r"seed is .*; it must be a whole number"):
        Windows(store, split="train", window_size=1, action_horizon=1, seed=seed)
    size, wanted = np.int64(2), {"split": "train", "seed": 0, "window_size": 1, "action_horizon": 1}
    assert WindowLoader(store, batch_size=size, **wanted).state() == WindowLoader(store, batch_size=2, **wanted).state()


def test_numbers_of_numpy_are_those_of_python(store: EpisodeStore) -> None:
    sizes = {"window_size": 3, "action_horizon": 2, "proprio_history": 3, "threads": 1, "batch_size": 4}
    small = {name: np.uint8(size) for name, size in sizes.items()}
    found = next(WindowLoader(store, **{**OPTIONS, **small, "train": np.True_}))
    same(found, next(WindowLoader(store, **{**OPTIONS, **sizes})))


@pytest.mark.parametrize("given", [{"max_episodes": -1}, {"pictures": -1}, {"pictures": True}])
def test_numbers_of_the_checker_are_whole(version_dir: Path, given: dict[str, int]) -> None:
    with pytest.raises(EpisodeError, match=f"{next(iter(given))} is .*; it must be a whole number"):
        check_dataset(version_dir, **given)


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_forked_process_draws_the_batch_that_its_parent_draws(store: EpisodeStore, ahead: int) -> None:
    loader = WindowLoader(store, **OPTIONS, threads=ahead)
    before = next(loader)["action"]
    reading, writing = os.pipe()
    if not (child := os.fork()):  # its parent's threads are not there
        signal.alarm(30)
        os.write(writing, next(loader)["action"].tobytes())
        os._exit(0)
    mine = next(loader)["action"]
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reading, mine.nbytes + 1) == mine.tobytes() != before.tobytes()
    os.close(reading)
    os.close(writing)
