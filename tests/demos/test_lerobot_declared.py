"""What a LeRobot dataset says of its columns, films and episodes beside them: ends, success, units, paces and lists."""

from __future__ import annotations

import re
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


def _with(root: Path, column: str, values: Callable[[int], list[Any]], dtype: str | None = "bool") -> None:
    """A column of the first table; info.json declares it, where it says of what kind it is."""
    file = sorted(root.glob("data/**/*.parquet"))[0]
    cells = pq.ParquetFile(file).read().to_pydict()
    pq.write_table(pa.table({**cells, column: values(len(cells["index"]))}), file)
    if dtype is not None:
        feature = {"dtype": dtype, "shape": [1], "names": None}
        described(root, lambda info: info["features"].update({column: feature}))


@pytest.mark.parametrize("declared", ["bool", None])
@pytest.mark.parametrize(
    ("column", "steps", "says"),
    [
        ("is_first", [0], None),
        ("is_first", [5], r"is_first is true at steps \[5\] of 12, it must be at 0 only"),
        ("is_last", [11], None),
        ("is_last", [3], r"is_last is true at steps \[3\]"),
        ("is_terminal", [3], r"is_terminal is true at steps \[3\]"),
        ("done", [3], "'done' is true at step 3 of 12 and not at the last"),
        ("next.terminated", [3], "'next.terminated': 'terminated' is true at step 3 of 12"),
        ("next.truncated", [3, 11], "'next.truncated': 'truncated' is true at step 3 of 12"),
        ("next.truncated", [], None),
    ],
)
def test_columns_that_say_where_an_episode_ends_say_it_of_this_one(
    tmp_path: Path, column: str, steps: list[int], says: str | None, declared: str | None
) -> None:
    root = copied("v21_video", tmp_path)
    _with(root, column, lambda n: [step in steps for step in range(n)], declared)
    if says is None:
        assert len(open_source(root, "lerobot").read(0, images=False)) == 12
    else:
        with pytest.raises(EpisodeError, match=f"0.parquet, episode 0: {says}"):
            open_source(root, "lerobot").read(0, images=False)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("next.done", [None] * 12, "'next.done' holds no truth value; write true and false"),
        ("next.done", ["no"] * 12, "'next.done' holds text"),
        ("next.done", [*[0.0] * 11, 2.5], "'next.done' holds float64"),
        ("next.done", [*[0] * 11, 1], None),
        ("next.done", [*[0] * 11, 7], "'next.done' holds 7, info.json says 'bool'; correct it"),
        ("done", [*[0] * 11, -1], "'done' holds -1, info.json says 'bool'"),
        ("next.success", ["True"] * 12, "'next.success' holds text, info.json says 'bool'; correct it"),
    ],
)
def test_truth_values_are_stored_as_such(tmp_path: Path, column: str, values: list[Any], says: str | None) -> None:
    root = copied("v21_video", tmp_path)
    _with(root, column, lambda _: values)
    if says is None:
        assert len(open_source(root, "lerobot").read(0, images=False)) == 12
    else:
        with pytest.raises(EpisodeError, match=f"episode 0: {says}"):
            open_source(root, "lerobot").read(0, images=False)


def test_columns_that_contradict_each_other_on_success_are_refused(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    _with(root, "next.success", lambda n: [False] * (n - 1) + [True])
    _with(root, "is_episode_successful", lambda n: [True] * n)
    assert open_source(root, "lerobot").read(0, images=False).success
    _with(root, "is_episode_successful", lambda n: [False] * n)
    said = "the last step says is_episode_successful false, next.success true; correct one of them"
    with pytest.raises(EpisodeError, match=f"episode 0: {said}"):
        open_source(root, "lerobot").read(0, images=False)
    _with(root, "is_episode_successful", lambda n: [step % 2 == 1 for step in range(n)])
    with pytest.raises(EpisodeError, match="'is_episode_successful' is true at some steps and false at others"):
        open_source(root, "lerobot").read(0, images=False)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"unit": "mm"}, "says that it is in 'mm', it is read as m and rad; convert it, and the unit"),
        ({"units": ["m", "m", "deg"]}, "says that it is in 'deg'"),
        ({"info": {"unit": "Millimeters"}}, "says that it is in 'millimeters'"),
        ({"scale_factor": 0.001}, "says scale_factor 0.001, which is not applied; write the numbers themselves"),
        ({"scale_factor": 1.0, "unit": "m, rad"}, None),
        ({"unit": "in"}, "says that it is in 'in'"),
        ({"unit": "m in the world"}, "note: .* its unit 'in' is not read, it is taken as m"),
        ({"unit": "robot"}, "note: .* its unit 'robot' is not read, it is taken as m"),
        ({"fps": 50}, "has fps 50, the dataset 10; correct one of them"),
        ({"fps": "fast"}, "has fps fast, the dataset 10"),
        ({"fps": 10.0}, None),
    ],
)
def test_units_and_paces_of_a_state_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: dict[str, Any], message: str | None
) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][STATE].update(said))
    if message is None or message.startswith("note"):
        assert len(open_source(root, "lerobot")) == 2
        assert re.search(message or "^$", capsys.readouterr().out)
    else:
        with pytest.raises(EpisodeError, match=f"info.json: '{STATE}' {message}"):
            open_source(root, "lerobot")


