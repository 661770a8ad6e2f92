"""A LeRobot dataset that holds more than its index lists, or whose info.json says other things than its tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_lerobot_damage import change, copied, described

from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source

STATE = "observation.state"
POSE = ["x", "y", "z", "qw", "qx", "qy", "qz", "finger_1", "finger_2"]
TURNED = ["x", "y", "z", "qx", "qy", "qz", "qw", "finger_1", "finger_2"]


@pytest.mark.parametrize("kind", ["v21_video", "v30_image"])
def test_a_table_that_no_episode_of_the_index_names_is_refused(tmp_path: Path, kind: str) -> None:
    file = sorted((copied(kind, tmp_path) / "data").rglob("*.parquet"))[-1]
    (hidden := file.parent / ".ipynb_checkpoints").mkdir()
    shutil.copy(file, hidden / file.name)
    assert len(open_source(tmp_path / kind, "lerobot")) == 2
    other = Path(shutil.copy(file, file.with_name(file.name.replace("00.", "07.").replace("01.", "07."))))
    with pytest.raises(EpisodeError, match=rf"{other.name}: by the index, no episode is in it; download .*/meta again"):
        open_source(tmp_path / kind, "lerobot")


def test_tables_behind_a_link_to_a_folder_are_known_by_their_content(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    index = sorted((root / "meta" / "episodes").rglob("*.parquet"))[0]
    (hidden := index.parent / ".ipynb_checkpoints").mkdir()
    shutil.copy(index, hidden / index.name)
    shutil.move(root / "data", tmp_path / "disk")
    (root / "data").symlink_to(tmp_path / "disk")
    source = open_source(root, "lerobot")
    before = source.identity()
    change(tmp_path / "disk", "**/*.parquet", "action", lambda rows: [[0.0] * 7 for _ in rows])
    assert source.identity() != before
    with pytest.raises(EpisodeError, match=r"\.parquet changed while it was read"):
        source.unchanged()  # type: ignore[misc]


def test_a_folder_of_which_some_episodes_were_downloaded_is_opened(tmp_path: Path) -> None:
    sorted((copied("v21_video", tmp_path) / "data").rglob("*.parquet"))[1].unlink()
    source = open_source(tmp_path / "v21_video", "lerobot")
    assert len(source.read(0, images=False)) == 12
    with pytest.raises(EpisodeError, match=r"episode_000001.parquet: the table cannot be read"):
        source.read(1, images=False)


@pytest.mark.parametrize(("kind", "rows", "listed"), [("v21_video", 24, 12), ("v30_image", 42, 21)])
def test_rows_that_no_episode_of_the_index_names_are_refused(tmp_path: Path, kind: str, rows: int, listed: int) -> None:
    file = sorted((copied(kind, tmp_path) / "data").rglob("*.parquet"))[0]
    cells = pq.ParquetFile(file).read().to_pydict()
    doubled = {name: [*values, *values] for name, values in cells.items()}
    doubled["episode_index"] = [*cells["episode_index"], *[7] * (rows - listed)]
    pq.write_table(pa.table(doubled), file)
    with pytest.raises(EpisodeError, match=rf"{file.name}: {rows} rows, the index lists {listed} steps of it; down"):
        open_source(tmp_path / kind, "lerobot").read(0, images=False)


@pytest.mark.parametrize("key", [STATE, "action"])
@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (None, True),
        ([], True),
        (["state"], True),  # one name, of the axis
        ({"a": 0, "b": 1}, True),
        (["a", "b"], False),
        ([["a", "b"]], False),
        ({"motors": ["a", "b"]}, False),
        ({"axes": [f"number_{i}" for i in range(9)]}, None),
    ],
)
def test_there_are_as_many_names_as_numbers(tmp_path: Path, key: str, names: Any, fits: bool | None) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][key].update(names=names))
    if fits if fits is not None else key == STATE:
        assert len(open_source(root, "lerobot")) == 2
    else:
        with pytest.raises(EpisodeError, match=rf"info.json: '{key}' has \d names and the shape \[\d\]; correct one"):
            open_source(root, "lerobot")


@pytest.mark.parametrize(
    ("names", "layout", "says"),
    [
        (POSE, "gap", None),
        (TURNED, "robomimic", None),
        (["a", "w", "z", *POSE[3:]], "gap", None),
        (TURNED, {"rotation_kind": "none"}, None),
        ([f"left_quat_{name}" for name in "abcwxyzde"], "gap", None),
        (TURNED, "gap", "columns 3 to 6 qx, qy, qz, qw, .* quaternion wxyz; give another with .*layout=robomimic$"),
        (POSE, "robomimic", "columns 3 to 6 qw, qx, qy, qz, .* quaternion xyzw; give another with .*layout=gap$"),
        ({"motors": [f"eef_Quat.{n[-1]}" for n in TURNED]}, "gap", r"columns 3 to 6 eef_Quat\.x, .*layout=robomimic$"),
        ({name: place for place, name in [*enumerate(TURNED)][::-1]}, "gap", "columns 3 to 6 qx, .*layout=robomimic$"),
        (
            {"position": [*"xyz"], "others": TURNED[3:], "unit": "m"},
            "gap",
            r"columns 3 to 6 others\.qx, .*layout=robomimic$",
        ),
        ({"axes": [*"abc"], "others": TURNED[3:], "notes": ["a"]}, "gap", None),
        ({"grip": ["g"] * 2, "orientation": POSE[3:7], "position": [*"xyz"]}, "gap", None),  # by the alphabet
        (
            {"position": [*"xyz"], "quaternion_xyzw": [*"xyzw"], "grip": ["a", "b"]},
            "gap",
            "columns 3 to 6 quaternion_xyzw.x",
        ),
        (["grip", *TURNED[:8]], "gap", "columns 3 to 6 z, qx, qy, qz, .*layout=JSON of the columns$"),
        ([*"xyz", *(f"rot_{n}" for n in "xyzw"), "a", "b"], "gap", r"columns 3 to 6 rot_x, .*layout=robomimic$"),
        ([*"xyz", *(f"orientation_{n}" for n in "xyzw"), "a", "b"], "gap", "columns 3 to 6 orientation_x, "),
        (
            TURNED,
            {"rotation_kind": "rotvec"},
            "columns 3 to 5 qx, qy, qz, the layout takes them as rotvec; give another",
        ),
    ],
)
def test_quaternions_are_taken_in_the_order_of_their_names(
    tmp_path: Path, names: Any, layout: Any, says: str | None
) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][STATE].update(names=names))
    if says is None:
        assert len(open_source(root, "lerobot", layout=layout)) == 2
    else:
        with pytest.raises(EpisodeError, match=rf"info.json: '{STATE}' calls {says}"):
            open_source(root, "lerobot", layout=layout)


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["dx", "dy", "dz", "rx", "ry", "rz", "gripper"], None),
        ([f"finger_{i}" for i in range(7)], None),
        (["gripper", "dx", "dy", "dz", "rx", "ry", "rz"], "column 0 'gripper'; .* the gripper last"),
        ({"motors": ["j0", "j1", "j2", "j3", "j4", "Left_Finger", "j5"]}, "column 5 'Left_Finger'"),
        (["dy", "dx", "dz", "rx", "ry", "rz", "gripper"], "dy, dx, dz .* are x, y, z, roll, pitch, yaw, gripper: put"),
        (["rx", "ry", "rz", "dx", "dy", "dz", "gripper"], "rx, ry, rz"),
        (["x", "y", "z", "yaw", "pitch", "roll", "gripper"], "yaw, pitch, roll"),
        ([f"shoulder_{n}" for n in ("pitch", "roll", "yaw")] + [f"j{i}" for i in range(4)], None),
    ],
)
def test_the_numbers_of_an_action_are_in_the_order_that_is_taken(tmp_path: Path, names: Any, wrong: str | None) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"]["action"].update(names=names))
    if wrong is None:
        assert len(open_source(root, "lerobot")) == 2
    else:
        with pytest.raises(EpisodeError, match=f"info.json: 'action' (calls|has columns) {wrong}"):
            open_source(root, "lerobot")


@pytest.mark.parametrize(
    ("key", "dtype", "message"),
    [
        (STATE, "int64", rf"'{STATE}' holds float\d+, info.json says 'int64'; correct it"),
        ("action", "uint8", r"'action' holds float\d+, info.json says 'uint8'"),
        ("frame_index", "float32", "'frame_index' holds int64, info.json says 'float32'"),
        ("timestamp", "int64", "'timestamp' holds float64, info.json says 'int64'"),
        (
            "action",
            "float999",
            "action: dtype is 'float999'|action.dtype is 'float999', which no number is; correct it",
        ),
        ("index", "int7", "dtype is 'int7', which no number is"),
        ("index", "int32", None),
        ("episode_index", "float32", "'episode_index' holds int64, info.json says 'float32'"),
        ("index", "string", "'index' holds int64, info.json says 'string'"),
        ("timestamp", "float64", None),
    ],
)
def test_numbers_are_of_the_kind_that_is_declared(tmp_path: Path, key: str, dtype: str, message: str | None) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][key].update(dtype=dtype))
    if message is None:
        assert len(open_source(root, "lerobot").read(0, images=False)) == 12
    else:
        with pytest.raises(EpisodeError, match=message):
            open_source(root, "lerobot").read(0, images=False)


@pytest.mark.parametrize(
    ("dtype", "number", "fits"), [("uint8", -1, False), ("int8", -1, True), ("float16", 9e4, False)]
)
def test_numbers_fit_into_the_kind_that_is_declared(tmp_path: Path, dtype: str, number: float, fits: bool) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"]["action"].update(dtype=dtype))
    change(root, "data/**/*.parquet", "action", lambda rows: [[number] * 7 for _ in rows])
    if fits:
        assert len(open_source(root, "lerobot").read(0, images=False)) == 12
    else:
        with pytest.raises(EpisodeError, match=rf"'action' holds {number:g}, info.json says '{dtype}'; correct it"):
            open_source(root, "lerobot").read(0, images=False)


def test_a_task_of_the_index_is_one_of_the_list(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"].pop("task_index"))
    file = sorted(root.glob("data/**/*.parquet"))[0]
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["task_index"]), file)
    assert open_source(root, "lerobot").read(0, images=False).language_instruction == "push block 0"
    change(root, "meta/episodes/**/*.parquet", "tasks", lambda _: [["fly"], ["swim"]])
    with pytest.raises(
        EpisodeError, match=r"episode 0: the index names the task 'fly', which meta/tasks.\* lacks; dow"
    ):
        open_source(root, "lerobot").read(0, images=False)


def test_files_of_two_numbers_are_two_files(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info.update(data_path="data/chunk-000/file-000.parquet"))
    assert len(open_source(root, "lerobot")) == 2
    change(root, "meta/episodes/**/*.parquet", "data/file_index", lambda _: [3, 4])
    with pytest.raises(
        EpisodeError, match=r"row 2: chunk and file \[0, 4\] of 'data', which is .*, as \[0, 3\] is; correct"
    ):
        open_source(root, "lerobot")


@pytest.mark.parametrize(
    ("version", "known"), [("v2.0", True), ("v2.15", True), *((v, False) for v in "v2 v2x v20.1 v2.1.0 v3.".split())]
)
def test_a_version_is_2_or_3_and_a_number(tmp_path: Path, version: str, known: bool) -> None:
    root = copied("v21_video", tmp_path)
    described(root, lambda info: info.update(codebase_version=version))
    if known:
        assert len(open_source(root, "lerobot")) == 2
    else:
        with pytest.raises(EpisodeError, match=rf"info.json: LeRobot format {version}; v2 and v3 are read"):
            open_source(root, "lerobot")


@pytest.mark.parametrize("column", ["frame_index", "index", "timestamp", "task_index"])
def test_counters_that_info_json_does_not_list_are_compared_all_the_same(tmp_path: Path, column: str) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"].pop(column))
    assert len(open_source(root, "lerobot").read(0, images=False)) == 12
    change(root, "data/**/*.parquet", column, lambda c: [n + 5 for n in c])
    with pytest.raises(EpisodeError, match=rf"episode 0: '{column}' is 5"):
        open_source(root, "lerobot").read(0, images=False)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("new", "success"),
    [
        (lambda n: [False] * n, False),
        (lambda n: [False] * (n - 1) + [True], True),
        (lambda n: [[True]] * (n - 1) + [[False]], False),
        (lambda n: [None] * n, None),
        (lambda n: [["a", "b"]] * n, None),
    ],
)
def test_the_last_step_says_whether_it_succeeded(
    tmp_path: Path, new: Callable[[int], list[Any]], success: bool | None, listed: bool
) -> None:
    root = copied("v21_video", tmp_path)
    assert open_source(root, "lerobot").read(0, images=False).success
    if listed:
        feature = {"dtype": "bool", "shape": [1], "names": None}
        described(root, lambda info: info["features"].update({"next.success": feature}))
    file = sorted(root.glob("data/**/*.parquet"))[0]
    cells = pq.ParquetFile(file).read().to_pydict()
    pq.write_table(pa.table({**cells, "next.success": new(12)}), file)
    source = open_source(root, "lerobot")
    assert ("next.success, which info.json lacks" in source.dropped()) is not listed
    assert "next.success" not in source.dropped()
    if not listed:
        assert "success" not in source.mapping() and source.read(0, images=False).success
        return
    said = f"next.success (stated in 1 of {len(source)}, the others count as true)"
    assert source.mapping()["success"] == said
    if success is None:
        with pytest.raises(
            EpisodeError, match=r"episode 0: 'next.success' of the last step is .*; store a truth value"
        ):
            source.read(0, images=False)
    else:
        assert source.read(0, images=False).success is success
        assert source.read(1, images=False).success, "its table has no such column"


@pytest.mark.parametrize("column", ["success", "is_episode_successful"])
def test_success_is_read_under_the_names_that_datasets_have(column: str, tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    feature = {"dtype": "bool", "shape": [1], "names": None}
    described(root, lambda info: info["features"].update({column: feature, "quality": feature}))
    change(root, "data/**/*.parquet", column, lambda _: [False] * 12)
    source = open_source(root, "lerobot")
    assert not source.read(0, images=False).success
    assert source.mapping()["success"] == f"{column} (stated in 1 of 2, the others count as true)"
    assert "quality" in source.dropped() and column not in source.dropped()
    described(root, lambda info: info["features"].update({"next.success": feature}))
    assert column not in open_source(root, "lerobot").dropped(), "the other one is in no table"
    change(root, "data/**/*.parquet", "next.success", lambda _: [False] * 12)
    assert column in open_source(root, "lerobot").dropped(), "another one says it"


def test_success_that_is_declared_and_in_no_table_is_not_taken_for_true(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    described(
        root, lambda info: info["features"].update({"next.success": {"dtype": "bool", "shape": [1], "names": None}})
    )
    with pytest.raises(EpisodeError, match=r"info.json declares 'next.success', which no table has; download it again"):
        open_source(root, "lerobot").read(0, images=False)


@pytest.mark.parametrize("said", [[2, 9], [18]])
def test_a_history_of_states_is_no_second_arm(tmp_path: Path, said: list[int]) -> None:
    root = copied("v30_image", tmp_path)
    change(root, "data/**/*.parquet", STATE, lambda rows: [[row, row] for row in rows])

    def describe(info: Any) -> None:
        info["features"][STATE].update(shape=said, names=None)

    described(root, describe)
    with pytest.raises(EpisodeError, match="several rows a step; name one of one row"):
        open_source(root, "lerobot").read(0, images=False)
