"""Datasets are TFDS datasets, appear whole or not at all, and know what they were made from."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner import Outcome, Runner
from synthetic_demos import assert_equal, make_episode, write_robomimic

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.locks import InUseError
from gap_vla.core.resources import ResourceError
from gap_vla.demos import open_source
from gap_vla.demos.source import Source
from gap_vla.rlds import DatasetError, build_dataset, builder, dataset_metadata, read_rlds, write_rlds
from gap_vla.rlds.shards import ShardJob, plan_shards, plan_splits, remove_accounts, write_shard
from gap_vla.rlds.target import alone_at, check_names, unfinished


def test_round_trip_is_equal_to_the_byte(version_dir: Path, episodes: list[Episode]) -> None:
    by_name = {e.metadata["episode_id"]: e for e in episodes}
    found = [*read_rlds(version_dir, "train"), *read_rlds(version_dir, "val")]
    assert sorted(e.metadata["episode_id"] for e in found) == sorted(by_name)
    for episode in found:
        expected = by_name[episode.metadata["episode_id"]]
        assert_equal(episode, expected)
        assert episode.metadata == expected.metadata


def test_a_clock_that_is_set_back_lets_no_reader_wait(
    version_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    begin, tuned = tf.data.Dataset.as_numpy_iterator, []

    def beginning(dataset: Any) -> Any:
        tuned.append(dataset.options().autotune.enabled)  # by a thread that its end waits for, until a time of the day
        return begin(dataset)

    monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", beginning)
    episodes = list(read_rlds(version_dir, "train"))
    after_reading = len(tuned)
    write_rlds(episodes, tmp_path, "again")
    assert 0 < after_reading < len(tuned) and not any(one is not False for one in tuned)


def test_a_demonstration_that_is_there_twice_is_told(episodes, tmp_path, capsys) -> None:
    write_rlds(episodes, tmp_path, "once", val_fraction=0.5)
    assert "note:" not in capsys.readouterr().out
    count = len(episodes)
    write_rlds([*episodes, episodes[0]], tmp_path, "twice", val_fraction=0)
    said = f"note: train[{count}] has the same actions and states as train[0]; drop one\n"
    assert said in capsys.readouterr().out
    doubled = [one for one in episodes for _ in range(2)]  # of each pair, one is validation
    write_rlds(doubled, tmp_path, "leaking", val_fraction=0.5)
    said = (
        f"note: val[0] has the same actions and states as train[0]; the splits overlap; {count} episodes are like that"
    )
    assert said in capsys.readouterr().out
    write_rlds([*doubled, doubled[0], doubled[0]], tmp_path, "both", val_fraction=0.5)
    out = capsys.readouterr().out
    assert "train[0]; drop one" in out and "; the splits overlap" in out


def test_plain_tfds_reads_the_dataset_without_our_code(
    version_dir: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets as tfds

    for name in [name for name in sys.modules if name.split(".")[0] in ("gap_vla", "rlds_builders")]:
        monkeypatch.setitem(sys.modules, name, None)  # to import it is an error
    builder = tfds.builder_from_directory(str(version_dir))
    found = []
    for episode in builder.as_dataset(split="train"):
        rows = list(episode["steps"].as_numpy_iterator())
        assert rows[0]["is_first"] and rows[-1]["is_last"] and not rows[0]["is_last"]
        assert rows[0]["observation"]["image_primary"].shape == (16, 16, 3)
        assert rows[0]["observation"]["proprio"].dtype == "float32" and rows[0]["rho"].dtype == "float32"
        success = episode["episode_metadata"]["success"].numpy()
        assert all(row["is_terminal"] == (row["is_last"] and success) for row in rows)
        assert all(row["reward"] == float(row["is_terminal"]) and row["discount"] == 1 for row in rows)
        found.append(len(rows))
    assert builder.info.metadata["annotator"]["method"] == "synthetic"
    monkeypatch.undo()
    assert sorted(found) == sorted(len(episodes[i]) for i in plan_splits(len(episodes), 0.2)["train"])


def test_serialisation_is_the_one_of_tfds(episodes: list[Episode]) -> None:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    from gap_vla.rlds.schema import Schema

    schema = Schema.of(episodes[0])
    encoded = schema.encode(episodes[0])
    features = schema.features()
    rows = [
        {
            key: {k: v[i] for k, v in value.items()} if isinstance(value, dict) else value[i]
            for key, value in encoded["steps"].items()
        }
        for i in range(len(episodes[0]))
    ]
    official = features.encode_example({**encoded, "steps": rows})
    serializer = ExampleSerializer(features.get_serialized_info())
    assert serializer.get_tf_example(encoded) == serializer.get_tf_example(official)


def test_metadata_of_an_episode_is_what_any_reader_of_json_takes(episodes: list[Episode]) -> None:
    from gap_vla.rlds.schema import Schema

    told = {"score": float("nan"), "peaks": np.array([1e-9, np.inf], np.float32), "tries": np.int64(2**62 + 1)}
    schema = Schema.of(one := episodes[0].replace(metadata=told))
    text = schema.encode(one)["episode_metadata"]["extra_json"]
    read = json.loads(text, parse_constant=pytest.fail)
    assert read == {"score": None, "peaks": [float(np.float32(1e-9)), None], "tries": 2**62 + 1}


def test_metadata_in_bytes_are_the_texts_that_h5py_means(episodes: list[Episode]) -> None:
    from gap_vla.rlds.schema import Schema, recorded

    told = {"episode_id": b"demo_0", "file_path": None, "opening_unit": np.bytes_(b"m"), "raw": b"\xff"}
    told |= {"by": {"who": b"Zo\xc3\xab", "tags": np.array([b"slow", b"left"]), "seen": np.array([b"a", 1], object)}}
    schema = Schema.of(one := episodes[0].replace(metadata=told))
    assert recorded(schema.encode(one)["episode_metadata"]) == {
        **{"episode_id": "demo_0", "file_path": "", "opening_unit": "m", "raw": r"b'\xff'"},
        "by": {"who": "Zoë", "tags": ["slow", "left"], "seen": ["a", 1]},
    }


def test_metadata_of_an_episode_are_stored_whole_and_the_same_in_every_process(episodes: list[Episode]) -> None:
    from gap_vla.rlds.schema import Schema

    def stored(**told: Any) -> Any:
        schema = Schema.of(one := episodes[0].replace(metadata=told))
        return json.loads(schema.encode(one)["episode_metadata"]["extra_json"])

    @dataclasses.dataclass
    class Calibration:
        offsets: Any

    day = np.datetime64("2024-01-01T00:00:00.5")
    assert stored(tags={"left", "slow", "night"}, taught=Calibration(np.array([1, np.nan]))) == {
        "tags": ["left", "night", "slow"],
        "taught": {"offsets": [1, None]},
    }
    assert stored(mass=np.longdouble("0.5"), day=day, days=[day], z=np.complex64(1 + 2j), steps={1: 2, 10: 3}) == {
        "mass": "0.5",
        "day": "2024-01-01 00:00:00.500000",
        "days": ["2024-01-01 00:00:00.500000"],
        "z": "(1+2j)",
        "steps": {"1": 2, "10": 3},
    }
    with pytest.raises(EpisodeError, match=r"metadata\.made_by is object; give texts, numbers"):
        stored(made_by=object())
    with pytest.raises(EpisodeError, match=r"metadata: '<' not supported .*; give texts for its names"):
        stored(steps={1: 2, "a": 3})


def test_metadata_names_annotator_and_identity(version_dir: Path) -> None:
    metadata = dataset_metadata(version_dir)
    assert metadata["annotator"] == {"method": "synthetic", "version": 1}
    assert len(metadata["identity_hash"]) == 16
    statistics = json.loads((version_dir / "dataset_statistics.json").read_text())
    assert set(statistics) == {"action", "proprio", "num_transitions", "num_trajectories"}
    assert set(statistics["action"]) == {"mean", "std", "max", "min", "p01", "p99", "q01", "q99", "mask"}


def test_same_episodes_same_bytes(tmp_path: Path, episodes: list[Episode]) -> None:
    first = write_rlds(episodes[:3], tmp_path / "a", "toy")
    second = write_rlds(iter(episodes[:3]), tmp_path / "b", "toy", identity=dataset_metadata(first)["identity"]["data"])
    names = sorted(p.name for p in first.iterdir())
    assert names == sorted(p.name for p in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_identical_dataset_is_reused_and_a_different_one_is_noticed(tmp_path: Path, episodes: list[Episode]) -> None:
    path = write_rlds(episodes[:3], tmp_path, "toy")
    stamp = (path / "features.json").stat().st_mtime_ns
    assert write_rlds(episodes[:3], tmp_path, "toy") == path
    whole = write_rlds(episodes[:3], tmp_path, "whole", val_fraction=0)
    for same in (0.0, np.float32(0)):
        assert write_rlds(episodes[:3], tmp_path, "whole", val_fraction=same) == whole
    assert (path / "features.json").stat().st_mtime_ns == stamp
    for kind in (object, np.dtypes.StringDType()):  # as pandas gives texts
        again = [e.replace(phase=np.array([f" {name}"[1:] for name in e.phase], kind)) for e in episodes[:3]]
        assert write_rlds(again, tmp_path, "toy") == path
    with pytest.raises(DatasetError, match=r"val_fraction: 0\.1 then, 0\.5 now"):
        write_rlds(episodes[:3], tmp_path, "toy", val_fraction=0.5)
    with pytest.raises(DatasetError, match=r"data.content"):
        write_rlds(episodes[1:4], tmp_path, "toy")
    write_rlds(episodes[1:4], tmp_path, "toy", overwrite=True)
    assert {e.metadata["seed"] for e in read_rlds(path, "train")} <= {1, 2, 3}


def test_what_arrays_do_not_show_makes_another_dataset_too(tmp_path: Path) -> None:
    episodes = [make_episode(i, steps=12, annotated=False) for i in range(3)]
    labels = [{"rho": np.full(12, 0.5, np.float32), "change_point": np.zeros(12, bool)} for _ in episodes]
    path = write_rlds(episodes, tmp_path, "toy", labels=labels)
    assert write_rlds(episodes, tmp_path, "toy", labels=({**one, "rho": [0.5] * 12} for one in labels)) == path
    failed = [episodes[0].replace(success=not episodes[0].success), *episodes[1:]]
    renamed = [episodes[0].replace(metadata={**episodes[0].metadata, "episode_id": "other"}), *episodes[1:]]
    for other in (failed, renamed):
        with pytest.raises(DatasetError, match=r"made differently \(data\.content: '\w+' then, '\w+' now\)"):
            write_rlds(other, tmp_path, "toy", labels=labels)
    relabelled = [{**one, "rho": np.zeros(12, np.float32)} for one in labels]
    with pytest.raises(DatasetError, match=r"made differently \(data\.labels_hash: '\w+' then, '\w+' now\)"):
        write_rlds(episodes, tmp_path, "toy", labels=relabelled)
    with pytest.raises(DatasetError, match=r"data\.labels_hash: '\w+' then, not given now"):
        write_rlds(episodes, tmp_path, "toy")


@pytest.mark.parametrize(
    "given",
    [
        {"language_instruction": "\ud800"},
        {"phase": np.array(["\udcff"] * 12)},
        {"metadata": {"episode_id": "\udcff"}},
        {"metadata": {"note": "", 3: ""}},
    ],
)
def test_what_is_no_text_is_an_error_of_one_line(given: dict[str, Any], tmp_path: Path) -> None:
    episode = make_episode(0, steps=12).replace(**given)
    with pytest.raises(EpisodeError, match=r"cannot be stored: .*; give text that UTF-8 can|give a list of Episode, w"):
        write_rlds([episode], tmp_path, "toy")
    assert not list(tmp_path.glob("toy/*"))


def test_names_of_phases_that_are_bytes_are_kept_as_text(tmp_path: Path) -> None:
    episode = make_episode(0, steps=12).replace(phase=np.array([b"reach"] * 12))
    (found,) = read_rlds(write_rlds([episode], tmp_path, "toy"))
    assert {*found.phase} == {"reach"}


def test_the_folder_above_a_link_is_that_of_what_it_leads_to(tmp_path: Path, episodes: list[Episode]) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    version = write_rlds(episodes, tmp_path / "link" / ".." / "data", "toy")
    assert len(list(read_rlds(version, "train"))) == len(list(read_rlds(tmp_path / "real/data/toy/1.0.0", "train")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_dataset_in_a_folder_of_a_group_is_the_groups_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    assert write_rlds([make_episode(0)], tmp_path, "toy", val_fraction=0).stat().st_mode & stat.S_ISGID


def test_a_link_to_another_dataset_is_not_written_through(tmp_path: Path) -> None:
    episodes = [make_episode(i, steps=12) for i in range(2)]
    one = write_rlds(episodes, tmp_path, "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "1.0.0").symlink_to(one)
    with pytest.raises(UserError, match=r"two/1\.0\.0 is a link; what it leads to would be replaced: remove the link"):
        write_rlds(episodes, tmp_path, "two", overwrite=True)
    assert dataset_metadata(one)["identity"]["name"] == "one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proprio": np.zeros((12, 8), np.float32)}, "demo_2: proprio_dim is 8, the first episode has 9"),
        ({"action": np.full((12, 7), np.nan, np.float32)}, "demo_2: action is NaN or infinite at step 0"),
        ({"images": {"image_primary": np.zeros((12, 8, 8, 3), np.uint8)}}, "demo_2: images is"),
        ({"rho": None, "change_point": None}, "demo_2: rho is False"),
        ({"rho": None}, "demo_2: change_point without rho; annotate again"),
    ],
)
def test_a_bad_episode_leaves_no_dataset(tmp_path: Path, change: dict, message: str) -> None:
    good = [make_episode(i, steps=12) for i in range(4)]
    bad = [*good[:2], good[2].replace(**change), good[3]]
    with pytest.raises(EpisodeError, match=message):
        write_rlds(bad, tmp_path / "new" / "data", "toy")
    assert list(tmp_path.iterdir()) == []
    write_rlds(good, tmp_path, "toy")
    assert not list((tmp_path / "toy").glob(".*"))


def test_an_account_that_a_killed_writer_had_begun_is_removed(tmp_path: Path) -> None:
    account = "toy-val.tfrecord-00000-of-00001.json"
    (tmp_path / f".{account}.gap_vla-0c2nawek.partial").mkdir()
    (tmp_path / f".{account}.gap_vla-0c2nawek.partial" / account).write_text("{")
    remove_accounts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_labels_are_attached_to_their_episode(tmp_path: Path, episodes: list[Episode]) -> None:
    source = open_source(write_robomimic(tmp_path / "d.hdf5", episodes))
    labels = [{"rho": e.rho, "change_point": e.change_point} for e in episodes]
    path = write_rlds(source, tmp_path, "toy", labels=labels, val_fraction=0.2)
    for episode in read_rlds(path, "train"):
        assert_equal(episode, episodes[int(episode.metadata["episode_id"].split("_")[1])])


KILLED = """
import sys, os, signal
from gap_vla.demos import open_source
from gap_vla.demos.source import Source
from gap_vla.rlds import builder, shards, write_rlds
source, home, die_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
shards.MAX_EPISODES_PER_SHARD = 2
written = 0
original = shards.Schema.encode
def encode(self, episode):
    global written
    written += 1
    if written == die_after:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, episode)
