"""ρ and change points written into a new version of an RLDS dataset."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from annotating_demos import demos, read_episode, write_hdf5

import gap_vla
from gap_vla.core.episode import EpisodeError
from gap_vla.phases import annotate, load_annotator
from gap_vla.rlds.annotating import AnnotationError, annotate_files
from gap_vla.rlds.annotating.files import show_episode


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A dataset of four episodes, two of them held out; `corners` is a copy."""
    from gap_vla.rlds import write_rlds

    return write_rlds(demos(4), tmp_path_factory.mktemp("kept"), "corners", val_fraction=0.5)


@pytest.fixture
def corners(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "corners" / "1.0.0")


def test_an_rlds_version_keeps_every_feature_byte_for_byte(corners):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from gap_vla.rlds import read_rlds

    old = corners
    files = {p.name: p.read_bytes() for p in old.iterdir() if p.is_file()}
    new = annotate_files(old, old.parent / "1.1.0", method="gaussian").path
    assert {p.name: p.read_bytes() for p in old.iterdir() if p.is_file()} == files

    for split in ("train", "val"):
        for before, after in zip(_records(tf, old, split), _records(tf, new, split), strict=True):
            assert set(after) - set(before) == {"steps/rho", "steps/change_point"}
            assert all(after[key] == before[key] for key in before)
        for episode in read_rlds(new, split):
            assert np.flatnonzero(episode.change_point).tolist() == [20, 40, 60]
            assert episode.rho[20] == 1
    builder = tfds.builder_from_directory(str(new))
    assert str(builder.info.version) == "1.1.0"
    assert builder.info.splits["train"].num_examples == 2
    again = annotate(list(read_rlds(old, "train")), method="gaussian")
    assert json.loads((new / "metadata.json").read_text())["annotator"] == again.identity
    with pytest.raises(AnnotationError, match="must be a version such as"):
        annotate_files(old, old.parent / "labelled")
    with_hands = annotate_files(old, old.parent / "1.3.0", method="gaussian", extra="action").annotation
    assert with_hands.annotator.options.dead_band.extra > again.annotator.options.dead_band.extra
    with pytest.raises(AnnotationError, match=r"train\[0\]: no 'steps/hands' \(found: steps/action"):
        annotate_files(old, old.parent / "1.4.0", extra="hands")
    with pytest.raises(EpisodeError, match=r"no split 'test'; it has train, val"):
        read_episode(old, 0, split="test")
    with pytest.raises(AnnotationError, match=r"split val: no episode 2; it has 2, from 0 to 1"):
        read_episode(old, 2, split="val")
    assert read_episode(new, 1, split="val").images["image_primary"].shape == (80, 16, 16, 3)
    relabelled = annotate_files(new, new.parent / "1.2.0", method="fixed").path
    assert set(next(read_rlds(relabelled, "val")).rho.tolist()) == {0.5}


def test_what_is_held_out_changes_nothing_that_is_fitted(tmp_path):
    """Recordings of `val` may be wild: dead-bands, penalty, LSTM and statistics are those of `train`."""
    from gap_vla.rlds import build_dataset, dataset_metadata, read_rlds
    from gap_vla.rlds.shards import plan_splits

    calm = demos(6)
    far = np.array([10, 10, 10, 1, 1, 1, 1, 10, 10], np.float32)
    wild = [e.replace(proprio=far * e.proprio, action=e.action / 2) if i in (1, 4) else e for i, e in enumerate(calm)]
    assert plan_splits(6, 0.34)["val"] == [1, 4]
    made, fitted, statistics = [], [], []
    for name, episodes in (("calm", calm), ("wild", wild)):
        (tmp_path / name).mkdir()
        file = write_hdf5(tmp_path / name / "demos.hdf5", episodes)
        path = build_dataset(file, tmp_path / name, "corners", val_fraction=0.34, workers=1, options={"epochs": 1})
        made.append(path)
        fitted.append(dataset_metadata(path)["annotator"])
        statistics.append((path / "dataset_statistics.json").read_text())
    assert fitted[0] == fitted[1]
    assert statistics[0] == statistics[1]
    assert json.loads(statistics[0])["num_trajectories"] == 4
    labelled = annotate_files(made[1], made[1].parent / "1.1.0", options={"epochs": 1})
    assert labelled.annotation.identity == fitted[0]
    assert labelled.annotation.report["fitted_episodes"] == 4
    for split in ("train", "val"):
        for one, other in zip(read_rlds(made[1], split), read_rlds(labelled.path, split), strict=True):
            assert one.rho.tobytes() == other.rho.tobytes(), "adding ρ goes one way, whichever command does it"


