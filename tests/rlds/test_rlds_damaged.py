"""Records and descriptions that cannot be right are refused by the readers for training, for labels and for pages."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import resource
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import encoder
from PIL import Image
from synthetic_demos import make_episode
from tensorflow.core.example import example_pb2, feature_pb2

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.marks import file_mark
from gap_vla.demos.layout import StateLayout
from gap_vla.rlds import EpisodeStore, read_rlds, write_rlds
from gap_vla.rlds.account import content_hash, identity_hash
from gap_vla.rlds.annotating import AnnotationJob, annotate_files
from gap_vla.rlds.annotating.files import show_episode
from gap_vla.rlds.annotating.rlds_files import read, read_all
from gap_vla.rlds.checking import check_dataset, record_checks, run
from gap_vla.rlds.checking.declared_checks import check_description
from gap_vla.rlds.checking.report import Recording
from gap_vla.rlds.reader import declared_limit, read_steps
from gap_vla.rlds.store import source_hash_of
from gap_vla.rlds.version_files import open_version

Damage = Callable[[Path], Any]
STEPS = 6

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
"""What is damaged like another one: the readers look at both in one way."""


def tiny(number: int) -> Episode:
    """With one camera: what a picture takes to decode is what TensorFlow takes to put together."""
    episode = make_episode(number, steps=STEPS, size=4)
    return episode.replace(images={"image_primary": episode.images["image_primary"]}, phase=None)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes, with their store beside them."""
    version = write_rlds([tiny(i) for i in range(2)], tmp_path_factory.mktemp("sound"), "toy", val_fraction=0.0)
    return EpisodeStore.build(version).directory.with_name(version.name)


def shard(version: Path) -> Path:
    (found,) = version.glob("[!.]*.tfrecord*")
    return found


def record(change: Callable[[Any], Any], which: slice = slice(1, 2)) -> Damage:
    """Changes the features of the second episode, or others; checksums are right."""

    def apply(version: Path) -> None:
        made = [
            tf.train.Example.FromString(r) for r in tf.data.TFRecordDataset(str(shard(version))).as_numpy_iterator()
        ]
        for example in made[which]:
            change(example.features.feature)
        with tf.io.TFRecordWriter(str(shard(version))) as writer:
            for example in made:
                writer.write(example.SerializeToString())

    return apply


def values(key: str, change: Callable[[list[Any]], list[Any]]) -> Damage:
    def apply(features: Any) -> None:
        kept = getattr(features[f"steps/{key}"], features[f"steps/{key}"].WhichOneof("kind")).value
        kept[:] = change(list(kept))

    return record(apply)


