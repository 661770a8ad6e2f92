"""What build_dataset, write_rlds and the reader of others' data refuse, before anything is written or read."""

from __future__ import annotations

import datetime
import enum
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_demos import make_episode

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.core.outputs import OutputError
from gap_vla.demos import open_source
from gap_vla.phases import annotate
from gap_vla.rlds import build_dataset, read_rlds, write_rlds
from gap_vla.rlds.annotating.files import annotate_files, show_episode
from gap_vla.rlds.convert import dry_run
from gap_vla.rlds.schema import content_hash
from gap_vla.rlds.store import EpisodeStore
from gap_vla.rlds.version_files import DatasetError, open_version


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("npz")
    for i in range(3):
        episode = make_episode(i)
        named = {**episode.images, "proprio": episode.proprio, "action": episode.action}
        np.savez(folder / f"demo_{i}.npz", **named, rho=episode.rho, change_point=episode.change_point)
    return folder


@pytest.mark.parametrize("given", [{"fit_episodes": 2}, {"seed": 1}, {"options": {"sigma": 3}}])
@pytest.mark.parametrize("how", ["method none", "an annotator"])
def test_options_of_an_annotator_that_is_not_made_are_refused(
    given: dict[str, Any], how: str, npz: Path, tmp_path: Path
) -> None:
    if how == "an annotator":
        annotate([make_episode(0)], method="gaussian").annotator.save(tmp_path / "annotator")
        given = {**given, "annotator": tmp_path / "annotator"}
    else:
        given = {**given, "method": "none"}
    with pytest.raises(DatasetError, match=f"has no effect with {how}; leave it out"):
        build_dataset(npz, tmp_path / "out", "toy", kind="npz", **given)
    assert not (tmp_path / "out" / "toy" / "1.0.0").exists()


@pytest.mark.parametrize("method", ["fixed", "column"])
def test_a_number_of_episodes_to_fit_is_refused_where_nothing_is_fitted(method: str, npz: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"fit_episodes has no effect with method {method}, which fits nothing"):
        build_dataset(npz, tmp_path / "out", "toy", kind="npz", method=method, fit_episodes=2)