def test_an_rlds_version_of_several_shards_is_labelled_in_their_order(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from gap_vla.rlds import read_rlds, write_rlds

    old = write_rlds(demos(5), tmp_path, "corners", val_fraction=0.0)
    _reshard(tf, old, "train", 3)
    new = annotate_files(old, old.parent / "1.1.0", method="gaussian").path
    shards = sorted(path.name for path in new.glob("*.tfrecord*"))
    assert shards == [f"corners-train.tfrecord-{k:05d}-of-00003" for k in range(3)]
    for name in shards:
        for before, after in zip(_examples(tf, old / name), _examples(tf, new / name), strict=True):
            assert all(after[key] == before[key] for key in before) and len(after) == len(before) + 2
    builder = tfds.builder_from_directory(str(new))
    assert builder.info.splits["train"].shard_lengths == [2, 2, 1]
    again = annotate(list(read_rlds(old, "train")), method="gaussian")
    assert [e.rho.tobytes() for e in read_rlds(new, "train")] == [r.tobytes() for r in again.rho]
    assert read_episode(new, 4).rho.tobytes() == again.rho[4].tobytes()


def test_a_bad_value_in_a_record_is_named_and_nothing_appears(corners):
    import tensorflow as tf

    old = corners
    (shard,) = old.glob("*-train.tfrecord*")
    records = [tf.train.Example.FromString(r) for r in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()]
    records[1].features.feature["steps/observation/proprio"].float_list.value[7 * 9 + 2] = float("nan")
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record.SerializeToString())
    with pytest.raises(EpisodeError, match=r"1\.0\.0, train\[1\]: .*proprio' is NaN .* at step 7, column 2"):
        annotate_files(old, old.parent / "1.1.0", method="gaussian")
    assert [path.name for path in old.parent.iterdir()] == ["1.0.0"]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(EpisodeError, match=r"corners-train\.tfrecord.* is truncated or damaged"):
        annotate_files(old, old.parent / "1.1.0", method="gaussian")


def test_every_record_is_counted_before_and_after(tmp_path, monkeypatch):
    import tensorflow as tf

    from gap_vla.rlds import read_rlds, write_rlds
    from gap_vla.rlds.annotating import rlds_files

    old = write_rlds(demos(3), tmp_path, "corners", val_fraction=0.0)
    (shard,) = old.glob("*-train.tfrecord*")
    whole, new = shard.read_bytes(), old.parent / "1.1.0"
    records = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())

    def refused(kind, message):
        with pytest.raises(kind, match=message):
            annotate_files(old, new, method="gaussian")
        with pytest.raises(EpisodeError, match=message):
            list(read_rlds(old, "train", compared=True))
        assert not new.exists()

    shard.write_bytes(b"")
    refused(EpisodeError, r"corners-train\.tfrecord.* is empty, dataset_info.json says 3 episodes")
    shard.write_bytes(whole[: len(whole) - len(records[-1]) - 16])  # 16: a record's lengths and checksums
    refused(EpisodeError, r"corners-train\.tfrecord.* holds 2, dataset_info.json says 3 episodes")
    shard.unlink()
    refused(EpisodeError, r"corners-train\.tfrecord.* is missing")
    shard.write_bytes(whole)
    read = rlds_files.records

    def cut_off(file, *error):
        return read(file, *error) if file == shard else iter(records[:2])

    monkeypatch.setattr(rlds_files, "records", cut_off)
    with pytest.raises(AnnotationError, match="was read back and came out different"):
        annotate_files(old, new, method="gaussian")
    assert not new.exists()