shards.Schema.encode = encode
print(write_rlds(open_source(source), home, "toy"), written)
"""


def test_a_killed_conversion_leaves_nothing_finished_and_continues(runner: Runner, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    file = write_robomimic(tmp_path / "d.hdf5", [make_episode(i, annotated=False) for i in range(8)])

    def convert(home: Path, die_after: int) -> Outcome:
        return runner.run(script, [str(file), str(home), str(die_after)], tmp_path, limit=600)

    assert convert(tmp_path / "a", 6).status == -signal.SIGKILL
    assert not (tmp_path / "a" / "toy" / "1.0.0").exists()
    again = convert(tmp_path / "a", 0)
    assert again.status == 0, again.stderr[-2000:]
    path, written = again.stdout.split()
    assert int(written) == 4  # two shards of two episodes were kept
    clean = convert(tmp_path / "b", 0)
    for file_b in Path(clean.stdout.split()[0]).iterdir():
        assert (Path(path) / file_b.name).read_bytes() == file_b.read_bytes(), file_b.name


def test_a_damaged_dataset_is_not_called_done_but_refused_or_replaced(tmp_path: Path, episodes: list[Episode]) -> None:
    path = write_rlds(episodes[:3], tmp_path, "toy", identity={"of": "three"})
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    [shard] = path.glob("*train*")
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(EpisodeError, match=f"{shard.name} is truncated or damaged"):
        write_rlds(episodes[:3], tmp_path, "toy", identity={"of": "three"})
    shard.unlink()
    with pytest.raises(EpisodeError, match=f"{shard.name} is missing"):
        write_rlds(episodes[:3], tmp_path, "toy", identity={"of": "three"})
    write_rlds(episodes[:3], tmp_path, "toy", identity={"of": "three"}, overwrite=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_others_put_where_a_dataset_is_made_stays(tmp_path: Path, episodes: list[Episode], kind: str) -> None:
    place = tmp_path / "toy" / ".1.0.0.partial"
    (tmp_path / "mine").mkdir()
    if kind == "folder":
        place.mkdir(parents=True)
    else:
        place.parent.mkdir()
    if kind == "link":
        place.symlink_to(tmp_path / "mine")
    theirs = place if kind == "file" else place / "thesis.tex"
    theirs.write_text("the only copy")
    with pytest.raises(DatasetError, match=r"\.1\.0\.0\.partial.*, without a mark of gap_vla; move it away"):
        write_rlds(episodes[:1], tmp_path, "toy")
    assert theirs.read_text() == "the only copy"


def test_what_lies_where_a_dataset_is_made_is_found_before_its_labels(tmp_path: Path, monkeypatch) -> None:
    write_robomimic(tmp_path / "demos.hdf5", [make_episode(i) for i in range(2)])
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / ".1.0.0.partial").write_text("the only copy")
    monkeypatch.setattr(Source, "without_images", lambda self: pytest.fail("labels were begun"))
    with pytest.raises(DatasetError, match=r"\.1\.0\.0\.partial lies where"):
        build_dataset(tmp_path / "demos.hdf5", tmp_path, "toy", method="fixed")


def test_two_writers_of_one_dataset_exclude_each_other(tmp_path: Path, episodes: list[Episode]) -> None:
    with unfinished(tmp_path / "toy" / "1.0.0", {}), pytest.raises(InUseError, match="in use by process"):
        write_rlds(episodes[:2], tmp_path, "toy")
    write_rlds(episodes[:2], tmp_path, "toy")


@pytest.mark.parametrize("method", ["gaussian", pytest.param("none", marks=pytest.mark.slow)])
def test_a_source_that_is_replaced_while_it_is_converted_gives_no_dataset(tmp_path, monkeypatch, method) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", [make_episode(i) for i in range(3)])
    lengths = 5 if method == "gaussian" else 0  # episodes of other lengths: their labels do not fit
    new = write_robomimic(tmp_path / "new.hdf5", [make_episode(i + lengths) for i in range(3)])
    write = builder._write_all

    def replacing(*arguments):
        new.replace(path)
        return write(*arguments)

    with monkeypatch.context() as patched, pytest.raises(EpisodeError, match=r"demos\.hdf5 changed while it was read"):
        patched.setattr(builder, "_write_all", replacing)
        build_dataset(path, tmp_path / "data", "toy", method=method, workers=1)
    assert not [*(tmp_path / "data").rglob("*.tfrecord*")]
    assert build_dataset(path, tmp_path / "data", "toy", method=method, workers=1).is_dir()


def test_a_recording_that_comes_after_the_folder_was_listed_is_not_left_out_for_good(tmp_path: Path) -> None:
    folder = tmp_path / "npz"
    folder.mkdir()
    for i, episode in enumerate(make_episode(i) for i in range(3)):
        np.savez(folder / f"episode_{i}.npz", proprio=episode.proprio, action=episode.action)
    source = open_source(folder, "npz")
    shutil.copy(folder / "episode_0.npz", folder / "episode_9.npz")
    with pytest.raises(EpisodeError, match=r"episode_9\.npz came while .*npz was read; give the same command when"):
        build_dataset(source, tmp_path / "data", "toy", method="none", workers=1)
    assert not [*(tmp_path / "data").rglob("*.tfrecord*")]


def test_a_conversion_finds_before_its_work_that_the_place_is_taken(tmp_path: Path, monkeypatch) -> None:
    source = open_source(write_robomimic(tmp_path / "demos.hdf5", [make_episode(i) for i in range(3)]))
    path = build_dataset(source, tmp_path, "toy", method="none", workers=1)
    monkeypatch.setattr("gap_vla.rlds.convert.AnnotationJob", None)
    with pytest.raises(DatasetError, match=r"made differently \(val_fraction: 0\.1 then, 0\.5 now\); choose"):
        build_dataset(source, tmp_path, "toy", method="none", val_fraction=0.5, workers=1)
    (tmp_path / "renamed").mkdir()
    shutil.copytree(path, tmp_path / "renamed" / "1.0.0")
    with pytest.raises(DatasetError, match=r"made differently \(name: 'toy' then, 'renamed' now\)"):
        build_dataset(source, tmp_path, "renamed", method="none", workers=1)
    with alone_at(path), pytest.raises(InUseError, match="in use by process"):
        build_dataset(source, tmp_path, "toy", method="none", val_fraction=0.5, workers=1, overwrite=True)


def test_splits_are_disjoint_complete_and_have_a_validation_episode() -> None:
    for n in (1, 2, 3, 7, 100):
        for fraction in (0.0, 0.01, 0.1, 0.5):
            splits = plan_splits(n, fraction)
            assert sorted(i for part in splits.values() for i in part) == list(range(n))
            assert ("val" in splits) == (fraction > 0 and n > 1)
    with pytest.raises(DatasetError, match="val_fraction"):
        plan_splits(3, 1.0)


def test_shards_are_bounded_by_memory() -> None:
    assert plan_shards(range(5), 2**40) == [(i,) for i in range(5)]
    assert [len(s) for s in plan_shards(range(70), 1)] == [32, 32, 6]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a tiny file system")
def test_a_full_disk_is_said_and_leaves_nothing_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gap_vla.core.resources.free_disk", lambda folder: 2**40)  # as it was before others wrote to it
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        big = [make_episode(i, steps=40, size=64) for i in range(4)]
        with pytest.raises(DatasetError, match="no space left"):
            write_rlds(big, disk, "toy")
        assert not (disk / "toy" / "1.0.0").exists()
    finally:
        for _ in range(20):
            if subprocess.run(["umount", str(disk)], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)


def test_episodes_that_the_disk_cannot_hold_are_refused_before_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.core.resources.free_disk", lambda folder: 100)
    with pytest.raises(ResourceError, match=r"of disk in .* are needed \(2 episodes.* KiB are free; lower"):
        write_rlds([make_episode(0), make_episode(1)], tmp_path, "dots", annotator={}, identity={})
    assert not (tmp_path / "dots" / "1.0.0").exists()


def test_a_job_that_is_sent_elsewhere_carries_its_own_episodes_alone(tmp_path: Path) -> None:
    def runner(jobs: list[ShardJob]) -> list[dict[str, Any]]:
        assert [len(job.source) for job in jobs] == [32, 1, 4]
        return [write_shard(job) for job in jobs]

    many = [make_episode(i, steps=12, size=4) for i in range(37)]
    found = write_rlds(many, tmp_path / "there", "toy", runner=runner)
    here = write_rlds(many, tmp_path / "here", "toy")
    for shard in here.glob("*.tfrecord-*"):
        assert shard.read_bytes() == (found / shard.name).read_bytes()


def test_an_episode_that_no_reader_could_parse_is_not_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("gap_vla.rlds.shards.MOST_BYTES", 20_000)  # of 16 KiB of pictures that do not compress
    write_rlds([make_episode(0, steps=12)], tmp_path, "toy")
    with pytest.raises(EpisodeError, match=r"demo_1: .* bytes with its pictures compressed, a record holds 20,000"):
        write_rlds([make_episode(0, steps=12), make_episode(1, steps=60)], tmp_path, "long", val_fraction=0)


def test_a_version_with_leading_zeros_is_none():
    with pytest.raises(DatasetError, match=r"dataset version '01\.0\.0': give three numbers"):
        check_names("toy", "01.0.0")


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_an_account_of_a_shard_that_was_cut_is_made_again(tmp_path: Path, suffix: str) -> None:
    from gap_vla.rlds.schema import Schema

    episodes, path = [make_episode(i) for i in range(2)], tmp_path / "toy-train.tfrecord-00000-of-00001"
    job = ShardJob(episodes, (0, 1), None, Schema.of(episodes[0]), path)
    account, file = write_shard(job), tmp_path / f"{job.path.name}.{suffix}"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert write_shard(job) == account and file.read_bytes() == whole
