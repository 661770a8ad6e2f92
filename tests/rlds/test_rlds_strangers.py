"""Files of others in and beside a dataset, while it is made and when it is finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from leftovers import leave
from synthetic_demos import make_episode, write_robomimic

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.marks import stamp
from gap_vla.core.outputs import OutputError
from gap_vla.rlds import build_dataset, read_rlds, write_rlds
from gap_vla.rlds.annotating.job import AnnotationJob
from gap_vla.rlds.target import DatasetError, alone_at

EPISODES = [make_episode(i, size=8) for i in range(3)]


def interrupt(folder: Path) -> None:
    raise KeyboardInterrupt


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return content(write_rlds(EPISODES, tmp_path_factory.mktemp("sound"), "toy"))


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """The hidden folder of a dataset whose writer was stopped."""
    with pytest.raises(KeyboardInterrupt):
        write_rlds(EPISODES, tmp_path, "toy", companion=interrupt)
    return tmp_path / "toy" / ".1.0.0.partial"


HIDDEN = ".metadata.json.gap_vla-abcdefgh.partial/mine"
NAMES = [
    "mine.txt",
    ".notes",
    HIDDEN,
    "annotator/mine.json",
    "toy-train.tfrecord-00000-of-00001.bak",
    "toy/mine.txt",
    "link",
]


@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_puts_into_an_unfinished_dataset_is_named_and_stays(
    tmp_path: Path, partial: Path, sound: dict[str, bytes], name: str
) -> None:
    (tmp_path / "mine").write_text("the only copy")
    theirs = partial / name
    if name == "link":
        theirs = partial / "metadata.json"  # TFDS and others would write through it
        theirs.unlink(missing_ok=True)
        theirs.symlink_to(tmp_path / "mine")
    else:
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_text("the only copy")
    for identity in (None, {"of": "others"}):
        with pytest.raises(DatasetError, match=f"{theirs.name} .*, without a mark of gap_vla; move it away"):
            write_rlds(EPISODES, tmp_path, "toy", identity=identity, overwrite=True)
        assert theirs.read_text() == "the only copy"
    theirs.replace(tmp_path / "moved")
    assert content(write_rlds(EPISODES, tmp_path, "toy")) == sound and not partial.exists()


@pytest.mark.parametrize("error", [None, EpisodeError("a bad episode")])
def test_what_somebody_puts_into_a_dataset_while_it_is_written_stays(
    tmp_path: Path, sound: dict[str, bytes], error: Exception | None
) -> None:
    def put(folder: Path) -> None:
        (folder / "mine.txt").write_text("the only copy")
        if error:
            raise error

    with pytest.raises(UserError, match="a bad episode" if error else r"mine\.txt .* move it away"):
        write_rlds(EPISODES, tmp_path, "toy", companion=put)
    theirs = tmp_path / "toy" / ".1.0.0.partial" / "mine.txt"
    assert theirs.read_text() == "the only copy" and not (tmp_path / "toy" / "1.0.0").exists()
    theirs.unlink()
    version = write_rlds(EPISODES, tmp_path, "toy")
    assert content(version) == sound
    assert set(json.loads((version / "made_by.json").read_text())["files"]) == {*sound} - {"made_by.json"}


def test_an_old_or_new_dataset_that_a_kill_left_in_the_hidden_folder_is_no_stranger(
    tmp_path: Path, sound: dict[str, bytes]
) -> None:
    version = write_rlds(EPISODES[:2], tmp_path, "toy")  # exchanged with the new one, and not removed any more
    version.rename(partial := version.with_name(".1.0.0.partial"))
    assert content(write_rlds(EPISODES, tmp_path, "toy")) == sound and not partial.exists()


def test_an_old_dataset_that_a_kill_left_after_the_exchange_goes_when_nothing_is_left_to_do(
    tmp_path: Path, sound: dict[str, bytes]
) -> None:
    old = write_rlds(EPISODES[:2], tmp_path, "toy").rename(tmp_path / "old")
    version = write_rlds(EPISODES, tmp_path, "toy")
    shutil.copytree(old, partial := version.with_name(".1.0.0.partial"))
    (partial / "mine.txt").write_text("the only copy")
    assert write_rlds(EPISODES, tmp_path, "toy") == version and (partial / "mine.txt").exists()
    (partial / "mine.txt").unlink()
    assert write_rlds(EPISODES, tmp_path, "toy") == version and content(version) == sound
    assert [*version.parent.iterdir()] == [version]
    partial.mkdir()  # killed as its last file was removed
    assert write_rlds(EPISODES, tmp_path, "toy") == version and not partial.exists()
    with pytest.raises(KeyboardInterrupt):  # what is made from other data may be gone on with
        write_rlds(EPISODES[:2], tmp_path, "toy", companion=interrupt, overwrite=True)
    assert write_rlds(EPISODES, tmp_path, "toy") == version and partial.exists()


def test_of_an_old_dataset_that_cannot_be_removed_a_note_says_so(
    tmp_path: Path, sound: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in it belongs to another user."""
    remove = shutil.rmtree

    def refused(place: Path, **how: object) -> None:
        if Path(place).name == "annotator":
            raise PermissionError(13, "Permission denied", "labels.json")
        remove(place, **how)

    def annotator(folder: Path) -> None:
        (folder / "annotator").mkdir()
        (folder / "annotator" / "labels.json").write_text("{}")

    version = write_rlds(EPISODES[:2], tmp_path, "toy", companion=annotator)
    monkeypatch.setattr(shutil, "rmtree", refused)
    write_rlds(EPISODES, tmp_path, "toy", overwrite=True)
    assert content(version) == sound
    said = rf"{version.with_name('.1.0.0.partial')} cannot be removed (labels.json: Permission denied"
    assert f"note: what {version} took the place of: {said}" in capsys.readouterr().out
    with pytest.raises(DatasetError, match=r"/\.1\.0\.0\.partial cannot be removed .*; have it removed"):
        write_rlds(EPISODES[:1], tmp_path, "toy", overwrite=True)
    assert content(version) == sound