def test_files_and_links_within_the_dataset_are_copied(corners):
    (corners / "more").mkdir()
    (corners / "more" / "words.txt").write_text("kept")
    (corners / "link.txt").symlink_to("more/words.txt")
    new = annotate_files(corners, corners.parent / "1.1.0", method="gaussian").path
    assert (new / "link.txt").read_text() == (new / "more" / "words.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (os.mkfifo, "pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "zeros"),
        (lambda path: path.symlink_to("/"), "root"),
        (lambda path: path.symlink_to(__file__), "notes"),
        (lambda path: path.symlink_to(path.name), "loop"),
        (lambda path: path.symlink_to("."), "itself"),
    ],
)
def test_what_is_no_file_of_the_dataset_is_not_copied(corners, make, name):
    old = corners
    (old / "more").mkdir()
    make(old / "more" / name)
    with pytest.raises(AnnotationError, match=rf"1\.0\.0/more/{name} is a pipe, a device or a link .* remove it"):
        annotate_files(old, old.parent / "1.1.0", method="gaussian")
    assert [path.name for path in old.parent.iterdir()] == ["1.0.0"]


@pytest.mark.parametrize(
    ("old_text", "new_text"),
    [
        ('["7"]', '["8"]'),
        ('["7"]', '["100000000000"]'),
        pytest.param('"reward"', '"no_reward"', marks=pytest.mark.slow),
    ],
)
def test_records_that_features_json_does_not_describe_get_no_copy(corners, old_text, new_text):
    old = corners
    features = json.dumps(json.loads((old / "features.json").read_text()))
    assert old_text in features
    (old / "features.json").write_text(features.replace(old_text, new_text))
    with pytest.raises(EpisodeError, match=r"features\.json: steps/\w+ is .*, by metadata\.json it was written as"):
        annotate_files(old, old.parent / "1.1.0", method="gaussian")
    (old / "metadata.json").unlink()
    with pytest.raises(
        EpisodeError, match=r"split train, episode 0: unreadable .*features\.json is of another dataset"
    ):
        annotate_files(old, old.parent / "1.1.0", method="gaussian")


@pytest.mark.parametrize("damaged", [50_000 * b"[", b"\xff\xfe{", b""])
def test_damaged_statistics_are_not_copied(damaged, corners):
    (corners / "dataset_statistics.json").write_bytes(damaged)
    with pytest.raises(AnnotationError, match=r"dataset_statistics\.json: not valid JSON"):
        annotate_files(corners, corners.parent / "1.1.0", method="gaussian")
    assert not (corners.parent / "1.1.0").exists()


def test_a_split_that_is_listed_twice_is_refused(corners):
    old = corners
    info = json.loads((old / "dataset_info.json").read_text())
    (old / "dataset_info.json").write_text(json.dumps({**info, "splits": info["splits"] * 2}))
    with pytest.raises(EpisodeError, match=r"dataset_info\.json lists a split twice"):
        annotate_files(old, old.parent / "1.1.0", method="gaussian")


def test_a_split_without_episodes_is_refused_in_one_line(corners, caplog):
    from gap_vla.rlds import read_rlds

    old = corners
    info = json.loads((old / "dataset_info.json").read_text())
    next(split for split in info["splits"] if split["name"] == "val")["shardLengths"] = ["0"]
    (old / "dataset_info.json").write_text(json.dumps(info))
    next(old.glob("*-val.tfrecord*")).write_bytes(b"")
    with pytest.raises(EpisodeError, match="split val: it holds no episodes; convert the dataset again, with some"):
        next(iter(read_rlds(old, "val", compared=True)))
    assert not caplog.records


