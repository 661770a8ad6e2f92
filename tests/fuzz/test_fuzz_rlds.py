"""Damaged RLDS datasets are read whole or refused in one line, by the reader of training data and by that of labels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from harness import LONG_SECONDS, Target, damage_a_file, damaged_json, remove_a_file, run
from synthetic_demos import make_episode

STEPS = [6, 7, 8]


def _dataset(folder: Path) -> Path:
    from gap_vla.rlds import write_rlds

    episodes = [make_episode(i, steps=steps, size=4) for i, steps in enumerate(STEPS)]
    episodes = [episode.replace(images={"image_primary": episode.images["image_primary"]}) for episode in episodes]
    return write_rlds(episodes, folder, "toy", val_fraction=0.0, workers=1)


def damage_json(draw: random.Random, path: Path) -> None:
    file = path / draw.choice(("dataset_info.json", "features.json"))
    file.write_text(json.dumps(damaged_json(draw, json.loads(file.read_text()))))


def cut_shard(draw: random.Random, path: Path) -> None:
    """At the end of a record or anywhere."""
    (shard,) = path.glob("*.tfrecord*")
    content = shard.read_bytes()
    ends, place = [0], 0
    while place < len(content):
        place += 16 + int.from_bytes(content[place : place + 8], "little")  # 16: a record's length and checksums
        ends.append(place)
    shard.write_bytes(content[: draw.choice([*ends[:-1], draw.randrange(len(content))])])


def change_record(draw: random.Random, path: Path) -> None:
    """One feature of one record removed, cut or made strange; the checksums are right."""
    import tensorflow as tf

    (shard,) = path.glob("*.tfrecord*")
    made = [tf.train.Example.FromString(r) for r in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()]
    features = draw.choice(made).features.feature
    name = draw.choice(sorted(features))
    kind = features[name].WhichOneof("kind")
    values: Any = getattr(features[name], kind)
    how = draw.randrange(4)
    if how == 0:
        del features[name]
    elif how == 1:
        del values.value[draw.randrange(len(values.value)) :]
    elif kind == "float_list":
        values.value[0] = draw.choice((float("nan"), 1e30, float("inf")))
    else:
        values.value[0] = {"bytes_list": draw.choice((b"", b"\xff\xfe", b"\x89PNGxx")), "int64_list": 7}[kind]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in made:
            writer.write(example.SerializeToString())


def _read(path: Path) -> list[int]:
    from gap_vla.rlds import read_rlds

    return [len(episode) for episode in read_rlds(path, "train", workers=1, compared=True)]


def _read_for_labels(path: Path) -> list[int]:
    from gap_vla.rlds.annotating import AnnotationJob
    from gap_vla.rlds.annotating.rlds_files import read_all

    return [len(episode) for *_, episode, _ in read_all(path, AnnotationJob())]


def _is_whole(lengths: list[int], path: Path) -> None:
    declared = json.loads((path / "dataset_info.json").read_text())["splits"][0]["shardLengths"]
    assert len(lengths) == sum(map(int, declared)) and lengths == STEPS


DAMAGES = (damage_a_file, damage_json, remove_a_file, cut_shard, change_record)
TARGETS = [
    (Target("training", _dataset, DAMAGES, _read, _is_whole), 6),
    (Target("labels", _dataset, DAMAGES, _read_for_labels, _is_whole), 10),
]


@pytest.mark.parametrize(("target", "rounds"), TARGETS, ids=lambda value: getattr(value, "name", ""))
def test_damage_is_refused_or_harmless(target: Target, rounds: int, tmp_path: Path) -> None:
    outcomes = run(target, tmp_path, range(rounds))
    assert outcomes["refused"] > rounds / 10, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("target", [target for target, _ in TARGETS], ids=lambda target: target.name)
def test_much_damage_is_refused_or_harmless(target: Target, tmp_path: Path) -> None:
    run(target, tmp_path, range(10_000, 10**9), LONG_SECONDS / 4 / len(TARGETS))
