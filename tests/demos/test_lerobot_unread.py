"""What a LeRobot dataset holds and no reader takes is named in the account, wherever it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_lerobot_damage import change, copied, described

from gap_vla.demos import open_source

CAMERA, STATE = "observation.images.front", "observation.state"
KINDS = ["v21_video", "v30_video", "v30_image"]
USUAL = ["episode_index", "frame_index", "index", "timestamp"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_account_of_a_dataset_as_lerobot_writes_it_is_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (copied(kind, tmp_path) / "README.md").write_text("# A dataset")
    source = open_source(tmp_path / kind, "lerobot")
    coded = {"video.g": 2, "video.crf": 30, "video.preset": 12, "video.video_backend": "pyav"}
    if "video" in kind:
        described(tmp_path / kind, lambda info: info["features"][CAMERA]["info"].update(coded))
    assert sorted(source.dropped()) == USUAL and source.account().endswith(f"not taken: {', '.join(USUAL)}")
    assert len(source[0]) == 12 and not capsys.readouterr().out


def _said(*path: str) -> Callable[[Path], Any]:
    def change(info: Any) -> None:
        for key in path:
            info = info.setdefault(key, {})
        info["odd"] = "said"

    return lambda root: described(root, change)


def _metadata(pattern: str, column: str | None) -> Callable[[Path], Any]:
    def write(root: Path) -> None:
        file = sorted(root.glob(pattern))[0]
        table = pq.ParquetFile(file).read()
        if column is None:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), "odd": "said"})
        else:
            place = table.schema.get_field_index(column)
            field = table.schema.field(place).with_metadata({"odd": "said"})
            table = table.cast(table.schema.set(place, field))
        pq.write_table(table, file)

    return write


def _file(*path: str) -> Callable[[Path], Any]:
    def write(root: Path) -> None:
        (file := root.joinpath(*path)).parent.mkdir(parents=True, exist_ok=True)
        file.write_text("odd")

    return write


def _line(name: str) -> Callable[[Path], Any]:
    def write(root: Path) -> None:
        lines = [json.loads(line) for line in (root / "meta" / name).read_text().splitlines()]
        (root / "meta" / name).write_text("\n".join(json.dumps({**line, "odd": "said"}) for line in lines))

    return write


def _column(pattern: str, name: str = "odd") -> Callable[[Path], Any]:
    def write(root: Path) -> None:
        rows = pq.ParquetFile(sorted(root.glob(pattern))[0]).metadata.num_rows
        change(root, pattern, name, lambda _: [0] * rows)

    return write


DATA, EPISODES = "data/**/*.parquet", "meta/episodes/**/*.parquet"
EVERY: list[tuple[Callable[[Path], Any], str]] = [
    (_said(), "odd of info.json"),
    *((_said("features", key), f"odd of {key} in info.json") for key in (CAMERA, STATE, "action", "timestamp")),
    *((_said("features", CAMERA, at), f"odd of {CAMERA} in info.json") for at in ("info", "video_info")),
    (_said("features", STATE, "info"), f"odd of {STATE} in info.json"),
    (_column(DATA), "odd, which info.json lacks"),
    (_metadata(DATA, None), "metadata odd of tables"),
    *((_metadata(DATA, key), f"metadata odd of {key}") for key in (STATE, "action", "index")),
    (_file("odd.json"), "odd.json"),
    (_file("meta", "odd.json"), "meta/odd.json"),
    (_file("data", "chunk-000", "odd.csv"), "data/chunk-*/odd.csv"),
    (_file("images", "odd", "0.png"), "images"),
]
SECOND = [
    (_line("episodes.jsonl"), "odd of the index of episodes"),
    (_line("tasks.jsonl"), "odd of the list of tasks"),
    (_file("videos", "chunk-000", "odd", "episode_000000.mp4"), "videos/chunk-*/odd"),
    (_file("videos", "chunk-000", CAMERA, "odd.srt"), f"videos/chunk-*/{CAMERA}/odd.srt"),
    (_column(DATA, CAMERA), f"{CAMERA} in the tables, of which the films are read"),
]
THIRD = [
    (_column(EPISODES), "odd of the index of episodes"),
    (_column(EPISODES, "videos/odd/file_index"), "videos/odd of the index of episodes"),
    (_column(EPISODES, "data/odd"), "data/odd of the index of episodes"),
    (_column("meta/tasks.parquet"), "odd of the list of tasks"),
    (_metadata(EPISODES, "length"), "metadata odd of length"),
    (_file("videos", "odd", "chunk-000", "file-000.mp4"), "videos/odd"),
    (_file("meta", "episodes", "odd.csv"), "meta/episodes/odd.csv"),
]


@pytest.mark.parametrize(
    ("kind", "put", "name"),
    [(kind, *case) for kind in KINDS[:2] for case in [*EVERY, *(SECOND if kind == "v21_video" else THIRD)]],
)
def test_what_is_there_and_not_read_is_named(tmp_path: Path, kind: str, put: Callable[[Path], Any], name: str) -> None:
    put(copied(kind, tmp_path))
    source = open_source(tmp_path / kind, "lerobot")
    assert sorted(source.dropped()) == sorted([*USUAL, name])
    assert len(source[0]) == 12


def test_films_beside_pictures_of_the_same_camera_are_named(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    shutil.copytree(copied("v30_video", tmp_path) / "videos", root / "videos")
    assert sorted({*open_source(root, "lerobot").dropped()} - {*USUAL}) == ["videos"]


def test_a_key_of_many_features_is_named_once(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: [feature.update(note="a") for feature in info["features"].values()])
    assert {*open_source(root, "lerobot").dropped()} - {*USUAL} == {f"note of {CAMERA} and 7 more in info.json"}


@pytest.mark.parametrize(
    ("key", "names", "named"),
    [
        (STATE, {"gripper": ["a", "b"], "position": [*"xyz"], "quaternion": [*"wxyz"]}, "names"),
        (STATE, {"qw": 0, "qx": 1, "y": 2}, "names"),
        (STATE, {"position": [*"xyz"], "quaternion": [*"xyzw"]}, "names"),
        (STATE, "qw qx qy qz x y z a b", "names"),
        (STATE, [*"xyz", "qw", "qx", "qy", "qz", "a", None], "names"),
        (STATE, {"position": [*"xyz"], "others": [*"abcdef"], "frame": "world"}, "frame"),
        (STATE, 3, "names"),
        ("action", {"a": 0, "c": 1, "b": 2}, "names"),
        (CAMERA, 3, "names"),
        (CAMERA, ["height", "width", "depth"], "names"),
        (CAMERA, ["height", "width", "channel"], None),
        (STATE, ["state"], None),
        (STATE, {"motors": ["state"]}, None),
        (STATE, None, None),
    ],
)
def test_names_that_cannot_be_read_are_named(tmp_path: Path, key: str, names: Any, named: str | None) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][key].update(names=names))
    left = {*open_source(root, "lerobot").dropped()} - {*USUAL}
    assert left == ({f"{named} of {key} in info.json"} if named else set())


@pytest.mark.parametrize(
    ("kind", "said", "told"),
    [
        ("v21_video", {"total_tasks": 5, "total_chunks": 1}, r"total_tasks 5 \(here 2\)"),
        ("v21_video", {"total_videos": 4, "total_chunks": 3}, r"total_videos 4 \(here 2\), total_chunks 3 \(here 1\)"),
        ("v30_image", {"splits": {"train": "0:1", "test": "1:2"}}, r"splits \{'train': '0:1', 'test': '1:2'\} \(here"),
        ("v30_image", {"splits": None, "total_tasks": 2}, None),
    ],
)
def test_totals_that_are_out_of_date_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, said: dict[str, Any], told: str | None
) -> None:
    root = copied(kind, tmp_path)
    described(root, lambda info: info.update(said))
    assert len(open_source(root, "lerobot")) == 2
    out = capsys.readouterr().out
    assert re.fullmatch(rf"note: .*/info.json says {told}.*; all that is here is taken\n", out) if told else not out


def test_an_index_that_says_that_it_lies_elsewhere_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied("v30_image", tmp_path)
    change(root, EPISODES, "meta/episodes/file_index", lambda rows: [7] * len(rows))
    assert len(open_source(root, "lerobot")) == 2
    assert "row 1: it says that it is in chunk and file [0, 7] of the index" in capsys.readouterr().out


def test_tables_of_an_undeclared_name_are_columns(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    file = sorted(root.glob(DATA))[0]
    table = pq.ParquetFile(file).read()
    pq.write_table(table.append_column("", pa.array([0] * len(table))), file)
    assert ", which info.json lacks" in open_source(root, "lerobot").dropped()