def test_the_unit_that_a_tables_column_states_is_compared(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    file = sorted(root.glob("data/**/*.parquet"))[0]
    table = pq.read_table(file)
    place = table.schema.get_field_index(STATE)
    field = table.schema.field(place)
    place_of_action, said = table.schema.get_field_index("action"), {"scale_factor": "0.001"}
    packed = table.schema.set(place_of_action, table.schema.field("action").with_metadata(said))
    pq.write_table(table.cast(packed), file)
    with pytest.raises(EpisodeError, match=r"episode 0: 'action' says scale_factor 0\.001"):
        open_source(root, "lerobot").read(0, images=False)
    for unit, fits in (("m", True), ("mm", False)):
        pq.write_table(table.cast(table.schema.set(place, field.with_metadata({"unit": unit}))), file)
        if fits:
            assert len(open_source(root, "lerobot").read(0, images=False)) == 12
        else:
            with pytest.raises(EpisodeError, match=f"episode 0: '{STATE}' says that it is in 'mm'"):
                open_source(root, "lerobot").read(0, images=False)


@pytest.mark.parametrize(
    ("key", "said", "message"),
    [
        ("timestamp", {"fps": 50}, "has fps 50, the dataset 10"),
        ("index", {"shape": [2]}, r"has the shape \[2\], it is one number a step; correct it"),
        ("episode_index", {"shape": []}, None),
        ("action", {"scale_factor": 0.001}, "says scale_factor 0.001, which is not applied"),
        ("action", {"add_offset": [0.0] * 7}, None),
        ("observation.images.front", {"color_order": "BGR"}, "is BGR by its color_order, pictures are read as RGB"),
        ("observation.images.front", {"info": {"color_mode": "bgr24"}}, "is BGR by its color_mode"),
        ("observation.images.front", {"names": ["height", "width", "channels (BGR)"]}, "is BGR by its names"),
        ("observation.images.front", {"names": ["height", "width", [*"bgr"]]}, "is BGR by its names"),
        ("observation.images.front", {"info": {"video.pix_fmt": "bgr24", "made": "BGR to RGB"}}, None),
    ],
)
def test_what_is_said_of_other_features_that_are_read_is_compared(
    tmp_path: Path, key: str, said: dict[str, Any], message: str | None
) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][key].update(said))
    if message is None:
        assert len(open_source(root, "lerobot").read(0, images=False)) == 12
    else:
        with pytest.raises(EpisodeError, match=f"info.json: '{key}' {message}"):
            open_source(root, "lerobot")


@pytest.mark.parametrize(
    "said",
    [
        {"info": {"is_depth_map": False, "video.is_depth_map": True}},
        {"info": {"video.is_depth_map": False}, "video_info": {"video.is_depth_map": True}},
        {"info": {"video.is_depth_map": False}, "is_depth_map": True},
    ],
)
def test_two_statements_of_depth_agree(tmp_path: Path, said: dict[str, Any]) -> None:
    root = copied("v21_video", tmp_path)
    described(root, lambda info: info["features"]["observation.images.front"].update(said))
    with pytest.raises(
        EpisodeError, match=r"front says .*is_depth_map (True|False) and .*is_depth_map (True|False); cor"
    ):
        open_source(root, "lerobot")


@pytest.mark.parametrize(
    ("kind", "said", "told"),
    [
        ("v30_video", {}, []),
        ("v30_video", {"fps": 30, "video.width": float("nan")}, ["video.width is nan", "video.fps is 30, fps says 10"]),
        ("v30_video", {"video.fps": 30}, ["its video.fps is 30, fps says 10, which is taken"]),
        (
            "v21_video",
            {"video.height": 480, "video.channels": 1},
            ["its video.height is 480, its shape says 64", "its video.channels is 1, its shape says 3"],
        ),
    ],
)
def test_what_info_json_says_of_films_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, said: dict[str, Any], told: list[str]
) -> None:
    root = copied(kind, tmp_path)
    described(root, lambda info: info["features"]["observation.images.front"]["info"].update(said))
    assert len(open_source(root, "lerobot")) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(told) and all(text in line for text, line in zip(told, lines))