def at(step: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda kept: [value if i == step else old for i, old in enumerate(kept)]


def edited(name: str, change: Callable[[Any], Any]) -> Damage:
    def apply(version: Path) -> None:
        content = json.loads((version / name).read_text())
        change(content)
        (version / name).write_text(json.dumps(content))

    return apply


def step_features(content: Any) -> Any:
    return content["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]


def appended(content: bytes) -> Damage:
    return lambda version: shard(version).write_bytes(shard(version).read_bytes() + content)


def lengths(number: int) -> Damage:
    return edited("dataset_info.json", lambda v: v["splits"][0].update(shardLengths=[str(number)]))


PICTURES = "observation/image_primary"


@pytest.fixture(scope="module")
def recordings(sound: Path) -> list[Recording]:
    """As the checker reads them."""
    return list(run._recordings(sound, "train", "observation/proprio", StateLayout(), None))


@pytest.mark.parametrize(
    ("damage", "said"),
    {
        "action NaN": (values("action", at(2, np.nan)), "action is NaN or infinite at step 0"),
        "action 1e30": (values("action", at(9, 1e30)), r"action is 1e\+30 at step 1, column 2"),
        "no action": (record(lambda f: f.pop("steps/action")), "steps/action has 0 steps, most have 6"),
        "long action": slow(values("action", lambda v: v + v[:7]), "steps/action has 7 steps, most have 6"),
        "odd action": (values("action", lambda v: v[1:]), "episode 1: unreadable .*steps/action.*divisible by 7"),
        "reward": (values("reward", at(3, np.inf)), "reward is NaN or infinite at step 3"),
        "discount": slow(values("discount", at(3, np.nan)), "discount is NaN or infinite at step 3"),
        "is_first": (values("is_first", at(3, 1)), r"is_first is true at steps \[0, 3\] of 6, it must be at 0 only"),
        "no first": slow(values("is_first", at(0, 0)), r"is_first is true at steps \[\] of 6, it must be at 0 only"),
        "is_last": (values("is_last", at(0, 1)), r"is_last is true at steps \[0, 5\] of 6"),
        "no last": slow(values("is_last", at(5, 0)), r"is_last is true at steps \[\] of 6"),
        "is_terminal": (values("is_terminal", at(1, 1)), r"is_terminal is true at steps \[1.*\] of 6"),
        "no rho": (record(lambda f: f.pop("steps/rho")), r"episode 1: unreadable \(steps/rho has 0 steps"),
        "a picture more": (values(PICTURES, lambda v: v + v[:1]), "image_primary has 7 steps, most have 6"),
        "bytes behind": (appended(b"more"), "train.tfrecord.* is truncated or damaged|holds more than 2"),
        "zeros behind": (appended(bytes(16)), "holds more than 2, or is damaged, dataset_info.json says 2 episodes"),
        "a huge record": (appended(b"\xff" * 16), "holds more than 2, or is damaged, dataset_info.json says 2"),
        "array_record": (edited("dataset_info.json", lambda v: v.update(fileFormat="array_record")), "as tfrecord"),
        "a record of 2^60": (appended((2**60).to_bytes(8, "little") + bytes(8)), "holds more than 2, or is damaged"),
        "padded names": (
            edited("dataset_info.json", lambda v: v["splits"][0].update(filepathTemplate="{SPLIT:0>1000000000}")),
            r"splits\[0\]\.filepathTemplate is '\{SPLIT:0>1000000000\}', no name; copy it again",
        ),
        "no name": (edited("dataset_info.json", lambda v: v.pop("name")), r"info\.json: name is missing; found"),
        "length -2": (lengths(-2), r"splits\[0\]\.shardLengths\[0\] is -2; it must be a whole number from 0"),
        "length 3": (lengths(3), "holds 2, dataset_info.json says 3 episodes"),
        "length 1": (lengths(1), "holds more than 1, or is damaged, dataset_info.json says 1 episodes"),
        "version": (edited("dataset_info.json", lambda v: v.update(version="9.9.9")), "9.9.9, its folder 1.0.0"),
        "float64": (
            edited("features.json", lambda v: step_features(v)["action"]["tensor"].update(dtype="float64")),
            "features.json: steps/action is .*float64.*, by metadata.json it was written as .*float32",
        ),
        "lost feature": (edited("features.json", lambda v: step_features(v).pop("rho")), "steps/rho is missing, by"),
    }.values(),
)  # fmt: skip
def test_damage_is_refused_by_every_reader(sound: Path, tmp_path: Path, damage: Damage, said: str) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    damage(version)
    with pytest.raises(UserError, match=said):
        list(read_rlds(version, "train", workers=1, compared=True))
    with pytest.raises(UserError, match=said):  # of labels, which reads no pictures
        read_all(version, AnnotationJob())


CHANGED = r".*(toy-train.tfrecord-00000-of-00001|metadata.json) (was changed since it was written|is missing); copy it"


@pytest.mark.parametrize(
    "damage",
    {
        "rho": values("rho", at(2, 0.123)),
        "success": record(lambda f: f["episode_metadata/success"].int64_list.value.__setitem__(0, 0)),
        "instruction": values("language_instruction", lambda kept: [b"another"] * len(kept)),
        "reward": values("reward", at(2, 1.0)),
        "annotator": edited("metadata.json", lambda v: v.update(annotator={"method": "gaussian", "hash": "x"})),
        "reader": edited("metadata.json", lambda v: v["identity"]["data"].update(kind="lerobot")),
        "lost": lambda version: (version / "metadata.json").unlink(),
    }.values(),
)
def test_what_was_changed_since_it_was_written_is_not_trained_on(sound: Path, tmp_path: Path, damage: Damage) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    shutil.copytree(f"{sound}.store", f"{version}.store")  # a finished one helps nothing
    assert EpisodeStore.build(version).split("train").steps == 2 * STEPS
    damage(version)
    with pytest.raises(UserError, match=CHANGED):
        EpisodeStore.build(version)


@pytest.mark.parametrize(
    "damage", [values("rho", at(2, 0.123)), slow(lambda version: (version / "metadata.json").unlink())]
)
def test_what_was_changed_since_it_was_written_is_neither_labelled_nor_found_right(
    sound: Path, tmp_path: Path, damage: Damage
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    damage(version)
    with pytest.raises(UserError, match=CHANGED):
        annotate_files(version, tmp_path / "toy" / "1.1.0", AnnotationJob(method="gaussian"))
    found = [finding for finding in check_dataset(version, pictures=0).findings if finding.check == "files"]
    assert [finding.level for finding in found] == ["error"] and re.match(CHANGED, found[0].message)
    (version / "made_by.json").unlink()
    assert len(read_all(version, AnnotationJob())) == 2


def test_others_data_that_were_repaired_are_read_again(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    for ours in ("made_by.json", "metadata.json"):
        (version / ours).unlink()
    assert EpisodeStore.build(version).split("train").fields["rho"][STEPS + 2] != np.float32(0.123)
    size = shard(version).stat().st_size
    values("rho", at(2, 0.123))(version)
    assert shard(version).stat().st_size == size
    assert EpisodeStore.build(version).split("train").fields["rho"][STEPS + 2] == np.float32(0.123)
    kept = shard(version).rename(tmp_path / "kept")
    (version / shard(sound).name).symlink_to(kept)
    before = source_hash_of(version)
    values("rho", at(2, 0.321))(version)
    assert shard(version).is_symlink() and source_hash_of(version) != before


def test_an_episode_of_two_tasks_is_refused(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    (version / "made_by.json").unlink()
    values("language_instruction", at(3, b"another"))(version)
    with pytest.raises(UserError, match="the instruction changes at step 3; make an episode of each task"):
        EpisodeStore.build(version)
    found = [one for one in check_dataset(version, pictures=0).findings if one.check == "language"]
    assert [one.level for one in found] == ["error"]


def test_shards_that_are_links_to_where_they_are_kept_are_read(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    kept = shard(version).rename(tmp_path / "kept")
    (version / shard(sound).name).symlink_to(kept)
    assert "files" not in {finding.check for finding in check_dataset(version, pictures=0).findings}
    assert EpisodeStore.build(version).split("train").steps == 2 * STEPS


def test_a_link_to_another_shard_than_the_one_that_was_written_is_refused(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    others = write_rlds([tiny(i) for i in (5, 6)], tmp_path, "others", val_fraction=0.0)
    shard(version).unlink()
    (version / shard(sound).name).symlink_to(shard(others))
    with pytest.raises(UserError, match=r"toy-train\.tfrecord.* was changed since it was written; copy it again"):
        EpisodeStore.build(version)
    assert [f.level for f in check_dataset(version, pictures=0).findings if f.check == "files"] == ["error"]


@pytest.mark.parametrize("blank", [False, True])
def test_an_instruction_below_the_observation_is_taken_with_other_fields_by_name(
    sound: Path, tmp_path: Path, blank: bool
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    for name in ("made_by.json", "metadata.json"):
        (version / name).unlink()
    below = "natural_language_instruction"

    def moved(content: Any) -> None:
        step = step_features(content)
        step["observation"]["featuresDict"]["features"][below] = step["language_instruction"]
        if not blank:
            del step["language_instruction"]

    edited("features.json", moved)(version)
    here, there = "steps/language_instruction", f"steps/observation/{below}"
    blanks = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b" "] * STEPS))
    record(lambda f: (f[there].CopyFrom(f[here]), f[here].CopyFrom(blanks) if blank else f.pop(here)), slice(None))(
        version
    )
    for keys in (None, {"proprio": "observation/proprio"}):
        told = [episode.language_instruction for episode in read_rlds(version, keys=keys)]
        assert told == [tiny(i).language_instruction for i in range(2)] and all(told)
    record(lambda f: f[there].bytes_list.value.__setitem__(3, b"another"))(version)
    with pytest.raises(UserError, match=r"train\[1\]: the instruction changes at step 3"):
        list(read_rlds(version))


@pytest.mark.parametrize(("said", "success"), [(0.0, False), (np.nan, None)])
def test_success_of_others_data_is_a_truth_value(
    sound: Path, tmp_path: Path, said: float, success: bool | None
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    for name in ("made_by.json", "metadata.json"):
        (version / name).unlink()
    about = ("featuresDict", "features", "episode_metadata", "featuresDict", "features", "success", "tensor")
    edited("features.json", lambda v: functools.reduce(dict.get, about, v).update(dtype="float32"))(version)

    def stated(features: Any) -> None:
        features.pop("episode_metadata/success")
        features["episode_metadata/success"].float_list.value.append(said)

    record(stated, slice(None))(version)
    if success is None:
        with pytest.raises(UserError, match=r"train\[0\]: episode_metadata/success is nan.*, neither true nor fal"):
            list(read_rlds(version))
    else:
        assert [episode.success for episode in read_rlds(version)] == [success] * 2


def test_two_splits_of_one_file_are_refused(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    (version / "made_by.json").unlink()
    of_train = {"filepathTemplate": shard(version).name, "name": "val"}
    edited("dataset_info.json", lambda v: v["splits"].append({**v["splits"][0], **of_train}))(version)
    with pytest.raises(
        UserError, match=r"splits\[1\]: toy-train\.tfrecord.* is one of train, too; correct filepathTempl"
    ):
        EpisodeStore.build(version)


def test_what_others_and_file_systems_put_beside_the_shards_is_left_alone(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    name = shard(version).name
    for left in (f"._{name}", f"{name}_.gstmp", f"{name}.partial", f"{name} (1)"):  # a file system's, and copiers'
        (version / left).write_bytes(b"\0\5\26\7")
    (version / "made_by.json").unlink()
    for theirs in ({"annotator": "Alice"}, {"schema": "v2", "identity": "lab 3"}):
        (version / "metadata.json").write_text(json.dumps(theirs))
        with pytest.raises(UserError, match=rf"metadata.json: '{min(theirs)}' is somebody else's, and ours belongs th"):
            annotate_files(version, tmp_path / "toy" / "1.1.0", AnnotationJob(method="gaussian"))
    assert "files" not in {finding.check for finding in check_dataset(version, pictures=0).findings}
    assert EpisodeStore.build(version).split("train").steps == 2 * STEPS


def hash_of_all(version: Path, used_for: str) -> str:
    """`content_hash` as it was when it left out nothing but caches; runs and stores of then are known by it."""
    total = hashlib.sha256(used_for.encode())
    marked = (version / "made_by.json").exists()
    for path in sorted(version.iterdir()):
        if path.name.startswith("dataset_statistics_"):
            continue
        if path.name == "made_by.json":
            mark = json.loads(path.read_bytes())
            names = {**mark, "files": list(mark.get("files", ()))}
            total.update(f"{path.name}{json.dumps(names, indent=1)}\n".encode())
        elif path.suffix == ".json":
            total.update(path.name.encode() + path.read_bytes())
        elif path.is_file():
            file = Path(os.path.realpath(path))
            total.update(f"{path.name}{file.stat().st_size if marked else file_mark(file)}".encode())
    return total.hexdigest()[:16]


def without_mark(version: Path) -> None:
    (version / "made_by.json").unlink()


def of_others(version: Path) -> None:
    """With a page, a cache and TFDS' index of a shard, and names of shards that end in a point and a word."""
    without_mark(version)
    (version / "README.md").write_text("# Toy")
    name = shard(version).rename(version / "train.tfrecord").name
    (version / f"{name}_index.json").write_text('{"index": []}')
    (version / "dataset_statistics_0123.json").write_text("{}")
    edited("dataset_info.json", lambda v: v["splits"][0].update(filepathTemplate="{SPLIT}.{FILEFORMAT}"))(version)


@pytest.mark.parametrize("kind", [None, without_mark, of_others])
def test_what_others_and_file_systems_put_beside_a_dataset_makes_it_no_other_data(
    kind: Callable[[Path], None] | None, sound: Path, tmp_path: Path
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    if kind:
        kind(version)
    before = content_hash(version, "a store")
    assert before == hash_of_all(version, "a store")
    (name,) = [path.name for path in version.glob("*train*") if path.suffix != ".json"]
    strange = [".DS_Store", ".nfs000000000abc", f"{name}_.gstmp", f"{name}~", f"{name}.partial", "features.json~"]
    for left in (*strange, *(["README.md", "extra.json"] if kind is None else [])):
        (version / left).write_bytes(b"\0")
        assert content_hash(version, "a store") == before, left
    for own in ("dataset_info.json", name):
        (version / own).write_bytes((version / own).read_bytes() + b" ")
        assert before != (before := content_hash(version, "a store")), own


@pytest.mark.parametrize("kind", ["other-train.tfrecord-00000-of-00001", "{shard}0", "{shard}-00000-of-00002"])
def test_a_shard_that_no_split_has_is_refused(kind: str, sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    (version / "made_by.json").unlink()
    shutil.copy(shard(version), version / (name := kind.format(shard=shard(version).name)))
    with pytest.raises(UserError, match=rf"has no split with {name}, which lies beside it; move that file away"):
        EpisodeStore.build(version)


def test_a_dataset_in_a_folder_that_is_a_link_is_read(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "1.0.0").symlink_to(sound)
    assert "files" not in {f.check for f in check_dataset(tmp_path / "toy" / "1.0.0", pictures=0).findings}
    assert EpisodeStore.build(tmp_path / "toy" / "1.0.0").split("train").steps == 2 * STEPS


def test_no_page_shows_an_episode_without_one_of_its_pictures(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    for content in (b"<html>no picture</html>", b"", b"\x89PNG cut"):
        values(PICTURES, at(2, content))(version)
        with pytest.raises(UserError, match="split train, episode 1: unreadable"):
            read(version, 1, AnnotationJob(), "train")
    assert read(version, 0, AnnotationJob(), "train").images["image_primary"].shape == (STEPS, 4, 4, 3)


def of_zeros(side: int, depth: int = 8) -> bytes:
    """A PNG of some kilobytes and 3 `side`² numbers of 8 or 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    rows = zlib.compressobj()
    packed = b"".join(rows.compress(bytes(3 * side * depth // 8 + 1)) for _ in range(side)) + rows.flush()
    head = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([depth]) + b"\x02\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_pictures_that_are_larger_than_declared_are_refused_before_they_are_decoded(
    sound: Path, tmp_path: Path
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    values(PICTURES, lambda stored: [of_zeros(9000)] * len(stored))(version)
    (version / "made_by.json").unlink()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"a picture of other size than \[4, 4, 3\]"):
        list(read_steps(version, "train"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17, "KiB: one picture has 243 MB"


def test_pictures_of_16_bits_are_not_read_as_bytes(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    values(PICTURES, at(2, of_zeros(4, 16)))(version)
    with pytest.raises(UserError, match=r"episode 1: unreadable .*a picture of 16 bits a channel, which is declared"):
        list(read_steps(version, "train"))


@pytest.mark.parametrize(
    ("damage", "said"),
    {
        "success": (
            record(lambda f: f["episode_metadata/success"].int64_list.value.__setitem__(0, 7)),
            "episode_metadata/success is stored as 7, and declared as bool",
        ),
        "is_terminal": (values("is_terminal", at(5, 255)), "steps/is_terminal is stored as 255, .* bool at step 5"),
        "reward": (
            lambda version: (
                edited("features.json", lambda v: step_features(v)["reward"]["tensor"].update(dtype="uint8"))(version),
                record(_whole_rewards, slice(None))(version),
            ),
            "steps/reward is stored as -1, and declared as uint8 at step 4",
        ),
    }.values(),
)
def test_numbers_that_their_dtype_does_not_hold_are_refused_and_named(
    sound: Path, tmp_path: Path, damage: Damage, said: str
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    for name in ("made_by.json", "metadata.json"):
        (version / name).unlink()
    damage(version)
    with pytest.raises(UserError, match=rf"train\[.\]: {said}"):
        list(read_rlds(version))
    with pytest.raises(UserError, match=said):
        annotate_files(version, tmp_path / "1.1.0", method="gaussian")
    assert not (tmp_path / "1.1.0").exists()
    with pytest.raises(UserError, match=said):
        read(version, 1, AnnotationJob(), "train")
    found = [str(f) for f in check_dataset(version, pictures=0).findings if f.check == "declared"]
    assert found and all(re.search(said.split(" at step")[0], text) for text in found)


def _whole_rewards(features: Any) -> None:
    features.pop("steps/reward")
    features["steps/reward"].int64_list.value.extend([0, 0, 1, 0, -1, 0])


def _jpeg(change: Callable[[bytearray], Any] = len, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        stream, "jpeg", **options
    )
    change(content := bytearray(stream.getvalue()))
    return bytes(content)


def _png(mode: str = "RGB", colour: Any = 0, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(stream, "png", **options)
    return stream.getvalue()


def _cut(content: bytearray) -> None:
    content[len(content) // 2 :] = b"\xff\xd9"


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


def test_pictures_of_another_format_than_is_said_or_than_those_before_are_named() -> None:
    step = tfds.features.Dataset({"film": tfds.features.Image(shape=(64, 64, 3), encoding_format="png")})
    features, example = tfds.features.FeaturesDict({"steps": step}), tf.train.Example()
    film = example.features.feature["steps/film"].bytes_list.value
    for pictures, level, said in (
        ([_png(), _png()], "", ""),
        ([_jpeg(), _jpeg()], "note", "is JPEG, features.json says png"),
        ([_png(), _jpeg()], "warning", "is JPEG, PNG before"),
    ):
        film[:] = pictures
        found = [*record_checks.check_example(example, features, "train[0]")]
        assert [f.level for f in found] == [level] * bool(level) and all(said in f.message for f in found)


def _paletted(*colour: int) -> bytes:
    """Of one colour; the other one in the palette is not shown."""
    picture, stream = Image.new("P", (64, 64), 0), io.BytesIO()
    picture.putpalette([*colour, 250, 0, 0])
    picture.save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("picture", "found"),
    [(_png("RGB", (7, 8, 9)), 1), (_png("L", 7), 0), (_paletted(7, 8, 9), 1), (_paletted(7, 7, 7), 0)],
    ids=["three channels", "one channel", "palette", "grey palette"],
)
def test_pictures_in_colours_that_are_declared_grey_are_named(picture: bytes, found: int) -> None:
    step = tfds.features.Dataset({"film": tfds.features.Image(shape=(64, 64, 1), encoding_format="png")})
    features, example = tfds.features.FeaturesDict({"steps": step}), tf.train.Example()
    example.features.feature["steps/film"].bytes_list.value.extend([picture] * 2)
    told = [one.message for one in record_checks.check_example(example, features, "train[0]")]
    assert len(told) == found and all("is in colours, features.json declares one channel" in one for one in told)


@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_that_are_seen_through_are_named_also_where_alpha_is_declared(channels: int) -> None:
    step = tfds.features.Dataset({"film": tfds.features.Image(shape=(64, 64, channels), encoding_format="png")})
    features, example = tfds.features.FeaturesDict({"steps": step}), tf.train.Example()
    film = example.features.feature["steps/film"].bytes_list.value
    for alpha, level in ((255, []), (120, ["warning"])):
        film[:] = [_png("RGBA", (0, 0, 0, alpha))]
        found = [*record_checks.check_example(example, features, "train[0]")]
        assert [f.level for f in found] == level and all("its alpha is not read" in f.message for f in found)


@pytest.mark.parametrize(
    ("picture", "level", "said"),
    {
        "sound": (_jpeg(), "", ""),
        "cut": (_jpeg(_cut), "error", "is a damaged JPEG .*premature end of data"),
        "zeros": (_jpeg(lambda c: c.__setitem__(slice(1500, 1540), bytes(40))), "error", "is a damaged JPEG .*Corrupt"),
        "padded": (_jpeg(lambda c: c.__setitem__(slice(-2, -2), bytes(4))), "warning", "extraneous bytes"),
        "both": (_jpeg() + _png(), "error", "several pictures one behind the other, of which the first is read"),
        "two": (2 * _png(), "error", "several pictures one behind the other, of which the first is read"),
        "moving": (_png(save_all=True, append_images=[Image.new("RGB", (64, 64), "red")]), "error", "in one file"),
        "glass": (_png("RGBA", (0, 0, 0, 120)), "warning", "is not opaque, and its alpha is not read"),
        "opaque": (_png("RGBA", (0, 0, 0, 255)), "", ""),
        "keyed": (_png(transparency=(0, 0, 0)), "warning", "is not opaque, and its alpha is not read"),
        "tail": (_png() + bytes(5000), "warning", "has 5000 bytes behind its end, which are not read"),
        "turned": (_jpeg(exif=_turned()), "warning", r"is to be turned by its EXIF \(orientation 6\)"),
    }.values(),
)
def test_pictures_that_a_decoder_repairs_or_does_not_turn_are_found(
    picture: bytes, level: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    feature = tfds.features.Image(shape=(64, 64, 3))
    step = tfds.features.Dataset({"film": feature, "is_first": np.bool_})
    features = tfds.features.FeaturesDict({"steps": step})
    example = tf.train.Example()
    example.features.feature["steps/film"].bytes_list.value.extend(
        [_png() if picture[:1] == b"\x89" else _jpeg(), picture]
    )
    found = [*record_checks.check_example(example, features, "train[0]")]
    assert [(f.level, f.check, f.step) for f in found] == ([(level, "picture", 1)] if said else [])
    assert all(re.search(said, f.message) for f in found)
    assert "JPEG" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("damage", "level", "said"),
    {
        "none": (lambda version: None, "", ""),
        "bytes": (
            lambda version: (
                edited("dataset_info.json", lambda v: v["splits"][0].update(numBytes="1"))(version),
                without_mark(version),
            ),
            "note",
            "numBytes of train is 1, its shards hold",
        ),
        "counted": (
            edited("dataset_info.json", lambda v: v["splits"][0].update(statistics={"numExamples": "77"})),
            "warning",
            "by the statistics of train it has 77 episodes",
        ),
        "name": (
            edited(
                "dataset_info.json",
                lambda v: (
                    v.update(name="bridge"),
                    v["splits"][0].update(filepathTemplate="toy-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"),
                ),
            ),
            "warning",
            "toy-train.tfrecord-00000-of-00001 is read as split train of bridge",
        ),
        "schema": (edited("metadata.json", lambda v: v["identity"].update(schema_version=99)), "error", "version 99"),
        "identity": (edited("metadata.json", lambda v: v.update(identity_hash="0")), "error", "identity_hash is not"),
        "version": (edited("metadata.json", lambda v: v["identity"].update(version="3.0.0")), "warning", "'3.0.0', in"),
        "annotator": (
            lambda version: (
                edited("metadata.json", lambda v: v.update(annotator={"method": "lstm", "hash": "b"}))(version),
                (version / "annotator").mkdir(),
                (version / "annotator" / "annotator.json").write_text('{"method": "lstm", "hash": "a"}'),
            ),
            "warning",
            "hash of the annotator is 'b', in annotator/annotator.json 'a'",
        ),
    }.values(),
)
def test_a_description_that_contradicts_what_lies_beside_it_is_found(
    sound: Path, tmp_path: Path, damage: Damage, level: str, said: str
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    damage(version)
    found = [*check_description(version, open_version(version))]
    assert any((f.level, f.check) == (level, "files") and said in f.message for f in found) or not (level or found)


def test_a_file_of_others_that_is_called_as_our_mark_is_no_mark(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    without_mark(version)
    (version / "made_by.json").write_text('{"made_by": "somebody", "when": "yesterday"}')
    assert check_dataset(version, pictures=0).exit_status() == check_dataset(sound, pictures=0).exit_status()
    assert len([*read_rlds(version, "train")])


def test_a_dataset_of_ours_has_no_other_layout(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    edited("metadata.json", lambda v: v["identity"].update(data={"kind": "robomimic_hdf5"}))(version)
    with pytest.raises(EpisodeError, match="its columns are those of 'gap', whatever it was made of; leave layout"):
        check_dataset(version, layout="robomimic")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edited("metadata.json", lambda v: v["identity"].update(schema_version=99)), "schema version 99, this program"),
        (edited("metadata.json", lambda v: v.update(identity_hash="0")), "identity_hash is not that of identity; copy"),
    ],
)
def test_an_account_that_is_newer_or_was_changed_is_refused_where_the_data_are_used(
    sound: Path, tmp_path: Path, damage: Damage, said: str
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    damage(version)
    without_mark(version)
    for use in (
        lambda: next(iter(read_rlds(version, "train"))),
        lambda: annotate_files(version, tmp_path / "out" / "1.1.0", method="gaussian"),
        lambda: show_episode(version, tmp_path / "e.png"),
    ):
        with pytest.raises(EpisodeError, match=rf"metadata\.json: {said}"):
            use()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    {
        "NaN": (edited("dataset_statistics.json", lambda v: v["action"]["mean"].__setitem__(2, np.nan)), "action.mean"),
        "forged": (edited("dataset_statistics.json", lambda v: v["proprio"].update(std=[9.0] * 9)), "proprio.std"),
        "narrow": (edited("dataset_statistics.json", lambda v: v["action"].update(q01=[0.0] * 6)), "action.q01"),
        "counts": (edited("dataset_statistics.json", lambda v: v.update(num_transitions=12.01)), "num_transitions"),
        "no mask": (edited("dataset_statistics.json", lambda v: v["action"].pop("mask")), "action.mask"),
        "short mask": (edited("dataset_statistics.json", lambda v: v["action"].update(mask=[True])), "action.mask"),
        "odd mask": (edited("dataset_statistics.json", lambda v: v["action"].update(mask="abc")), "action.mask"),
        "gone": (lambda p: (p / "dataset_statistics.json").unlink(), "is missing"),
    }.values(),
)
def test_statistics_that_are_not_those_of_the_data_are_an_error(
    sound: Path, recordings: list[Recording], tmp_path: Path, damage: Damage, said: str
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    assert not list(run._statistics(version, recordings))
    damage(version)
    (found,) = run._statistics(version, recordings)
    assert found.level == "error" and said in found.message


def test_a_dataset_without_its_statistics_is_not_usable(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    edited("dataset_statistics.json", lambda v: v.clear())(version)
    report = check_dataset(version, pictures=0)
    assert report.exit_status() == 1 and "statistics" in {finding.check for finding in report.findings}


@pytest.mark.parametrize(
    ("damage", "said"),
    {
        "extra": (record(lambda f: f["episode_metadata/extra_json"].bytes_list.value.__setitem__(0, b"{")), "metadata"),
        "identity": (edited("metadata.json", lambda v: v.update(identity="mine")), "metadata.json: identity is 'mine'"),
        "statistics": (lambda p: (p / "dataset_statistics.json").write_text("["), "not valid JSON"),
    }.values(),
)
def test_check_dataset_refuses_what_it_cannot_compare(sound: Path, tmp_path: Path, damage: Damage, said: str) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    damage(version)
    with pytest.raises(UserError, match=said):
        check_dataset(version, pictures=0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("steps/language_instruction", b"caf\xe9", "steps/language_instruction is no UTF-8"),
        ("steps/phase", b"\xff", "steps/phase is no UTF-8"),
        ("episode_metadata/episode_id", b"\xff", "episode_metadata/episode_id is no UTF-8"),
        ("episode_metadata/extra_json", b'{"a": ' + b"1" * 5000 + b"}", "episode_metadata/extra_json: .*5000 digits"),
    ],
)
def test_a_text_that_is_none_is_named_by_its_field(tmp_path: Path, field: str, value: bytes, said: str) -> None:
    version = write_rlds([make_episode(i, steps=STEPS, size=4) for i in range(2)], tmp_path, "toy", val_fraction=0.0)

    def damage(features: Any) -> None:
        kept = features[field].bytes_list.value
        kept[:] = [value] * len(kept)

    record(damage)(version)
    (version / "made_by.json").unlink()  # else the checksum would tell
    with pytest.raises(UserError, match=rf"train\[1\]: .*{said}; .*convert the source again"):
        list(read_rlds(version, "train"))
    with pytest.raises(UserError, match=rf"train\[1\]: {said}"):
        read(version, 1, AnnotationJob(), "train")


def test_a_finished_dataset_that_lost_a_file_is_not_taken_for_whole(tmp_path: Path) -> None:
    episodes = [tiny(i) for i in range(2)]
    version = write_rlds(episodes, tmp_path, "toy")
    assert write_rlds(episodes, tmp_path, "toy") == version
    (version / "dataset_statistics.json").unlink()
    with pytest.raises(UserError, match=r"dataset_statistics\.json is missing"):
        write_rlds(episodes, tmp_path, "toy")


def test_what_is_in_order_is_read_the_same_with_and_without_pictures(sound: Path) -> None:
    found, of_training = read_all(sound, AnnotationJob()), list(read_rlds(sound, "train"))
    assert [place for *place, _, _ in found] == [["train", 0], ["train", 1]]
    for _, number, episode, _ in found:
        assert not episode.images
        shown, trained = read(sound, number, AnnotationJob(), "train"), of_training[number]
        for other in (shown, trained):
            assert episode.proprio.tobytes() == other.proprio.tobytes()
            assert episode.action.tobytes() == other.action.tobytes()
        assert shown.language_instruction == trained.language_instruction == episode.language_instruction
        for name, frames in trained.images.items():
            np.testing.assert_array_equal(shown.images[name], frames)
        np.testing.assert_array_equal(shown.rho, trained.rho)


def test_reading_leaves_no_generated_code_behind(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other processes may generate some in the usual one
    assert len(list(read_steps(sound, "train", resize={PICTURES: (2, 2)}))) == 2
    assert not list(tmp_path.iterdir())


def test_a_shard_that_protobuf_cannot_read_to_its_end_is_not_labelled(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    kept = list(tf.data.TFRecordDataset(str(shard(version))).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(shard(version))) as writer:
        for record in kept:
            writer.write(record + b"\x12\x80\x80\x04")  # TFDS' own parser does not mind
    (version / "made_by.json").unlink()
    with pytest.raises(UserError, match=r"holds something else than examples: .*; copy it again"):
        annotate_files(version, tmp_path / "toy" / "1.1.0", AnnotationJob(method="gaussian"))
    assert not (tmp_path / "toy" / "1.1.0").exists()
    with pytest.raises(UserError, match=r"holds something else than examples: .*; copy it again"):
        check_dataset(version, pictures=0)


def test_a_record_of_two_examples_of_which_protobuf_would_merge_one_away_is_refused(
    sound: Path, tmp_path: Path
) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    first, *others = tf.data.TFRecordDataset(str(shard(version))).as_numpy_iterator()
    with tf.io.TFRecordWriter(str(shard(version))) as writer:
        for record in (first + first, *others):
            writer.write(record)
    (version / "made_by.json").unlink()
    with pytest.raises(UserError, match="a record holds features twice; copy it again"):
        annotate_files(version, tmp_path / "toy" / "1.1.0", AnnotationJob(method="gaussian"))
    with pytest.raises(UserError, match="a record holds features twice; copy it again"):
        list(read_rlds(version, "train", workers=1))
    with pytest.raises(UserError, match="a record holds features twice; copy it again"):
        check_dataset(version, pictures=0, max_episodes=2)  # which are all
    assert not (tmp_path / "toy" / "1.1.0").exists()


def test_an_action_beyond_what_a_datasets_reader_allows_is_refused_and_in_datasets_of_others_taken(
    sound: Path,
    tmp_path: Path,
) -> None:
    odd = shutil.copytree(sound, tmp_path / "odd")
    values("action", at(0, -1.5))(odd)
    (odd / "made_by.json").unlink()

    def first_action(name: str, **data: Any) -> float:
        version = shutil.copytree(odd, tmp_path / name / "1.0.0")
        edited("metadata.json", lambda v: v["identity"].update(data=data))(version)
        edited("metadata.json", lambda v: v.update(identity_hash=identity_hash(v["identity"])))(version)
        return float(list(read_rlds(version, "train", workers=1))[1].action[0, 0])

    assert first_action("others") == first_action("lerobot", kind="lerobot") == -1.5
    assert first_action("stated", kind="npz", options={"action_limit": 2.0}) == -1.5
    refused = r"train\[1\]: action is -1.5 at step 0, column 0; actions lie in \[-1, 1\]"
    with pytest.raises(UserError, match=refused):
        first_action("ours", kind="npz")
    job = AnnotationJob(method="gaussian")
    with pytest.raises(UserError, match=refused):
        annotate_files(tmp_path / "ours" / "1.0.0", tmp_path / "ours" / "1.1.0", job)
    assert annotate_files(tmp_path / "stated" / "1.0.0", tmp_path / "stated" / "1.1.0", job).path.is_dir()


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        ({"demos": {"path": "lerobot", "content": "x"}}, None),
        ({"demos": {"path": "npz", "content": "x", "kind": "npz"}}, 1.0),
        ({"demos": {"path": "npz", "content": "x"}, "reader_options": {"action_limit": 40.0}}, 40.0),
        ({"kind": "lerobot"}, None),
        ({"demos": {"task": "threading"}}, 1.0),
        ({}, 1.0),
    ],
)
def test_the_limit_of_a_dataset_that_a_run_made_is_that_of_its_reader(
    tmp_path: Path, data: dict[str, Any], limit: float | None
) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps({"identity": {"data": data}, "identity_hash": "0"}))
    assert declared_limit(tmp_path) == limit
    assert declared_limit(tmp_path, None) == (limit if data else None)  # of what was collected, too


def test_numbers_that_another_writer_did_not_pack_are_read(sound: Path, tmp_path: Path) -> None:
    version = shutil.copytree(sound, tmp_path / "toy" / "1.0.0")
    pool = descriptor_pool.DescriptorPool()
    for file in (feature_pb2.DESCRIPTOR, example_pb2.DESCRIPTOR):
        described = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(described)
        for field in (field for message in described.message_type for field in message.field):
            field.options.packed = False
        pool.Add(described)
    loose = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
    records = list(tf.data.TFRecordDataset(str(shard(version))).as_numpy_iterator())
    unpacked = [loose.FromString(one).SerializeToString() for one in records]
    assert len(unpacked[0]) > len(records[0])
    with tf.io.TFRecordWriter(str(shard(version))) as writer:
        for one in unpacked:
            writer.write(one)
    (version / "made_by.json").unlink()
    found, sure = (list(read_rlds(path, "train", workers=1)) for path in (version, sound))
    assert all(np.array_equal(one.proprio, other.proprio) for one, other in zip(found, sure, strict=True))
    actions = loose.FromString(records[0]).features.feature["steps/action"]
    again = loose(features={"feature": {"steps/action": actions}}).features
    features = loose.FromString(records[0]).features.SerializeToString() + again.SerializeToString()
    twice = b"\x0a" + encoder._VarintBytes(len(features)) + features
    with tf.io.TFRecordWriter(str(shard(version))) as writer:
        for one in (twice, *records[1:]):
            writer.write(one)
    with pytest.raises(UserError, match="a record holds 'steps/action' twice; copy it again"):
        list(read_rlds(version, "train", workers=1))