@pytest.mark.parametrize("given", [{"fit_episodes": 0}, {"workers": -1}, {"workers": None}])
def test_numbers_that_count_nothing_are_refused(given: dict[str, Any], npz: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{next(iter(given))} is .*; it must be a whole number from 1"):
        build_dataset(npz, tmp_path / "out", "toy", kind="npz", **given)


class Colour(enum.Enum):
    RED = 1


def test_what_arrays_of_a_caller_hold_is_told_apart_to_the_last_digit(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    band = np.array([4e-4, 4e-4, 1e-4, 1e-6])
    with np.printoptions(precision=3, suppress=True):  # as many notebooks print
        episodes = [make_episode(i, steps=12) for i in range(3)]
        for name in ("identity", "annotator"):
            path = write_rlds(episodes, tmp_path, name, **{name: {"of": [band]}})
            assert write_rlds(episodes, tmp_path, name, **{name: {"of": [band.tolist()]}}) == path
            with pytest.raises(DatasetError, match=r"made differently \(\w+\.of: \[\[0.0004, .*now"):
                write_rlds(episodes, tmp_path, name, **{name: {"of": [1.1 * band]}})
        noted = [[one.replace(metadata={"offset": x * band}) for one in episodes] for x in (1, 2)]
        write_rlds(noted[0], tmp_path, "noted")
        with pytest.raises(DatasetError, match=r"made differently \(data.content"):
            write_rlds(noted[1], tmp_path, "noted")
        asked: dict[str, Any] = {"kind": "npz", "method": "gaussian"}
        path = build_dataset(npz, tmp_path, "toy", options={"dead_band": band}, **asked)
        assert build_dataset(npz, tmp_path, "toy", options={"dead_band": band.tolist()}, **asked) == path
        with pytest.raises(DatasetError, match=r"made differently \(data.annotation.options.dead_band: \[0.0004, .*"):
            build_dataset(npz, tmp_path, "toy", options={"dead_band": 1.1 * band}, **asked)
        own = open_source(npz, "npz")
        stated = {"root": npz, "at": datetime.date(2026, 1, 1), "sigma": np.float32(0.5), "of": band}
        monkeypatch.setattr(own, "identity", lambda: stated)
        path = build_dataset(own, tmp_path, "own", method="none")
        assert build_dataset(own, tmp_path, "own", method="none") == path
        stated["of"] = 1.1 * band
        with pytest.raises(DatasetError, match=r"made differently \(data.of: \[0.0004, .*"):
            build_dataset(own, tmp_path, "own", method="none")
    for name in ("identity", "annotator"):
        with pytest.raises(DatasetError, match=rf"{name}\.of\[1\] is object; give texts, numbers, lists or dict"):
            write_rlds(episodes, tmp_path, "other", **{name: {"of": ["a", object()]}})
    day, hour = np.datetime64("2026-01-01"), datetime.timedelta(hours=1)
    pairs = [(Colour.RED, "Colour.RED"), (Decimal("1.5"), "1.5"), (day, "2026-01-01"), (hour, "1:00:00"), (1j, "1j")]
    pairs += [({2, 1}, [1, 2]), (np.array(["a", None], object), ["a", None]), (np.array([b"a"]), ["b'a'"])]
    pairs += [(np.int64(3), "3"), (np.float32(0.1), "0.1")]  # as always, else the data would have another name
    for value, text in pairs:
        hashes = [content_hash([episodes[0].replace(metadata={"note": note})]) for note in (value, text)]
        assert hashes[0] == hashes[1], value


def test_a_dataset_whose_numbers_of_numpy_were_recorded_as_texts_is_found(npz: Path, tmp_path: Path) -> None:
    old, new = {"k": "2", "of": ["0.1", "True"]}, {"k": np.int64(2), "of": (np.float32(0.1), np.bool_(True))}
    path = build_dataset(npz, tmp_path, "toy", kind="npz", method="none", identity=old)
    assert build_dataset(npz, tmp_path, "toy", kind="npz", method="none", identity=new) == path
    episodes = [make_episode(i, steps=12) for i in range(3)]
    path = write_rlds(episodes, tmp_path, "told", identity=old)
    assert write_rlds(episodes, tmp_path, "told", identity=new) == path
    for other in ({"k": 3}, {"of": [np.float32(0.1)]}, {"of": [np.nextafter(np.float32(0.1), 1), True]}):
        with pytest.raises(DatasetError, match="made differently"):
            write_rlds(episodes, tmp_path, "told", identity={**new, **other})


def test_an_option_that_is_misspelt_is_refused_where_the_dataset_is_finished_too(npz: Path, tmp_path: Path) -> None:
    for finished in (False, True):
        with pytest.raises(TypeError, match="unexpected keyword argument 'runer'"):
            build_dataset(npz, tmp_path, "toy", kind="npz", method="none", runer=None)
        assert (tmp_path / "toy").exists() == finished
        build_dataset(npz, tmp_path, "toy", kind="npz", method="none")


def test_labels_and_files_that_are_not_taken_over_are_said(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (npz / "episode_9.npz.gz").write_bytes(b"")
    build_dataset(npz, tmp_path, "toy", kind="npz", method="none", val_fraction=0)
    assert "\n  not taken: change_point, rho\n" in (out := capsys.readouterr().out)
    assert (
        "proprio <- proprio (xyz in m from column 0, quat_wxyz from column 3, gripper 7 8 in m), action <- action"
        in out
    )
    assert f"note: episode_9.npz.gz of {npz} is not read, nor anything else but the npz (1 in all)" in out
    told = f"note: rho of {npz} is not taken, but found anew; if annotate made it"
    assert told not in out
    build_dataset(npz, tmp_path, "toy", kind="npz", method="gaussian", version="1.1.0")
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"rho": np.zeros(20, np.float32)}, "labels of episode 1 are rho; give rho and change_point of each"),
        ({}, "labels of episode 1 are none"),
        (np.zeros(20, np.float32), "labels of episode 1 are ndarray; give rho and change_point of each"),
        ({"rho": ["x"] * 20, "change_point": np.zeros(20, bool)}, "labels: .*; give an array of numbers and one of"),
        ({"rho": np.zeros(20), "change_point": np.zeros(20, bool), "action": np.zeros((20, 7))}, "labels of episode 1"),
    ],
)
def test_labels_are_rho_and_change_points(labels: dict[str, Any], message: str, tmp_path: Path) -> None:
    episodes = [make_episode(i, steps=20, annotated=False) for i in range(2)]
    right = {"rho": np.zeros(20, np.float32), "change_point": np.zeros(20, bool)}
    with pytest.raises(DatasetError, match=message):
        write_rlds(episodes, tmp_path, "toy", labels=[right, labels], annotator={})
    assert not (tmp_path / "toy" / "1.0.0").exists()


@pytest.mark.parametrize("field", ["action", "proprio"])
def test_columns_are_one_or_more(field: str, tmp_path: Path) -> None:
    episode = make_episode(0)
    narrow = episode.replace(**{field: getattr(episode, field)[:, :0]})
    with pytest.raises(EpisodeError, match=f"demo_0: no column of {field}; give one or more"):
        write_rlds([narrow], tmp_path, "toy", annotator={})
    assert not (tmp_path / "toy" / "1.0.0").exists()


