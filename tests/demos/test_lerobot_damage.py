"""What LeRobot's own library writes into every dataset is compared: steps, times, tasks, and the parts of videos."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source
from gap_vla.demos.lerobot import _require_counted
from gap_vla.demos.lerobot_index import EpisodePlace

TINY = Path(__file__).parents[1] / "data" / "lerobot"
VIDEO = "videos/observation.images.front"


def copied(kind: str, folder: Path) -> Path:
    return Path(shutil.copytree(TINY / kind, folder / kind))


def change(root: Path, pattern: str, column: str, new: Callable[[list[Any]], list[Any]]) -> None:
    """One column of the first table of that name."""
    file = sorted(root.glob(pattern))[0]
    cells = pq.ParquetFile(file).read().to_pydict()
    pq.write_table(pa.table({**cells, column: new(cells.get(column, []))}), file)


@pytest.mark.parametrize("kind", ["v21_video", "v30_image"])
@pytest.mark.parametrize(
    ("column", "new", "message"),
    [
        ("frame_index", lambda c: [n + 1 for n in c], "'frame_index' is 1 at step 0, not 0; download it again"),
        ("frame_index", lambda c: [*c[:5], 4, *c[6:]], "'frame_index' is 4 at step 5, not 5"),
        ("frame_index", lambda c: c[1::-1] + c[2:], "'frame_index' is 1 at step 0, not 0"),
        ("frame_index", lambda c: [None, *c[1:]], "'frame_index' is no number per step"),
        ("index", lambda c: [n + 1 for n in c], "'index' is 1 at step 0, not 0"),
        ("index", lambda c: c[::-1], "'index' is .* at step 0, not 0"),
        ("timestamp", lambda c: list(map(str, c)), "'timestamp' is no number per step"),
        ("timestamp", lambda c: [[t, t] for t in c], "'timestamp' is no number per step"),
        ("timestamp", lambda c: [*c[:3], float("nan"), *c[4:]], "'timestamp' is nan at step 3, not 0.3"),
        ("timestamp", lambda c: [0.0] * len(c), "'timestamp' is 0 at step 1, not 0.1"),
        ("timestamp", lambda c: [1000 * t for t in c], r"'timestamp' is 100 at step 1, .* or correct fps in"),
        ("timestamp", lambda c: [t + 0.1 for t in c], "'timestamp' is 0.1 at step 0, not 0"),
        ("timestamp", lambda c: [*c[:4], *(t + 0.2 for t in c[4:])], "'timestamp' is 0.6 at step 4, not 0.4"),
        ("task_index", lambda c: [-1] * len(c), r"'task_index' is -1, meta/tasks.* numbers .* \[0\]; download both"),
        ("task_index", lambda c: [None] * len(c), "'task_index' is None"),
        ("task_index", lambda c: [1] * len(c), "'task_index' is 1"),
        ("task_index", lambda c: list(map(str, c)), "'task_index' is '0'"),
        ("episode_index", lambda c: [7] * len(c), "0 rows of this number, the index says 12"),
    ],
)  # fmt: skip
def test_steps_that_are_not_counted_as_lerobot_counts_them_are_named(
    tmp_path: Path, kind: str, column: str, new: Callable[[list[Any]], list[Any]], message: str
) -> None:
    root = copied(kind, tmp_path)
    change(root, "data/**/*.parquet", column, new)
    with pytest.raises(EpisodeError, match=rf"0.parquet, episode 0: {message}"):
        open_source(root, "lerobot").read(0, images=False)


def test_a_clock_that_is_not_quite_right_is_accepted(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    change(root, "data/**/*.parquet", "timestamp", lambda c: [1.005 * t + 0.04 * (i % 2) for i, t in enumerate(c)])
    assert [len(episode) for episode in open_source(root, "lerobot")] == [12, 9]


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (lambda i: i - 3 if 300 <= i < 302 else i, "'timestamp' is 29.7 at step 300, not after 29.9"),
        (lambda i: i - i % 3 if i > 250 else i, "'timestamp' is 24.9 at step 251, not after 25"),
        (
            lambda i: i + 3 if i >= 300 else i,
            "'timestamp' is 30.3 at step 300, 29.9 at the one before, frames were lost",
        ),
        (lambda i: 1.005 * i + 0.4 * (i % 2), None),
    ],
)
def test_the_clock_of_a_long_episode_neither_falls_nor_leaps(late: Callable[[int], float], message: str | None) -> None:
    place = EpisodePlace(Path("table"), 0, 0, 400, "", None, {})
    table = {"timestamp": [late(i) / 10 for i in range(400)]}
    if message is None:
        _require_counted(table, place, 10, "here")
    else:
        with pytest.raises(EpisodeError, match=f"here: {message}"):
            _require_counted(table, place, 10, "here")


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({"from": [0.0, 0.0]}, r"row 2: 'observation.images.front' is 2.1 s of a video, the 9 steps take 0.9 s"),
        ({"from": [0.0, 0.0], "to": [1.2, 0.9]}, r"by the index, episode 1 begins at 0 s, not behind all of episode 0"),
        ({"from": [0.0, 0.6], "to": [1.2, 1.5]}, r"episode 1 begins at 0.6 s, not behind all of episode 0"),
        ({"from": [0.9, 0.0], "to": [2.1, 0.9]}, "episode 0 begins at 0.9 s, not behind all of episode 1"),
        ({"to": [1.2, 1.2]}, r"row 2: .* is 0 s of a video, the 9 steps take 0.9 s"),
        ({"from": [1.2, 1.2], "to": [0.0, 2.1]}, r"row 1: .* is -1.2 s of a video"),
        ({"to": [1.2, float("nan")]}, r"to_timestamp is nan; it must be a number from 0"),
        ({"to": [1.2, None]}, r"to_timestamp is None; it must be a number"),
        ({"from": ["0", "1.2"]}, r"from_timestamp is '0'; it must be a number"),
        ({"from": [0.0, 1.5], "to": [1.2, 2.4]}, r"its pictures from 1.2 to 1.5 s, before episode 1, are of none"),
        ({"from": [0.3, 1.5], "to": [1.5, 2.4]}, r"its pictures from 0 to 0.3 s, before episode 0, are of none"),
        ({"to": [120.0, 210.0]}, r"row 1: .* is 120 s of a video, the 12 steps take 1.2 s"),
    ],
)  # fmt: skip
def test_parts_of_a_video_that_are_not_those_of_the_steps_are_named(
    tmp_path: Path, ends: dict[str, list[Any]], message: str
) -> None:
    root = copied("v30_video", tmp_path)
    for end, values in ends.items():
        change(root, "meta/episodes/**/*.parquet", f"{VIDEO}/{end}_timestamp", lambda _, values=values: values)
    with pytest.raises(EpisodeError, match=message):
        open_source(root, "lerobot")


@pytest.mark.parametrize("drift", [-0.004, 0.0001, 0.004])
def test_a_start_beside_its_frame_gives_that_frame(tmp_path: Path, drift: float) -> None:
    root = copied("v30_video", tmp_path)
    for end in ("from", "to"):
        change(root, "meta/episodes/**/*.parquet", f"{VIDEO}/{end}_timestamp", lambda c: [c[0], c[1] + drift])
    found, expected = (open_source(path, "lerobot")[1] for path in (root, TINY / "v30_video"))
    np.testing.assert_array_equal(found.images["image_primary"], expected.images["image_primary"])


def _shared_video(root: Path) -> tuple[Path, list[bytes]]:
    (video,) = root.glob("videos/**/*.mp4")
    reader = imageio_ffmpeg.read_frames(str(video))
    next(reader)
    return video, list(reader)


def _rewritten(video: Path, frames: list[bytes], fps: float, *, more: Sequence[str] = ()) -> None:
    writer = imageio_ffmpeg.write_frames(str(video), (64, 64), fps=fps, macro_block_size=1, output_params=[*more])
    writer.send(None)
    for frame in frames:
        writer.send(frame)
    writer.close()


def test_a_shared_video_of_another_pace_is_refused_where_its_frames_would_be_of_other_moments(tmp_path: Path) -> None:
    root = copied("v30_video", tmp_path)
    video, frames = _shared_video(root)
    fps = json.loads((root / "meta" / "info.json").read_text())["fps"]
    _rewritten(video, frames, 0.955 * fps)
    with pytest.raises(EpisodeError, match=r"frames a second, info\.json says fps"):
        list(open_source(root, "lerobot"))


def test_a_video_that_changes_its_size_is_not_made_to_fit(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    film = sorted(root.rglob("*.mp4"))[0]
    reader = imageio_ffmpeg.read_frames(str(film))
    next(reader)
    frames, fps = list(reader), json.loads((root / "meta" / "info.json").read_text())["fps"]
    parts = [tmp_path / "one.ts", tmp_path / "two.ts"]
    _rewritten(parts[0], frames[: len(frames) // 2], fps)
    _rewritten(parts[1], frames[len(frames) // 2 :], fps, more=["-vf", "scale=32:32"])
    joined = f"concat:{parts[0]}|{parts[1]}"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-i", joined, "-c", "copy", str(film)], check=True
    )
    with pytest.raises(EpisodeError, match=r"episode_000000\.mp4, episode 0"):
        open_source(root, "lerobot")[0]


def test_frames_that_a_shared_video_lost_are_not_filled_in(tmp_path: Path) -> None:
    root = copied("v30_video", tmp_path)
    video, frames = _shared_video(root)
    fps = json.loads((root / "meta" / "info.json").read_text())["fps"]
    lost = "select='not(between(n,2,3))'"
    _rewritten(video, 10 * frames, fps, more=["-vf", lost, "-fps_mode", "passthrough"])
    with pytest.raises(EpisodeError, match=r"episode 0: frames were lost: frame 2 comes .* s after frame 1, others"):
        list(open_source(root, "lerobot"))


def test_a_frame_that_was_lost_is_noticed_where_another_makes_up_the_number(tmp_path: Path) -> None:
    video = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    fps = json.loads((tmp_path / "v21_video" / "meta" / "info.json").read_text())["fps"]
    reader = imageio_ffmpeg.read_frames(str(video))
    next(reader)
    made_up = "select='not(eq(n,4))',tpad=stop_mode=clone:stop=1"
    _rewritten(video, list(reader), fps, more=["-vf", made_up, "-fps_mode", "passthrough"])
    with pytest.raises(EpisodeError, match=r"episode 0: frames were lost: frame 4 comes .* s after frame 3, others"):
        open_source(tmp_path / "v21_video", "lerobot")[0]


def test_rows_in_another_order_than_their_episodes_are_refused(tmp_path: Path) -> None:
    (file,) = copied("v30_image", tmp_path).glob("data/**/*.parquet")
    table = pq.read_table(file)
    first = len([number for number in table["episode_index"].to_pylist() if number == 0])
    pq.write_table(pa.concat_tables([table.slice(first), table.slice(0, first)]), file)
    with pytest.raises(EpisodeError, match=r"its rows are not in the order of 'episode_index'; download it again"):
        open_source(tmp_path / "v30_image", "lerobot")[0]


def test_a_video_that_two_episodes_name_is_refused(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    described = json.loads((root / "meta" / "info.json").read_text())
    path = described["video_path"].replace("{episode_index:06d}", "000000")
    (root / "meta" / "info.json").write_text(json.dumps({**described, "video_path": path}))
    with pytest.raises(EpisodeError, match=r"episode_000000.mp4: by the index, episode 1 begins at 0 s"):
        open_source(root, "lerobot")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\xff\x00", "tasks.jsonl: the index cannot be read"),
        (b"", r"'task_index' is 0, meta/tasks\.\* numbers the episode's tasks \[\]"),
        (b'{"task_index": 0, "task": 5}', "tasks.jsonl row 1: task is 5"),
        (b'{"task_index": "0", "task": "push block 0"}', "tasks.jsonl row 1: task_index is '0'"),
        (
            b'{"task_index": 0, "task": "push block 1"}',
            r"'task_index' is 0, meta/tasks\.\* numbers the episode's tasks \[\]",
        ),
        (b"[1, 2]\n", "tasks.jsonl row 1 is list"),
        (b"7\n", "tasks.jsonl row 1 is 7"),
        (
            b'{"task_index": 0, "task": "push block 0"}\n{"task_index": 0, "task": "push block 1"}',
            "tasks.jsonl row 2: task_index 0 is ",
        ),
        (None, "tasks.jsonl is a folder, no regular file"),
    ],
)
def test_a_list_of_tasks_that_is_none_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = copied("v21_video", tmp_path) / "meta" / "tasks.jsonl"
    file.unlink()
    file.write_bytes(content) if content is not None else file.mkdir()
    with pytest.raises(EpisodeError, match=message):
        open_source(file.parents[1], "lerobot").read(0, images=False)


@pytest.mark.parametrize("column", ["dataset_from_index", "dataset_to_index"])
def test_steps_that_the_index_puts_elsewhere_are_named(tmp_path: Path, column: str) -> None:
    root = copied("v30_image", tmp_path)
    change(root, "meta/episodes/**/*.parquet", column, lambda c: [c[0], c[1] + 1])
    with pytest.raises(EpisodeError, match=rf"row 2: {column} is \d+; it must be \d+$"):
        open_source(root, "lerobot")


@pytest.mark.parametrize("place", [0.1, 0.2, 0.3, 0.4])
def test_a_video_with_a_hole_is_not_filled_in(tmp_path: Path, place: float) -> None:
    file = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    content = bytearray(file.read_bytes())
    begin = int(place * len(content))
    content[begin : begin + 60] = bytes(60)
    file.write_bytes(content)
    with pytest.raises(
        EpisodeError, match=r"episode_000000.mp4, episode 0: (\d+ frames, the episode has 12|the video)"
    ):
        open_source(tmp_path / "v21_video", "lerobot")[0]


def test_a_script_in_the_place_of_a_video_opens_no_other_file(tmp_path: Path) -> None:
    first, second = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[:2]
    for script in (f"ffconcat version 1.0\nfile {second.name}\n", "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"):
        first.write_text(script)
        with pytest.raises(EpisodeError, match=r"_000000\.mp4, episode 0: no video of the kind mp4, mkv, webm or avi"):
            open_source(tmp_path / "v21_video", "lerobot")[0]


def test_neither_a_folder_nor_a_missing_ffmpeg_is_called_a_damaged_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(EpisodeError, match=r"_000000\.mp4: .*nowhere is no ffmpeg that answers; name"):
        open_source(tmp_path / "v21_video", "lerobot")[0]
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    video.unlink()
    video.mkdir()
    with pytest.raises(EpisodeError, match=r"episode_000000\.mp4 is a folder, no regular file; give one"):
        open_source(tmp_path / "v21_video", "lerobot")[0]


def test_a_list_of_tasks_that_was_not_downloaded_is_refused_and_one_that_never_was_is_not(tmp_path: Path) -> None:
    tasks = copied("v21_video", tmp_path) / "meta" / "tasks.jsonl"
    tasks.unlink()
    assert len(open_source(tmp_path / "v21_video", "lerobot").read(0, images=False)) == 12
    change(tmp_path / "v21_video", "data/**/*.parquet", "task_index", lambda c: [0] * 4 + [1] * (len(c) - 4))
    with pytest.raises(EpisodeError, match="'task_index' is 0 and 1; make an episode of each task"):
        open_source(tmp_path / "v21_video", "lerobot").read(0, images=False)
    index, lines = (here := tasks.with_name("episodes.jsonl")), here.read_text()
    index.write_text(lines.replace('"tasks": [', '"tasks": ["another", ', 1))
    with pytest.raises(EpisodeError, match=r"episodes.jsonl row 1: 2 tasks, and there is no meta/tasks.\* to number"):
        open_source(tmp_path / "v21_video", "lerobot")
    index.write_text(lines)
    tasks.symlink_to("blob")
    with pytest.raises(EpisodeError, match=r"tasks.jsonl: the index cannot be read"):
        open_source(tmp_path / "v21_video", "lerobot")


def test_companions_of_macos_and_line_ends_within_an_instruction_are_no_damage(tmp_path: Path) -> None:
    for table in sorted(copied("v30_video", tmp_path).rglob("*.parquet")):
        table.with_name(f"._{table.name}").write_bytes(b"\0\5\x16\7")
    assert len(open_source(tmp_path / "v30_video", "lerobot")) == 2
    for index in (copied("v21_video", tmp_path) / "meta").glob("*.jsonl"):
        index.write_text(index.read_text().replace("push block", "push\u2028block"))
    assert open_source(tmp_path / "v21_video", "lerobot")[1].language_instruction == "push\u2028block 1"


def test_what_is_odd_in_a_table_or_a_list_is_named_by_its_place(tmp_path: Path) -> None:
    file = sorted(copied("v21_video", tmp_path).glob("data/**/*.parquet"))[0]
    table = pq.read_table(file)
    action = [[*row][: 6 if step == 4 else None] for step, row in enumerate(table["action"].to_pylist())]
    place = table.schema.get_field_index("action")
    pq.write_table(table.set_column(place, "action", pa.array(action, pa.list_(pa.float32()))), file)
    with pytest.raises(EpisodeError, match=r"'action' has 6 numbers at step 4, 7 at the first; download it again"):
        open_source(tmp_path / "v21_video", "lerobot").read(0, images=False)
    pq.write_table(table.append_column("action", table["action"]), file)
    with pytest.raises(EpisodeError, match=r"episode_000000.parquet: 2 columns 'action'; keep one"):
        open_source(tmp_path / "v21_video", "lerobot").read(0, images=False)
    lines = (index := tmp_path / "v21_video" / "meta" / "episodes.jsonl").read_text()
    index.write_text(lines.replace("\n", "\n<<<<<<< HEAD\n", 1))
    with pytest.raises(EpisodeError, match=r"episodes.jsonl line 2: the index cannot be read: Expecting value"):
        open_source(tmp_path / "v21_video", "lerobot")


def test_a_table_with_checksums_is_compared_with_them(tmp_path: Path) -> None:
    file = sorted(copied("v21_video", tmp_path).glob("data/**/*.parquet"))[0]
    table = pq.ParquetFile(file).read()
    pq.write_table(table, file, write_page_checksum=True, compression="none", use_dictionary=False)
    state = np.asarray(table["observation.state"].to_pylist(), np.float32).tobytes()
    content = file.read_bytes()
    assert content.count(state) == 1
    file.write_bytes(content.replace(state, bytes([state[0] ^ 1]) + state[1:]))
    with pytest.raises(EpisodeError, match=r"episode_000000.parquet: the table cannot be read: .*checksum"):
        open_source(tmp_path / "v21_video", "lerobot").read(0, images=False)


@pytest.mark.parametrize(
    ("about", "key"), [("info", "video.is_depth_map"), ("info", "is_depth_map"), ("video_info", "video.is_depth_map")]
)
def test_a_depth_map_is_no_camera_of_colours(tmp_path: Path, about: str, key: str) -> None:
    camera, file = "observation.images.front", copied("v30_image", tmp_path) / "meta" / "info.json"
    described = json.loads(file.read_text())
    described["features"][camera][about] = {key: False}
    file.write_text(json.dumps(described))
    assert "image_primary" in open_source(tmp_path / "v30_image", "lerobot")[0].images
    described["features"][camera][about] = {key: True}
    file.write_text(json.dumps(described))
    assert not open_source(tmp_path / "v30_image", "lerobot")[0].images
    with pytest.raises(EpisodeError, match=rf"info.json: no camera of colours '{camera}' \(found: none\)"):
        open_source(tmp_path / "v30_image", "lerobot", image_keys={camera: "image_primary"})


def described(root: Path, change: Callable[[Any], Any]) -> None:
    file = root / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))


@pytest.mark.parametrize("kind", ["v21_video", "v30_image"])
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([64, 64, 3], ""), ([3, 64, 64], ""), ([64, 48, 3], "64x64 pixels"), ([], "64x64 pixels"),
        ([64, 64, 1], "in colours"), ([1, 64, 64], "in colours"), ([64, 64], "in colours"),
        ([64, 64, 4], "(without the fourth channel|a film of three channels)"),
    ],
)  # fmt: skip
def test_pictures_have_the_size_that_is_declared(tmp_path: Path, kind: str, shape: list[int], said: str) -> None:
    root = copied(kind, tmp_path)
    described(root, lambda info: info["features"]["observation.images.front"].update(shape=shape))
    if not said:
        assert open_source(root, "lerobot", image_size=[8, 8])[0].images["image_primary"].shape[1:] == (8, 8, 3)
    else:
        with pytest.raises(EpisodeError, match=f"episode 0: 'observation.images.front' is {said}(, | of )info.json"):
            open_source(root, "lerobot")[0]


@pytest.mark.parametrize("shape", [[5, 64, 64], [0, 64, 64], [64, 64, 2]])
def test_pictures_have_one_three_or_four_channels(tmp_path: Path, shape: list[int]) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"]["observation.images.front"].update(shape=shape))
    with pytest.raises(EpisodeError, match="no 1, 3 or 4 channels first or last; correct it"):
        open_source(root, "lerobot")


def _made(film: Path, *arguments: str | Path) -> None:
    """A film in the place of another, of which ffmpeg makes it."""
    new = film.with_name(f"made{film.suffix}")
    asked = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *arguments, new]
    subprocess.run(asked, check=True, stdin=subprocess.DEVNULL)
    new.rename(film)


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("kind", ["v21_video", "v30_video"])
def test_a_film_that_begins_late_is_not_read_as_if_it_began_at_0(tmp_path: Path, kind: str, sound: bool) -> None:
    film = sorted(copied(kind, tmp_path).rglob("*.mp4"))[0]
    with_sound = ["-f", "lavfi", "-i", "sine=d=3"] if sound else []
    _made(film, "-itsoffset", "0.3", "-i", film, *with_sound, "-c:v", "copy")
    with pytest.raises(EpisodeError, match=r"episode 0: the film begins at 0.3 s, not at 0; write it again"):
        open_source(tmp_path / kind, "lerobot")[0]


def test_two_films_in_one_file_are_refused(tmp_path: Path) -> None:
    film = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    _made(film, "-i", film, "-map", "0:v", "-map", "0:v", "-c", "copy")
    with pytest.raises(EpisodeError, match=r"_000000\.mp4: several films in one file, of which one would be taken"):
        open_source(tmp_path / "v21_video", "lerobot")[0]


def test_films_that_were_put_behind_one_another_are_refused(tmp_path: Path) -> None:
    one, other = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[:2]
    one.write_bytes(one.read_bytes() + other.read_bytes())
    with pytest.raises(EpisodeError, match=r"_000000\.mp4: several films behind one another, of which one would be"):
        open_source(tmp_path / "v21_video", "lerobot")[0]


@pytest.mark.parametrize(("form", "fits"), [("yuv420p10le", False), ("yuv444p", True)])
def test_a_film_of_more_than_8_bits_a_colour_is_not_cut(tmp_path: Path, form: str, fits: bool) -> None:
    film = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    _made(film, "-i", film, "-c:v", "libx264", "-pix_fmt", form)
    if fits:
        assert open_source(tmp_path / "v21_video", "lerobot")[0].images
    else:
        with pytest.raises(EpisodeError, match=f"'observation.images.front' is a film of {form}, of which 8 bits"):
            open_source(tmp_path / "v21_video", "lerobot")[0]


@pytest.mark.parametrize(("form", "codec"), [("rgba", "png"), ("argb", "qtrle")])
def test_a_film_to_be_seen_through_is_refused(tmp_path: Path, form: str, codec: str) -> None:
    film = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    made = film.with_suffix(".mov")
    shutil.copy(film, made)
    _made(made, "-i", film, "-c:v", codec, "-vf", f"format={form},colorchannelmixer=aa=0.3", "-pix_fmt", form)
    made.rename(film)
    with pytest.raises(
        EpisodeError, match=f"is a film of {form}, whose alpha is not read; info.json says .* 3.: store"
    ):
        open_source(tmp_path / "v21_video", "lerobot")[0]


@pytest.mark.parametrize("pace", [0.96, 1.04])
def test_a_film_of_an_episode_has_the_pace_of_the_dataset(tmp_path: Path, pace: float) -> None:
    film = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    reader = imageio_ffmpeg.read_frames(str(film))
    next(reader)
    _rewritten(film, list(reader), 10 * pace)
    with pytest.raises(EpisodeError, match=rf"the video has {10 * pace:g} frames a second, info\.json says fps 10"):
        open_source(tmp_path / "v21_video", "lerobot")[0]


def test_frames_behind_the_last_episode_of_a_film_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copied("v30_video", tmp_path)
    video, frames = _shared_video(root)
    list(open_source(root, "lerobot"))
    assert not capsys.readouterr().out
    _rewritten(video, [*frames, *frames[:9]], 10)
    assert len(list(open_source(root, "lerobot"))) == 2
    assert capsys.readouterr().out == f"note: {video}: its last 9 frames are of no episode, by the index\n"


@pytest.mark.parametrize("key", ["action", "observation.state"])
def test_states_and_actions_are_declared_as_numbers(tmp_path: Path, key: str) -> None:
    root = copied("v30_image", tmp_path)
    described(root, lambda info: info["features"][key].update(dtype="float64"))  # wider than stored, as exporters write
    assert len(open_source(root, "lerobot")[0])
    described(root, lambda info: info["features"][key].update(dtype="string"))
    with pytest.raises(EpisodeError, match=rf"info.json: '{key}' is of 'string', not of numbers; name another$"):
        open_source(root, "lerobot")


@pytest.mark.parametrize("turn", [["-display_rotation", "90"], ["-display_rotation", "180"], ["-display_hflip"]])
def test_pictures_of_a_film_are_as_they_are_stored(tmp_path: Path, turn: list[str]) -> None:
    film = sorted(copied("v21_video", tmp_path).rglob("*.mp4"))[0]
    turned = ["-loglevel", "error", *turn, "-i", film, "-c", "copy", film.with_name("turned.mp4")]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *turned], check=True)
    film.with_name("turned.mp4").rename(film)
    found, expected = (open_source(path, "lerobot")[0] for path in (tmp_path / "v21_video", TINY / "v21_video"))
    np.testing.assert_array_equal(found.images["image_primary"], expected.images["image_primary"])


def test_a_video_that_ffmpeg_decodes_with_errors_is_refused(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    film = sorted(root.rglob("*.mp4"))[0]
    sound, with_errors = film.read_bytes(), 0
    for place in range(1200, 1240, 4):
        content = bytearray(sound)
        content[sound.index(b"mdat") + place] ^= 16
        film.write_bytes(content)
        asked = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", film, "-f", "null", "-"]
        if subprocess.run(asked, capture_output=True, stdin=subprocess.DEVNULL).stderr:
            with_errors += 1
            with pytest.raises(EpisodeError, match=r"episode_000000\.mp4, episode 0: "):
                open_source(root, "lerobot")[0]
    assert with_errors > 2


def test_tasks_without_numbers_are_refused(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    index = root / "meta" / "episodes.jsonl"
    first, second = map(json.loads, index.read_text().splitlines())
    first["tasks"] = ["push block 0", "push block 1"]
    index.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    for file in root.glob("data/**/*.parquet"):
        pq.write_table(pq.ParquetFile(file).read().drop_columns("task_index"), file)
    described(root, lambda info: info["features"].pop("task_index"))
    with pytest.raises(EpisodeError, match=r"episode 0: 2 tasks and no 'task_index' at its steps; download it again"):
        open_source(root, "lerobot")[0]
    assert open_source(root, "lerobot")[1].language_instruction == "push block 1"


def test_an_episode_of_several_tasks_has_that_of_its_steps(tmp_path: Path) -> None:
    root = copied("v21_video", tmp_path)
    index = root / "meta" / "episodes.jsonl"
    first, second = map(json.loads, index.read_text().splitlines())
    first["tasks"] = ["push block 1", "push block 0"]  # LeRobot writes them in any order
    index.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    assert open_source(root, "lerobot")[0].language_instruction == "push block 0"
    change(root, "data/**/*.parquet", "task_index", lambda c: [0] * 6 + [1] * 6)
    with pytest.raises(EpisodeError, match=r"episode 0: 'task_index' is 0 and 1; make an episode of each task"):
        open_source(root, "lerobot")[0]


def test_a_film_is_not_decoded_for_which_there_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(copied("v21_video", tmp_path), "lerobot")
    monkeypatch.setattr("gap_vla.core.foreign.available_memory", lambda: 200_000)
    with pytest.raises(
        EpisodeError, match=r"'observation\.images\.front': needs 294,912 bytes of memory, 200,000 are fr"
    ):
        source[0]


def test_a_size_of_no_pictures_is_refused(tmp_path: Path) -> None:
    root = copied("v30_image", tmp_path)
    with pytest.raises(EpisodeError, match=r"image_size is \[\]; give \[height, width\] in pixels"):
        open_source(root, "lerobot", image_size=[])
    with pytest.raises(EpisodeError, match="image_size has no effect without cameras; leave it out"):
        open_source(root, "lerobot", image_size=[8, 8], image_keys={})


def test_of_a_table_of_many_episodes_each_reads_its_own_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    row_group = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, *arguments: Any, **named: Any) -> Any:
        read.append(group)
        return row_group(self, group, *arguments, **named)

    source = open_source(copied("v30_video", tmp_path), "lerobot")
    (file,) = {place.table for place in source.places}
    assert pq.ParquetFile(file).num_row_groups == 2
    source.look()  # the first look at the whole table
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    source.look()
    assert read == [0, 1]
    table = pq.read_table(file)
    read.clear()
    pq.write_table(table, file)
    source.look()
    assert read == [0], "of one group for all, each episode is a part of what was read once"
    pq.write_table(table.take([*range(12, len(table)), *range(12)]), file, row_group_size=12)
    with pytest.raises(EpisodeError, match="its rows are not in the order of 'episode_index'"):
        source.read(1, images=False)  # another table now


def test_an_episode_that_the_index_lists_twice_is_named(tmp_path: Path) -> None:
    file = copied("v21_video", tmp_path) / "meta" / "episodes.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")
    with pytest.raises(EpisodeError, match=r"episodes\.jsonl row 3: episode 1 is listed twice; download the index"):
        open_source(file.parents[1], "lerobot")
