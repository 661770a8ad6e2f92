"""Datasets are TFDS datasets, appear whole or not at all, and know what they were made from."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gap_vla import phases
from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError, EpisodeError, UserError
from gap_vla.demos.source import open_source
from gap_vla.phases import load_annotator
from gap_vla.rlds import shards
from gap_vla.rlds.annotate import with_rho
from gap_vla.rlds.convert import build_dataset, write_rlds
from gap_vla.rlds.shards import ShardJob, plan_shards, plan_splits, write_shard
from gap_vla.rlds.source import RLDS, dataset_metadata
from tests.helpers.demonstrations import assert_equal, make_episode, write_robomimic


def test_round_trip_is_equal_to_the_byte(version_dir: Path, episodes: list[Episode]) -> None:
    by_name = {e.metadata["episode_id"]: e for e in episodes}
    found = list(RLDS(version_dir))
    assert sorted(e.metadata["episode_id"] for e in found) == sorted(by_name)
    for episode in found:
        expected = by_name[episode.metadata["episode_id"]]
        assert_equal(episode, expected)
        assert episode.metadata == expected.metadata
        assert (episode.columns, episode.action_columns) == (expected.columns, expected.action_columns)
    assert len(dataset_metadata(version_dir)["identity_hash"]) == 16
    statistics = json.loads((version_dir / "dataset_statistics.json").read_text())
    assert set(statistics["action"]) == {"mean", "std", "max", "min", "p01", "p99", "q01", "q99", "mask"}


def test_plain_tfds_reads_the_dataset_without_our_code(
    version_dir: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets as tfds

    for name in [name for name in sys.modules if name.split(".")[0] in ("gap_vla", "rlds_builders")]:
        monkeypatch.setitem(sys.modules, name, None)  # to import it is an error
    builder = tfds.builder_from_directory(str(version_dir))
    by_name, found = {e.metadata["episode_id"]: e for e in episodes}, []
    for episode in builder.as_dataset(split="train"):
        rows = list(episode["steps"].as_numpy_iterator())
        assert rows[0]["is_first"] and rows[-1]["is_last"] and not rows[0]["is_last"]
        assert rows[0]["observation"]["image_primary"].shape == (16, 16, 3)
        expected = by_name[episode["episode_metadata"]["episode_id"].numpy().decode()]
        for name, values in (
            ("rho", expected.rho),
            ("change_point", expected.change_point),
            ("action", expected.action),
        ):
            np.testing.assert_array_equal([row[name] for row in rows], values, strict=True)
        np.testing.assert_array_equal([row["observation"]["proprio"] for row in rows], expected.proprio, strict=True)
        success = episode["episode_metadata"]["success"].numpy()
        assert all(row["is_terminal"] == (row["is_last"] and success) for row in rows)
        assert all(row["reward"] == float(row["is_terminal"]) and row["discount"] == 1 for row in rows)
        found.append(len(rows))
    monkeypatch.undo()
    assert sorted(found) == sorted(len(episodes[i]) for i in plan_splits(len(episodes), 0.2)["train"])


def test_identical_dataset_is_reused_and_a_different_one_is_noticed(tmp_path: Path, episodes: list[Episode]) -> None:
    path = write_rlds(episodes[:3], tmp_path, "toy")
    stamp = (path / "features.json").stat().st_mtime_ns
    assert write_rlds(episodes[:3], tmp_path, "toy") == path
    assert (path / "features.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"val_fraction: 0\.1 then, 0\.5 now"):
        write_rlds(episodes[:3], tmp_path, "toy", val_fraction=0.5)
    with pytest.raises(UserError, match=r"data\.content"):
        write_rlds(episodes[1:4], tmp_path, "toy")
    write_rlds(episodes[1:4], tmp_path, "toy", overwrite=True)
    assert {e.metadata["seed"] for e in RLDS(path)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"proprio": np.zeros((12, 8), np.float32), "columns": None}, "proprio"),
        ({"images": {"image_primary": np.zeros((12, 8, 8, 3), np.uint8)}}, "image_primary"),
        ({"rho": None, "change_point": None}, "rho"),
    ],
)
def test_a_bad_episode_leaves_no_dataset(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    good = [make_episode(i, steps=12) for i in range(4)]
    with pytest.raises(EpisodeError, match=f"demo_2.*{named}"):
        write_rlds([*good[:2], good[2].replace(**change), good[3]], tmp_path, "toy")
    assert not (tmp_path / "toy" / "1.0.0").exists()
    assert write_rlds(good, tmp_path, "toy").is_dir()


def test_an_interrupted_conversion_continues_with_the_missing_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(write_robomimic(tmp_path / "d.hdf5", [make_episode(i, annotated=False) for i in range(8)]))
    monkeypatch.setattr(shards, "MAX_EPISODES_PER_SHARD", 2)
    encode, written = shards.encode, []

    def encoded(episode: Episode) -> Any:
        written.append(episode.metadata["episode_id"])
        if len(written) == 6:
            raise KeyboardInterrupt
        return encode(episode)

    monkeypatch.setattr(shards, "encode", encoded)
    with pytest.raises(KeyboardInterrupt):
        write_rlds(source, tmp_path / "a", "toy")
    assert not (tmp_path / "a" / "toy" / "1.0.0").exists()
    path = write_rlds(source, tmp_path / "a", "toy")
    assert len(written) == 6 + 4  # two shards of two episodes were kept
    clean = write_rlds(source, tmp_path / "b", "toy")
    assert sorted(file.name for file in path.iterdir()) == sorted(file.name for file in clean.iterdir())
    for file in clean.iterdir():
        assert (path / file.name).read_bytes() == file.read_bytes(), file.name


def test_splits_are_disjoint_complete_and_have_a_validation_episode() -> None:
    for n in (1, 2, 3, 7, 100):
        for fraction in (0.0, 0.01, 0.1, 0.5):
            splits = plan_splits(n, fraction)
            assert sorted(i for part in splits.values() for i in part) == list(range(n))
            assert ("val" in splits) == (fraction > 0 and n > 1)
    with pytest.raises(ConfigError, match="val_fraction"):
        plan_splits(3, 1.0)


def test_shards_are_bounded_by_memory() -> None:
    assert plan_shards(range(5), 2**40) == [(i,) for i in range(5)]
    assert [len(s) for s in plan_shards(range(70), 1)] == [32, 32, 6]


def test_a_job_that_is_sent_elsewhere_carries_its_own_episodes_alone(tmp_path: Path) -> None:
    def runner(jobs: list[ShardJob]) -> None:
        assert [len(job.source) for job in jobs] == [32, 1, 4]
        for job in jobs:
            write_shard(job)

    many = [make_episode(i, steps=12, size=4) for i in range(37)]
    found = write_rlds(many, tmp_path / "there", "toy", runner=runner)
    here = write_rlds(many, tmp_path / "here", "toy")
    for shard in here.glob("*.tfrecord-*"):
        assert shard.read_bytes() == (found / shard.name).read_bytes()


# ---- with ρ


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    return write_robomimic(folder / "demos.hdf5", [make_episode(i, steps=40, annotated=False) for i in range(6)])


def test_what_is_fitted_sees_the_training_split_alone(demos: Path, tmp_path: Path) -> None:
    source = open_source(demos)
    path = build_dataset(source, tmp_path, "toy", method="gaussian", val_fraction=0.3, workers=1)
    train = plan_splits(len(source), 0.3)["train"]
    alone = phases.annotate([source.read(i, images=False) for i in train], method="gaussian")
    assert load_annotator(path / "annotator").identity["hash"] == alone.annotator.identity["hash"]
    by_name = {e.metadata["episode_id"]: e for e in RLDS(path)}
    for position, i in enumerate(train):
        labels, found = alone.labels(position), by_name[source.read(i).metadata["episode_id"]]
        assert np.array_equal(found.rho, labels["rho"]) and np.array_equal(found.change_point, labels["change_point"])


def test_the_same_conversion_is_found_without_annotating_again(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_dataset(open_source(demos), tmp_path, "toy", method="gaussian", workers=1)
    monkeypatch.setattr(phases, "annotate", lambda *_, **__: pytest.fail("annotated again"))
    assert build_dataset(open_source(demos), tmp_path, "toy", method="gaussian", workers=1) == path
    with pytest.raises(UserError, match="method: 'gaussian' then, 'none' now"):
        build_dataset(open_source(demos), tmp_path, "toy", method="none", workers=1)


def test_a_saved_annotator_labels_the_same_and_fits_nothing(demos: Path, tmp_path: Path) -> None:
    source = open_source(demos)
    first = build_dataset(source, tmp_path, "first", method="gaussian", workers=1)
    second = build_dataset(source, tmp_path, "second", annotator=first / "annotator", workers=1)
    for a, b in zip(RLDS(first), RLDS(second), strict=True):
        np.testing.assert_array_equal(a.rho, b.rho)
    episode = source.read(0)
    np.testing.assert_array_equal(
        with_rho(episode, load_annotator(first / "annotator")).rho,
        next(e.rho for e in RLDS(first) if e.metadata["episode_id"] == episode.metadata["episode_id"]),
    )


def test_an_annotator_may_be_fitted_on_a_few_episodes(demos: Path, tmp_path: Path) -> None:
    source = open_source(demos)
    path = build_dataset(source, tmp_path, "toy", method="gaussian", fit_episodes=2, workers=1)
    train = plan_splits(len(source), 0.1)["train"]
    few = phases.annotate([source.read(train[i], images=False) for i in (0, len(train) - 1)], method="gaussian")
    assert load_annotator(path / "annotator").identity["hash"] == few.identity["hash"]
    assert all(episode.rho is not None for episode in RLDS(path))


def test_tfds_builds_a_builder_of_ours(demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAP_VLA_SOURCE", str(demos))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    module = importlib.import_module("rlds_builders.threading.threading_dataset_builder")
    monkeypatch.setattr(module.Threading, "OPTIONS", {"method": "none", "workers": 1})
    builder = module.Threading(data_dir=str(tmp_path))
    builder.download_and_prepare()
    lengths = [len(episode["steps"]) for episode in builder.as_dataset(split="train+val")]
    assert lengths == [40] * 6
    monkeypatch.delenv("GAP_VLA_SOURCE")
    with pytest.raises(UserError, match="collect_demos"):
        module.Threading(data_dir=str(tmp_path / "other")).download_and_prepare()