def of_others(version_dir: Path, folder: Path) -> Path:
    copy = Path(shutil.copytree(version_dir, folder / "toy" / "1.0.0"))
    for name in ("metadata.json", "made_by.json", "dataset_statistics.json"):
        (copy / name).unlink()
    return copy


@pytest.mark.parametrize("feature", ["action", "observation/proprio", "reward"])
def test_a_feature_without_values_is_named_and_kills_nothing(feature: str, version_dir: Path, tmp_path: Path) -> None:
    copy = of_others(version_dir, tmp_path)
    features = json.loads((copy / "features.json").read_text())
    found = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    for part in feature.split("/"):
        found = found["featuresDict"]["features"][part]
    found["tensor"]["shape"] = {"dimensions": ["0"]}
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(EpisodeError, match=rf"features.json: steps/{feature} has no values \(shape \(0,\)\); leave it"):
        open_version(copy)


def test_an_instruction_that_changes_within_an_episode_is_refused(
    version_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gap_vla.rlds.schema import Schema

    encode = Schema.encode

    def changing(self: Schema, episode: Episode) -> Any:
        steps = encode(self, episode)
        texts = steps["steps"]["language_instruction"]
        half = len(texts) // 2
        steps["steps"]["language_instruction"] = [*texts[:half], *["open the drawer"] * (len(texts) - half)]
        return steps

    monkeypatch.setattr(Schema, "encode", changing)
    path = write_rlds([make_episode(0, steps=20)], tmp_path, "toy", val_fraction=0, annotator={})
    with pytest.raises(EpisodeError, match="the instruction changes at step 10; make an episode of each task"):
        list(read_rlds(path, "train"))


def test_an_annotated_copy_is_not_taken_for_the_dataset_that_it_was_made_from(npz: Path, tmp_path: Path) -> None:
    made = build_dataset(npz, tmp_path / "a", "toy", kind="npz", method="gaussian")
    copy = tmp_path / "b" / "toy" / made.name
    annotate_files(made, copy, method="fixed")
    with pytest.raises(DatasetError, match=r"toy/1\.0\.0 exists and is an annotated copy of another dataset; choose"):
        build_dataset(npz, tmp_path / "b", "toy", kind="npz", method="gaussian")


def test_an_episode_that_the_annotator_refuses_leaves_nothing(npz: Path, tmp_path: Path) -> None:
    source = shutil.copytree(npz, tmp_path / "npz")
    episode = dict(np.load(source / "demo_2.npz"))
    episode |= {key: np.tile(episode[key], 2) for key in ("proprio", "action")}  # two arms
    np.savez(source / "demo_2.npz", **episode)
    with pytest.raises(EpisodeError, match="demo_2 has 2 arms"):
        build_dataset(source, tmp_path / "a", "toy", kind="npz", method="gaussian", fit_episodes=1)
    assert not [path for path in (tmp_path / "a").rglob("*") if path.is_file()]


def test_a_dataset_in_the_folder_of_its_demonstrations_would_change_them(npz: Path, tmp_path: Path) -> None:
    said = r"rlds/toy/1\.0\.0 lies in .*npz.*, which is read; name another place"
    with pytest.raises(OutputError, match=said):
        build_dataset(npz, npz / "rlds", "toy", kind="npz", method="none")
    with pytest.raises(OutputError, match=said):
        write_rlds(open_source(npz, "npz"), npz / "rlds", "toy")
    assert not (npz / "rlds").exists()


def test_what_would_be_ignored_beside_other_arguments_is_refused(npz: Path, tmp_path: Path) -> None:
    annotate([make_episode(0)], method="gaussian").annotator.save(tmp_path / "annotator")
    build_dataset(npz, tmp_path, "toy", kind="npz", method="none")
    with pytest.raises(DatasetError, match="labels is made by build_dataset itself; leave it out, or call write_rlds"):
        build_dataset(npz, tmp_path, "toy", kind="npz", method="none", labels=[])
    with pytest.raises(DatasetError, match="method has no effect with an annotator; leave it out"):
        build_dataset(npz, tmp_path, "other", kind="npz", method="none", annotator=tmp_path / "annotator")
    for write, what in ((build_dataset, npz), (write_rlds, [make_episode(0)])):
        given = {"kind": "npz", "method": "gaussian"} if what == npz else {}
        with pytest.raises(DatasetError, match=r"identity, annotator or options: .*; give finite numbers"):
            write(what, tmp_path, "nan", identity={"scale": float("nan")}, **given)
    with pytest.raises(DatasetError, match="an annotator is given, but no rho; give its labels, too"):
        write_rlds([make_episode(0, annotated=False)], tmp_path, "mine", annotator={"method": "mine"})


def test_other_labels_of_an_annotator_without_a_hash_make_another_dataset(tmp_path: Path) -> None:
    episodes = [make_episode(0, annotated=False)]
    labels = [{"rho": np.full(len(episodes[0]), 0.5), "change_point": np.zeros(len(episodes[0]), bool)}]
    write_rlds(episodes, tmp_path, "toy", annotator={"method": "mine"}, labels=labels)
    with pytest.raises(DatasetError, match="labels_hash"):
        other = [{**labels[0], "rho": labels[0]["rho"] / 2}]
        write_rlds(episodes, tmp_path, "toy", annotator={"method": "mine"}, labels=other)


def test_other_labels_beside_the_same_annotator_make_another_dataset(tmp_path: Path) -> None:
    episodes = [make_episode(0, annotated=False)]
    annotation = annotate(episodes, method="gaussian")
    labels, identity = [annotation.labels(0)], annotation.identity
    other = [{**labels[0], "rho": labels[0]["rho"] / 2}]
    made = write_rlds(episodes, tmp_path, "toy", annotator=identity, labels=labels)
    assert write_rlds(episodes, tmp_path, "toy", annotator=identity, labels=labels) == made
    with pytest.raises(DatasetError, match=r"made differently \(data\.labels_hash"):
        write_rlds(episodes, tmp_path, "toy", annotator=identity, labels=other)
    with pytest.raises(DatasetError, match="made differently"):
        write_rlds(episodes, tmp_path, "toy", annotator=identity)  # written with labels
    kept = write_rlds(episodes, tmp_path, "built", annotator=identity, labels=labels, companion=lambda folder: None)
    assert "labels_hash" not in json.loads((kept / "metadata.json").read_text())["identity"]["data"]


@pytest.mark.usefixtures("blank_charts")
@pytest.mark.parametrize("way", ["annotator", "fit_episodes", "dry run", "show"])
def test_positions_that_no_arm_reaches_are_asked_about_whoever_labels(
    way: str, npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, annotator = tmp_path / "npz", tmp_path / "annotator"
    source.mkdir()
    for file in npz.glob("*.npz"):
        held = dict(np.load(file))
        np.savez(source / file.name, **held | {"proprio": held["proprio"] * np.float32([1000] * 3 + [1] * 6)})
    annotate([make_episode(0)], method="gaussian").annotator.save(annotator)
    said = ""
    if way == "dry run":
        said = dry_run(open_source(source, "npz"), tmp_path / "look.png", method="gaussian", workers=1)
    elif way == "show":
        show_episode(source, tmp_path / "e.png", method="gaussian")
    elif way == "annotator":
        build_dataset(source, tmp_path, "toy", kind="npz", annotator=annotator)
    else:
        build_dataset(source, tmp_path, "toy", kind="npz", method="gaussian", fit_episodes=1)
    said += capsys.readouterr().out
    asked = said.count("m away from the origin; are these metres?")
    assert asked == (2 if way == "fit_episodes" else 1)  # of those that are fitted at once, of all in the end
    assert ("fitted on 1 of 3 episodes:\n1 episodes, " in said) == (way == "fit_episodes")


def test_joints_in_degrees_are_no_positions_that_no_arm_reaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    episode = make_episode(0)
    joints = episode.replace(proprio=np.full_like(episode.proprio, 90.0))
    write_rlds([joints], tmp_path, "toy", val_fraction=0)
    assert "are these metres?" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resize": (8, 8)}, r"resize is .*; give a map, as image_primary to \(height, width\)"),
        ({"resize": {"image_primary": 8}}, r"resize of image_primary is 8; give \(height, width\)"),
        ({"resize": {"image_primary": (8, 8, 3)}}, r"resize of image_primary is .*; give \(height, width\)"),
        ({"resize": {"image_primary": [[1], [1, 2]]}}, r"resize of image_primary is .*; give \(height, width\)"),
        ({"resize": {"image_primary": (8, 0)}}, "width of image_primary is 0; it must be a whole number from 1"),
        ({"workers": 0}, "workers is 0; it must be a whole number from 1 to 1024"),
        ({"workers": -1}, "workers is -1"),
        ({"workers": "x"}, "workers is 'x'"),
    ],
)
def test_sizes_and_workers_that_are_none_are_named_and_the_dataset_is_not_blamed(
    wrong: dict[str, Any], said: str, tmp_path: Path
) -> None:
    version = write_rlds([make_episode(0, annotated=False)], tmp_path, "toy")
    with pytest.raises(EpisodeError, match=said):
        next(iter(read_rlds(version, **wrong)))
    if "resize" in wrong:
        with pytest.raises(EpisodeError, match=said):
            EpisodeStore.build(version, **wrong)
    else:
        with pytest.raises(DatasetError, match=said):
            write_rlds([make_episode(0, annotated=False)], tmp_path, "other", **wrong)