def test_features_of_other_libraries_are_not_imported(corners, tmp_path, monkeypatch):
    old = corners
    (tmp_path / "hostile_features.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((old / "features.json").read_text())
    features["featuresDict"]["features"]["steps"]["pythonClassName"] = "hostile_features.Steps"
    (old / "features.json").write_text(json.dumps(features))
    with pytest.raises(
        EpisodeError, match=r"features.json: a feature of class 'hostile_features.Steps'; only those of"
    ):
        annotate_files(old, old.parent / "1.1.0", method="gaussian")
    assert not (tmp_path / "ran").exists()


def _reshard(tf, folder, split, number):
    """Spreads a split of one shard over several, as TFDS would have written it."""
    (single,) = folder.glob(f"*-{split}.tfrecord*")
    records = list(tf.data.TFRecordDataset(str(single)).as_numpy_iterator())
    single.unlink()
    stem = single.name.rsplit("-", 3)[0]
    parts = np.array_split(np.arange(len(records)), number)
    for k, part in enumerate(parts):
        with tf.io.TFRecordWriter(str(folder / f"{stem}-{k:05d}-of-{number:05d}")) as writer:
            for i in part:
                writer.write(records[i])
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    (entry,) = [entry for entry in info["splits"] if entry["name"] == split]
    entry["shardLengths"] = [str(len(part)) for part in parts]
    path.write_text(json.dumps(info))
    (folder / "made_by.json").unlink()


def _examples(tf, path):
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        yield {key: value.SerializeToString(deterministic=True) for key, value in features.items()}


def _records(tf, folder, split):
    for path in sorted(folder.glob(f"*-{split}.tfrecord*")):
        if path.suffix in (".json", ".npz"):
            continue
        yield from _examples(tf, path)


def test_annotators_and_datasets_of_0_1_are_read_and_give_the_labels_that_they_gave(tmp_path):
    """Both were written by version 0.1.0 of the package, at commit 97ad8ee."""
    from gap_vla.rlds import read_rlds

    then = Path(__file__).parents[1] / "data" / "rlds" / "made_by_0.1.0"
    annotator = load_annotator(then / "annotator")
    episodes = list(read_rlds(then / "toy" / "1.0.0", "train"))
    again = annotator.annotate(episodes)
    for episode, rho, points in zip(episodes, again.rho, again.change_points, strict=True):
        np.testing.assert_allclose(rho, episode.rho, atol=1e-6)
        assert points.tolist() == np.flatnonzero(episode.change_point).tolist()


def test_what_labels_are_called_does_not_depend_on_the_version_of_the_package(monkeypatch, tmp_path):
    before = annotate(demos(2), method="gaussian")
    before.save(tmp_path / "saved")
    monkeypatch.setattr("gap_vla.__version__", "99.0.0")
    assert annotate(demos(2), method="gaussian").identity == before.identity
    assert load_annotator(tmp_path / "saved").identity == before.identity
    assert gap_vla.__version__ not in json.dumps(before.identity)


@pytest.mark.usefixtures("blank_charts")
def test_a_dataset_that_was_changed_is_shown_with_a_note(corners, tmp_path, capsys):
    show_episode(corners, tmp_path / "e.png")
    assert "note:" not in capsys.readouterr().out
    (corners / "metadata.json").write_text((corners / "metadata.json").read_text() + " ")
    show_episode(corners, tmp_path / "e.png")
    assert f"note: {corners / 'metadata.json'} was changed since it was written; where" in capsys.readouterr().out


def test_the_state_of_a_dataset_is_no_extra(corners):
    with pytest.raises(AnnotationError, match="extra names 'observation/proprio', which is the state itself"):
        annotate_files(corners, corners.parent / "1.1.0", method="gaussian", extra="observation/proprio")
