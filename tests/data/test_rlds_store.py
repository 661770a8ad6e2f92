"""Stores hold the dataset's episodes, and are used again for the same dataset without reading any of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.demos.fields import Fields
from gap_vla.rlds.convert import write_rlds
from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.source import RLDS
from gap_vla.rlds.store import EpisodeStore
from tests.helpers.demonstrations import assert_equal, make_episode

GOLDEN = Path(__file__).parent / "rlds" / "octo_transforms.npz"


def test_the_store_holds_the_episodes_unchanged(store: EpisodeStore, version_dir: Path) -> None:
    for split in ("train", "val"):
        expected = list(RLDS(version_dir, Fields(episodes=split)))
        assert len(store.split(split)) == len(expected)
        for i, episode in enumerate(expected):
            found = store.split(split).episode(i)
            assert_equal(found, episode)
            assert (found.columns, found.action_columns) == (episode.columns, episode.action_columns)
            assert found.metadata == episode.metadata


def test_a_store_that_is_there_is_opened_without_the_records(version_dir: Path, tmp_path: Path) -> None:
    data = shutil.copytree(version_dir, tmp_path / "1.0.0")
    built = EpisodeStore.build(data)
    for shard in data.glob("*.tfrecord*"):
        shard.unlink()
    assert EpisodeStore.build(data).source_hash == built.source_hash


def test_another_dataset_or_other_settings_make_the_store_anew(tmp_path: Path, episodes: list[Episode]) -> None:
    data = write_rlds(episodes[:2], tmp_path, "toy")
    first = EpisodeStore.build(data)
    small = EpisodeStore.build(data, fields=Fields(image_size=(8, 8)))
    assert small.source_hash != first.source_hash
    assert small.split("train").fields["image_primary"].shape[1:] == (8, 8, 3)
    write_rlds(episodes[2:5], tmp_path, "toy", overwrite=True)
    rebuilt = EpisodeStore.build(data)
    assert sum(split.steps for split in rebuilt.splits.values()) == sum(map(len, episodes[2:5]))


def test_images_can_be_resized_once_as_upstream_resizes(tmp_path: Path, episodes: list[Episode]) -> None:
    golden = np.load(GOLDEN)
    frames = np.repeat(golden["resize/in"][None], len(episodes[0]), 0)
    data = write_rlds([episodes[0].replace(images={"image_primary": frames})], tmp_path, "big", val_fraction=0)
    small = EpisodeStore.build(data, fields=Fields(image_size=(48, 48))).split("train").fields["image_primary"]
    np.testing.assert_array_equal(small[3], golden["resize/lanczos3_48x48"])


def test_episodes_are_held_out_of_a_dataset_without_val(tmp_path: Path, episodes: list[Episode]) -> None:
    data = write_rlds(episodes, tmp_path, "toy", val_fraction=0)
    stores = {seed: EpisodeStore.build(data, tmp_path / f"{seed}", val_fraction=0.3, seed=seed) for seed in (0, 1)}
    held = {}
    for seed, store in stores.items():
        names = {name: {e["metadata"]["episode_id"] for e in split.episodes} for name, split in store.splits.items()}
        assert len(names["train"]) == 7 and len(names["val"]) == 3
        assert names["train"] | names["val"] == {e.metadata["episode_id"] for e in episodes}
        held[seed] = names["val"]
        learnt = [e for e in episodes if e.metadata["episode_id"] in names["train"]]
        mean = np.concatenate([e.action for e in learnt]).astype(np.float64).mean(0).astype(np.float32)
        np.testing.assert_allclose(store.statistics["action"]["mean"], mean, rtol=1e-6)
    assert held[0] != held[1]
    assert EpisodeStore.build(data, tmp_path / "again", val_fraction=0.3).split("val").episodes == (
        stores[0].split("val").episodes
    )


def test_instructions_may_change_within_an_episode(tmp_path: Path) -> None:
    episode = make_episode(0, steps=12)
    texts = ("open the drawer",) * 5 + ("close it",) * 7
    data = write_rlds([episode.replace(language_instruction=texts)], tmp_path, "toy", val_fraction=0)
    store = EpisodeStore.build(data)
    assert store.split("train").episode(0).language_instruction == texts
    loader = WindowLoader(store, split="train", window_size=2, action_horizon=2, batch_size=12, seed=0, train=False)
    assert [text.decode() for text in next(loader)["task"]["language_instruction"]] == list(texts)


def test_a_store_of_another_version_is_refused(store: EpisodeStore, tmp_path: Path) -> None:
    copy = shutil.copytree(store.directory, tmp_path / "copy")
    account = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps({**account, "store_version": 2}))
    with pytest.raises(EpisodeError, match=f"{copy}"):
        EpisodeStore.open(copy)


def test_a_folder_of_something_else_is_not_made_a_store(version_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("the only copy")
    with pytest.raises(EpisodeError, match=f"{tmp_path}"):
        EpisodeStore.build(version_dir, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "the only copy"