@pytest.mark.parametrize(("flag", "read"), [("false", True), (False, True), (None, True), ("True", False), (1, False)])
def test_a_depth_map_is_one_that_says_so(tmp_path: Path, flag: Any, read: bool) -> None:
    root = copied("v21_video", tmp_path)
    described(
        root, lambda info: info["features"]["observation.images.front"]["info"].update({"video.is_depth_map": flag})
    )
    assert bool(open_source(root, "lerobot")[0].images) is read


def test_names_of_a_pictures_axes_in_another_order_than_its_shape_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied("v30_image", tmp_path)
    for names in (["channels", "height", "width"], ["width", "height", "channels"]):
        described(root, lambda info: info["features"]["observation.images.front"].update(names=names))  # noqa: B023
        assert len(open_source(root, "lerobot")) == 2
        assert f"its names are {', '.join(names)}, its shape [64, 64, 3] is taken" in capsys.readouterr().out


def test_films_beside_an_old_kind_of_info_are_compared_with_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, said = copied("v21_video", tmp_path), {"video.fps": 30.0, "video.height": 64}
    described(root, lambda info: info["features"]["observation.images.front"].update(video_info=said))
    assert len(open_source(root, "lerobot")) == 2
    assert capsys.readouterr().out.count("its video.fps is 30.0, fps says 10") == 1


@pytest.mark.parametrize(
    ("feature", "names", "message"),
    [
        ("observation.images.front", ["height", "width", "BGR"], "is BGR by its names, pictures are read as RGB"),
        (STATE, {"x": 0, "y": 1, "z": 1, "qw": 3}, r"names gives its columns the places \[0, 1, 1, 3\], each must be"),
    ],
)
def test_names_that_no_reader_can_follow_are_refused(tmp_path: Path, feature: str, names: Any, message: str) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][feature].update(names=names))
    with pytest.raises(EpisodeError, match=message):
        open_source(root, "lerobot")


@pytest.mark.parametrize(("kind", "name"), [("v21_video", "episode_000002.mp4"), ("v30_video", "file-001.mp4")])
def test_a_film_that_no_episode_of_the_index_names_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    film = sorted(copied(kind, tmp_path).rglob("*.mp4"))[0]
    shutil.copy(film, film.with_name(name))
    assert len(open_source(tmp_path / kind, "lerobot", image_keys={})) == 2, "no film is read"
    with pytest.raises(EpisodeError, match=rf"{name}: by the index, no episode is in it; download .*/meta again"):
        open_source(tmp_path / kind, "lerobot")


def test_what_lies_in_an_index_and_beside_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second, third = copied("v21_video", tmp_path), copied("v30_image", tmp_path)
    assert open_source(second, "lerobot").dropped() == open_source(third, "lerobot").dropped()
    assert not capsys.readouterr().out
    shutil.copy(second / "meta" / "episodes.jsonl", third / "meta")
    change(third, "meta/tasks.parquet", "__index_level_0__", lambda _: ["a", "b"])
    change(third, "meta/tasks.parquet", "task", lambda _: ["push block 0", "push block 1"])
    assert open_source(third, "lerobot").read(0, images=False).language_instruction == "push block 0"
    told = capsys.readouterr().out
    assert "episodes.jsonl: of another version and not read; episodes and tasks.parquet are" in told
    assert "its column '__index_level_0__' is not read, 'task' is" in told
    index = second / "meta" / "episodes.jsonl"
    lines = index.read_text().replace('"length"', '"success": false, "length"')
    index.write_text(lines.replace('"tasks": [', '"tasks": ["push block 1", ', 1))
    source = open_source(second, "lerobot")
    assert "success of the index of episodes" in source.dropped()
    assert "episodes.jsonl row 1: several tasks; the one of the episode's steps is taken" in capsys.readouterr().out


def test_an_action_that_ends_with_no_gripper_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"]["action"].update(names=[*"xyz", "qx", "qy", "qz", "qw"]))
    open_source(root, "lerobot")
    assert "info.json: 'action': 'qw', the last number of an arm's action, is taken as" in capsys.readouterr().out