@pytest.mark.parametrize("kind", ["dataset", "labelled_npz"])
def test_what_is_marked_as_something_else_in_the_place_of_an_unfinished_dataset_is_named_and_stays(
    tmp_path: Path, kind: str
) -> None:
    (partial := tmp_path / "toy" / ".1.0.0.partial").mkdir(parents=True)
    (partial / "a.npz").touch()
    stamp(partial, kind)
    if kind == "dataset":  # and is one that is being made
        (partial / "settings.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"a\.npz lies where .*/1\.0\.0 would be made, without a mark of gap_vla"):
        write_rlds(EPISODES, tmp_path, "toy")
    assert (partial / "a.npz").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_where_two_places_cannot_be_exchanged_no_old_dataset_stays(
    tmp_path: Path, sound: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    monkeypatch.setattr("gap_vla.core.whole._exchange", lambda one, other: False)
    version = write_rlds(EPISODES[:2], tmp_path, "toy")
    if killed:
        old, hidden = content(version), leave(version)
        shutil.copytree(version, hidden / "1.0.0")  # the new one
        version.rename(hidden / "replaced-1.0.0")
        with pytest.raises(DatasetError, match="exists and was made differently"):
            write_rlds(EPISODES, tmp_path, "toy")
        assert content(version) == old
    write_rlds(EPISODES, tmp_path, "toy", overwrite=True)
    assert content(version) == sound and [*version.parent.iterdir()] == [version]


def other_shard(version: Path) -> None:
    other = write_rlds([make_episode(i, size=8) for i in range(7, 10)], version.parent.parent / "other", "toy")
    for shard in other.glob("*train*"):
        shutil.copyfile(shard, version / shard.name)


def edited(name: str, key: str) -> object:
    def edit(version: Path) -> None:
        values = json.loads((version / name).read_text())
        values[key] = {"mine": 1} if isinstance(values.get(key), dict) else "mine"
        (version / name).write_text(json.dumps(values))

    return edit


CHANGES = {
    "toy-train.tfrecord-00000-of-00001": other_shard,
    "dataset_statistics.json": edited("dataset_statistics.json", "proprio"),
    "metadata.json": edited("metadata.json", "annotator"),
    "dataset_info.json": edited("dataset_info.json", "description"),
}


BUILD = dict(method="fixed", options={"value": 0.5}, workers=1)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of demonstrations and of the data that they became."""
    folder = tmp_path_factory.mktemp("converted")
    source = write_robomimic(folder / "d.hdf5", [make_episode(i, annotated=False, size=8) for i in range(3)])
    build_dataset(source, folder / "data", "toy", **BUILD)
    return folder


def test_a_dataset_without_its_mark_is_not_found_again(tmp_path: Path, converted: Path) -> None:
    """Its owner has taken the mark out, as check-dataset says, after a change of his own."""
    source, version = converted / "d.hdf5", tmp_path / "data" / "toy" / "1.0.0"
    shutil.copytree(converted / "data", tmp_path / "data")
    (version / "made_by.json").unlink()
    there = content(version)
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match=r"has no made_by\.json, .* move it away, or choose another name"):
            build_dataset(source, tmp_path / "data", "toy", overwrite=overwrite, **BUILD)
    assert content(version) == there


def test_an_old_dataset_that_a_kill_left_goes_when_the_same_command_is_given_again(
    tmp_path: Path, converted: Path
) -> None:
    source, version = converted / "d.hdf5", tmp_path / "data" / "toy" / "1.0.0"
    shutil.copytree(converted / "data", tmp_path / "data")
    shutil.copytree(version, partial := version.with_name(".1.0.0.partial"))
    for name in ("LICENSE", "settings.json"):
        (partial / name).write_text("an annotated copy has more of its source's files")
    stamp(partial, "dataset")
    (partial / "docs").mkdir()
    (partial / "docs" / "mine.txt").write_text("the only copy")
    hidden = leave(version)
    for name in ("1.0.0", "replaced-1.0.0"):
        shutil.copytree(version, hidden / name)
    shutil.rmtree(hidden / "1.0.0")  # the new one has come
    assert build_dataset(source, tmp_path / "data", "toy", **BUILD) == version
    assert sorted(one.name for one in version.parent.iterdir()) == [".1.0.0.partial", "1.0.0"]
    assert (partial / "LICENSE").exists() and (partial / "docs" / "mine.txt").exists()
    (partial / "docs" / "mine.txt").unlink()
    (partial / "docs").rmdir()
    with alone_at(version):  # another command is at work
        assert build_dataset(source, tmp_path / "data", "toy", **BUILD) == version and partial.exists()
    assert build_dataset(source, tmp_path / "data", "toy", **BUILD) == version
    assert [*version.parent.iterdir()] == [version]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("dataset_") else []) for name in CHANGES],
)
def test_a_finished_dataset_with_a_changed_file_is_neither_found_nor_replaced(
    tmp_path: Path, converted: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, version = converted / "d.hdf5", tmp_path / "data" / "toy" / "1.0.0"
    shutil.copytree(converted / "data", tmp_path / "data")
    (version / "dataset_statistics_0123.json").write_text("what upstream Octo leaves there")
    monkeypatch.setattr(AnnotationJob, "run", lambda *_, **__: pytest.fail("something is fitted"))
    for overwrite in (False, True):
        assert build_dataset(source, tmp_path / "data", "toy", overwrite=overwrite, **BUILD) == version
    CHANGES[name](version)
    there = content(version)
    with pytest.raises(EpisodeError, match=f"{name} was changed since it was written; copy it again, or move .*away"):
        build_dataset(source, tmp_path / "data", "toy", **BUILD)
    (version / "dataset_statistics_0123.json").unlink()
    for changed in ({}, {"val_fraction": 0.5}):
        with pytest.raises(OutputError, match=f"also holds {name}, which was not written with it; move that away"):
            build_dataset(source, tmp_path / "data", "toy", overwrite=True, **BUILD, **changed)
    del there["dataset_statistics_0123.json"]
    assert content(version) == there


def test_a_shard_of_another_dataset_is_not_read_as_ours(tmp_path: Path) -> None:
    version = write_rlds(EPISODES, tmp_path, "toy")
    other_shard(version)
    with pytest.raises(EpisodeError, match=r"toy-train.* was changed since it was written; .* remove made_by\.json"):
        next(read_rlds(version))
    assert len(list(read_rlds(version, "val"))) == 1
    (version / "made_by.json").unlink()
    assert len(list(read_rlds(version))) == 2
