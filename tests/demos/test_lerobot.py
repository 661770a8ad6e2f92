"""LeRobot folders of format v2 and v3, as its library lays them out, become Episodes."""

from __future__ import annotations

import functools
import io
import json
import runpy
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from synthetic_demos import make_episode

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.demos import open_source
from gap_vla.demos.lerobot_pictures import _require_rows, pictures_of

FPS = 10


def episode(index: int) -> Episode:
    """Smooth pictures, so that a video codec keeps them recognisable: brightness tells the step."""
    made = make_episode(index, steps=12 + index, annotated=False)
    level = (np.arange(len(made)) * 8 + 60 * index) % 250
    frames = np.broadcast_to(level[:, None, None, None], (len(made), 64, 64, 3)).astype(np.uint8)
    return made.replace(images={"image_primary": frames})


def png(frame: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "png")
    return stream.getvalue()


def rows(index: int, pictures: bool) -> dict[str, Any]:
    e = episode(index)
    columns: dict[str, Any] = {
        "observation.state": e.proprio.tolist(),
        "action": e.action.tolist(),
        "episode_index": [index] * len(e),
        "frame_index": list(range(len(e))),
        "timestamp": [i / FPS for i in range(len(e))],
    }
    if pictures:
        columns["observation.images.top"] = [{"bytes": png(f), "path": ""} for f in e.images["image_primary"]]
    return columns


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def info(version: str, picture_type: str, **paths: Any) -> dict[str, Any]:
    return {
        "codebase_version": version,
        "fps": FPS,
        "features": {
            "observation.state": {"dtype": "float32", "shape": [9]},
            "action": {"dtype": "float32", "shape": [7]},
            "observation.images.top": {"dtype": picture_type, "shape": [64, 64, 3]},
            "timestamp": {"dtype": "float32", "shape": [1]},
        },
        **paths,
    }


def write_table(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_video(path: Path, frames: np.ndarray, fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, frames, fps=fps, codec="libx264", plugin="FFMPEG", output_params=["-crf", "1"])


KEPT = tempfile.TemporaryDirectory()


def once(write: Callable[..., Path]) -> Callable[..., Path]:
    """A dataset of each kind is written once, and then copied."""
    written = functools.cache(lambda *given: write(Path(tempfile.mkdtemp(dir=KEPT.name)), *given))

    @functools.wraps(write)
    def copied(root: Path, *given: str) -> Path:
        return Path(shutil.copytree(written(*given), root, dirs_exist_ok=True))

    return copied


@once
def version_2(root: Path, picture_type: str = "video") -> Path:
    data, video = (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        ("videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"),
    )
    paths = {"chunks_size": 2, "data_path": data, "video_path": video}
    write_json(root / "meta" / "info.json", info("v2.1", picture_type, **paths))
    lines = []
    for i in range(3):
        keys = {"episode_chunk": i // 2, "episode_index": i}
        write_table(root / data.format(**keys), rows(i, picture_type == "image"))
        if picture_type == "video":
            target = root / video.format(video_key="observation.images.top", **keys)
            write_video(target, episode(i).images["image_primary"])
        lines.append(json.dumps({"episode_index": i, "length": len(episode(i)), "tasks": [f"task {i}"]}))
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    return root


@once
def version_3(root: Path) -> Path:
    data, video = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        ("videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"),
    )
    write_json(root / "meta" / "info.json", info("v3.0", "video", data_path=data, video_path=video))
    key = "observation.images.top"
    merged: dict[str, list[Any]] = {}
    index: dict[str, list[Any]] = {}
    start = 0
    for i in range(3):
        for name, values in rows(i, False).items():
            merged.setdefault(name, []).extend(values)
        row = {
            "episode_index": i,
            "length": len(episode(i)),
            "tasks": [f"task {i}"],
            "data/chunk_index": 0,
            "data/file_index": 0,
            f"videos/{key}/chunk_index": 0,
            f"videos/{key}/file_index": 0,
            f"videos/{key}/from_timestamp": start / FPS,
            f"videos/{key}/to_timestamp": (start + len(episode(i))) / FPS,
        }
        for name, value in row.items():
            index.setdefault(name, []).append(value)
        start += len(episode(i))
    write_table(root / data.format(chunk_index=0, file_index=0), merged)
    write_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet", index)
    frames = np.concatenate([episode(i).images["image_primary"] for i in range(3)])
    write_video(root / video.format(video_key=key, chunk_index=0, file_index=0), frames)
    return root


@pytest.mark.parametrize("write", [version_2, version_3])
def test_tables_and_videos_are_aligned(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    source = open_source(write(tmp_path), "lerobot")
    assert len(source) == 3
    for i, found in enumerate(source):
        expected = episode(i)
        np.testing.assert_array_equal(found.proprio, expected.proprio)
        np.testing.assert_array_equal(found.action, expected.action)
        assert found.language_instruction == f"task {i}"
        brightness = found.images["image_primary"].mean((1, 2, 3))
        np.testing.assert_allclose(brightness, expected.images["image_primary"].mean((1, 2, 3)), atol=3)


def test_pictures_inside_tables_come_back_equal(tmp_path: Path) -> None:
    for i, found in enumerate(open_source(version_2(tmp_path, "image"), "lerobot")):
        np.testing.assert_array_equal(found.images["image_primary"], episode(i).images["image_primary"])


def test_pictures_can_be_resized_and_columns_named(tmp_path: Path) -> None:
    options = {"image_size": [32, 48], "layout": "robomimic", "image_keys": {"observation.images.top": "image_wrist"}}
    found = open_source(version_2(tmp_path, "image"), "lerobot", **options)[0]
    assert found.images["image_wrist"].shape == (12, 32, 48, 3)
    np.testing.assert_array_equal(found.arms[0].quaternion[:, 1:], episode(0).proprio[:, 3:6])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damage_is_named(tmp_path: Path) -> None:
    root = version_2(tmp_path)
    _cut(root / "data/chunk-000/episode_000001.parquet")
    with pytest.raises(EpisodeError, match=r"episode_000001.parquet: the table cannot be read"):
        open_source(root, "lerobot")[1]
    _cut(root / "videos/chunk-000/observation.images.top/episode_000000.mp4")
    with pytest.raises(EpisodeError, match=r"episode_000000.mp4, episode 0: .*(decoded|frames)"):
        open_source(root, "lerobot")[0]
    (root / "videos/chunk-001/observation.images.top/episode_000002.mp4").unlink()
    with pytest.raises(EpisodeError, match=r"episode_000002.mp4, episode 2: the video is missing"):
        open_source(root, "lerobot")[2]


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (
            "action",
            lambda values: [[str(v) for v in row] for row in values],
            r"'action' is <U.*, not numbers",
        ),
        ("action", lambda values: [[True] * 7 for _ in values], r"'action' is bool.*, not numbers"),
    ],
)
def test_columns_of_another_kind_are_named(tmp_path: Path, column: str, change: Any, message: str) -> None:
    root, columns = version_2(tmp_path, "image"), rows(1, True)
    columns[column] = change(columns[column])
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    with pytest.raises(EpisodeError, match=rf"episode_000001.parquet, episode 1: .*{message}"):
        open_source(root, "lerobot")[1]


def test_a_picture_in_postscript_starts_no_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was started"))
    root, columns, stream = version_2(tmp_path, "image"), rows(1, True), io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "EPS")
    columns["observation.images.top"] = [{"bytes": stream.getvalue(), "path": ""}] * len(columns["frame_index"])
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    with pytest.raises(
        EpisodeError,
        match=r"episode 1: .* the picture at step 0 is no whole PNG, JPEG or WebP: cannot identify image file",
    ):
        open_source(root, "lerobot")[1]


def test_an_instruction_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    index = version_2(tmp_path, "image") / "meta" / "episodes.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    index.write_text("".join(json.dumps({**line, "tasks": ["push \ud800"]}) + "\n" for line in lines))
    with pytest.raises(EpisodeError, match=r"episodes.jsonl row 1: tasks\[0\] is .*; it must be a text that UTF-8"):
        open_source(tmp_path, "lerobot")


def test_steps_of_no_duration_are_refused(tmp_path: Path) -> None:
    described = version_2(tmp_path, "image") / "meta" / "info.json"
    write_json(described, {**json.loads(described.read_text()), "fps": 0})
    with pytest.raises(EpisodeError, match=r"info.json: fps is 0; it must be a number from 0.01"):
        open_source(tmp_path, "lerobot")


@pytest.mark.parametrize("write", [version_2, version_3])
def test_a_video_of_another_pace_is_refused(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    root = write(tmp_path)
    frames = np.concatenate([episode(i).images["image_primary"] for i in range(3)])
    write_video(sorted(root.rglob("*.mp4"))[0], frames.repeat(2, 0), fps=2 * FPS)
    with pytest.raises(EpisodeError, match=rf"the video has {2 * FPS} frames a second, info.json says fps {FPS}"):
        open_source(root, "lerobot")[0]


def test_the_video_of_another_episode_is_refused_by_its_length(tmp_path: Path) -> None:
    first, second, _ = sorted((version_2(tmp_path) / "videos").rglob("*.mp4"))
    long, short = (first, second) if len(episode(0)) > len(episode(1)) else (second, first)
    short.write_bytes(long.read_bytes())
    with pytest.raises(EpisodeError, match=r"more than \d+ frames, the episode has \d+ steps; download it again"):
        list(open_source(tmp_path, "lerobot"))


@pytest.mark.parametrize("name", ["2026-11-25T10:30", "rob:it's 50%d"])
def test_a_folder_whose_name_looks_like_an_address_is_read(tmp_path: Path, monkeypatch, name: str) -> None:
    root = version_2(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(open_source(root.relative_to(tmp_path), "lerobot")[0].images)


def test_tables_in_a_circle_and_empty_videos_are_refused_in_a_line(tmp_path: Path) -> None:
    root = version_2(tmp_path)
    table = root / "data/chunk-000/episode_000001.parquet"
    table.unlink()
    table.symlink_to(table.name)
    with pytest.raises(EpisodeError, match=r"episode_000001.parquet: the table cannot be read"):
        open_source(root, "lerobot")[1]
    (root / "videos/chunk-000/observation.images.top/episode_000000.mp4").write_bytes(b"")
    with pytest.raises(EpisodeError, match=r"no video of the kind mp4, mkv, webm or avi; download it again$"):
        open_source(root, "lerobot")[0]


def test_foreign_folders_and_versions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"no meta/info.json"):
        open_source(tmp_path, "lerobot")
    write_json(tmp_path / "meta" / "info.json", info("v1.6", "video"))
    with pytest.raises(
        EpisodeError, match=r"info\.json: LeRobot format v1.6; v2 and v3 are read: convert it with LeRobot$"
    ):
        open_source(tmp_path, "lerobot")
    with pytest.raises(EpisodeError, match=r"no feature 'observation.pose' \(found: .*observation.state"):
        open_source(version_2(tmp_path / "whole"), "lerobot", state_key="observation.pose")


TINY = Path(__file__).parents[1] / "data" / "lerobot"


@pytest.mark.parametrize(("folder", "tolerance"), [("v21_video", 25), ("v30_video", 25), ("v30_image", 0)])
def test_what_lerobots_own_library_wrote_comes_back(folder: str, tolerance: int) -> None:
    recording = runpy.run_path(str(TINY / "write_tiny.py"))["recording"]
    source = open_source(TINY / folder, "lerobot")
    assert [len(e) for e in source] == [12, 9]
    for index, found in enumerate(source):
        made = recording(index)
        np.testing.assert_array_equal(found.proprio, made["state"])
        np.testing.assert_array_equal(found.action, made["action"])
        assert found.language_instruction == f"push block {index}"
        off = np.abs(found.images["image_primary"].astype(int) - made["frames"])
        assert np.quantile(off, 0.9) <= tolerance, "the moving block is where it was at that step"
        assert not source.read(index, images=False).images


def test_files_that_are_links_as_in_a_download_cache_are_read(tmp_path: Path) -> None:
    root, blobs = version_3(tmp_path / "snapshots" / "abc"), tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate([path for path in root.rglob("*") if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert len(list(open_source(root, "lerobot"))) == 3


@pytest.mark.parametrize("row", [None, {"bytes": None, "path": "images/7.png"}])
def test_a_row_without_a_picture_is_named(tmp_path: Path, row: Any) -> None:
    root, columns = version_2(tmp_path, "image"), rows(1, True)
    columns["observation.images.top"][2] = row
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    with pytest.raises(EpisodeError, match=r"episode_000001\.parquet, episode 1: .* no picture at step 2; download"):
        open_source(root, "lerobot")[1]


def png_of(rows: np.ndarray, *, said: int | None = None, laced: bool = False) -> bytes:
    """Of uint8 or uint16[h, w, 3], `said` to have another height; Pillow writes neither 16 bits nor parts laced into
    each other."""
    bits, (height, width, _) = 8 * rows.itemsize, rows.shape
    parts = [rows[y::dy, x::dx] for y, x, dy, dx in ADAM7 if y < height and x < width] if laced else [rows]
    lines = b"".join(b"\0" + row.astype(rows.dtype.newbyteorder(">")).tobytes() for part in parts for row in part)
    head = struct.pack(">IIBBBBB", width, height if said is None else said, bits, 2, 0, 0, laced)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines))]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Where each part of a picture that is laced begins, and its steps, down and to the right."""


@pytest.mark.parametrize("laced", [False, True])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (5, 3), (1, 1), (9, 17)])
@pytest.mark.parametrize("more", [0, -1, 8])
def test_a_picture_has_the_rows_that_its_head_says(height: int, width: int, laced: bool, more: int) -> None:
    shown = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    data = png_of(shown, said=height + more or 9, laced=laced)
    if more == 0:
        (read,) = pictures_of([{"bytes": data}], shown.shape, "here")
        np.testing.assert_array_equal(read, shown)
    else:
        with pytest.raises(
            EpisodeError, match=r"here: the picture at step 0 is no whole PNG, JPEG or WebP: (more|fewer) rows than"
        ):
            pictures_of([{"bytes": data}], (height + more or 9, width, 3), "here")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pictures_of_every_kind_have_their_rows(mode: str) -> None:
    Image.new(mode, (13, 7)).save(stream := io.BytesIO(), "png")
    _require_rows(stream.getvalue())


def test_a_picture_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    root, columns = version_2(tmp_path, "image"), rows(1, True)
    picture = bytearray(columns["observation.images.top"][2]["bytes"])
    picture[picture.index(b"IDAT") + 20] ^= 1
    columns["observation.images.top"][2]["bytes"] = bytes(picture)
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    with pytest.raises(EpisodeError, match=r"_000001\.parquet, episode 1: .* the picture at step 2 is no whole PNG"):
        open_source(root, "lerobot")[1]


def test_a_picture_of_16_bits_a_colour_is_not_cut_to_8(tmp_path: Path) -> None:
    root, columns = version_2(tmp_path, "image"), rows(1, True)
    picture = Image.open(io.BytesIO(columns["observation.images.top"][2]["bytes"]))
    wide = np.asarray(picture).astype(np.uint16) * 257
    columns["observation.images.top"][2]["bytes"] = png_of(wide)
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    message = (
        r"episode_000001\.parquet, episode 1: .* a picture of 16 bits a colour at step 2, of which 8 would be lost"
    )
    with pytest.raises(EpisodeError, match=message):
        open_source(root, "lerobot")[1]


OTHER = Image.new("RGB", (64, 64), "red")


def _thin(picture: Image.Image) -> Image.Image:
    return Image.merge("RGBA", [*picture.split(), Image.new("L", picture.size, 100)])


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p, to: p.save(to, "png", save_all=True, append_images=[OTHER]), "several pictures in one file"),
        (lambda p, to: p.save(to, "webp", save_all=True, append_images=[OTHER]), "several pictures in one file"),
        (lambda p, to: [OTHER.save(to, "png"), p.save(to, "png")], "several pictures in one file"),
        (lambda p, to: _thin(p).save(to, "png"), "a picture that is not opaque"),
        (lambda p, to: p.save(to, "png", transparency=p.getpixel((0, 0))), "a picture that is not opaque"),
        (lambda p, to: p.convert("RGBA").save(to, "png"), None),
        (lambda p, to: p.convert("L").save(to, "png"), "a picture of one channel"),
    ],
)
def test_a_picture_is_one_that_shows_all_of_itself(tmp_path: Path, write: Any, says: str | None) -> None:
    root, columns, stream = version_2(tmp_path, "image"), rows(1, True), io.BytesIO()
    write(Image.open(io.BytesIO(columns["observation.images.top"][2]["bytes"])), stream)
    columns["observation.images.top"][2]["bytes"] = stream.getvalue()
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    if says is None:
        np.testing.assert_array_equal(
            open_source(root, "lerobot")[1].images["image_primary"], episode(1).images["image_primary"]
        )
    else:
        with pytest.raises(EpisodeError, match=rf"episode 1: .*: {says}.* at step 2"):
            open_source(root, "lerobot")[1]


@pytest.mark.parametrize(
    ("number", "fits"),
    [(lambda i: i, True), (lambda i: 2 * i + 40, True), (lambda i: 7, True), (lambda i: {2: 7, 7: 2}.get(i, i), False)],
)
def test_pictures_are_in_the_order_of_their_files_numbers(tmp_path: Path, number: Any, fits: bool) -> None:
    root, columns = version_2(tmp_path, "image"), rows(1, True)
    for i, picture in enumerate(columns["observation.images.top"]):
        picture["path"] = f"frame-{number(i):06d}.png"
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    if fits:
        assert len(open_source(root, "lerobot")[1]) == 13
    else:
        with pytest.raises(EpisodeError, match=r"is frame-000003.png at step 3, behind frame-000007.png; put the pict"):
            open_source(root, "lerobot")[1]


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    root, columns = version_2(tmp_path, "image"), rows(1, True)
    height, width, _ = json.loads((root / "meta" / "info.json").read_text())["features"]["observation.images.top"][
        "shape"
    ]
    upright = np.zeros((height, width, 3), np.uint8)
    upright[: height // 2] = 255
    stored = np.rot90(upright, {1: 0, 3: 2, 6: 1}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(stream := io.BytesIO(), "png", exif=exif)
    columns["observation.images.top"] = [{"bytes": stream.getvalue()} for _ in columns["observation.images.top"]]
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    (film,) = open_source(root, "lerobot")[1].images.values()
    assert (film == upright).all()


def test_pictures_of_which_one_side_is_3_are_told_from_their_colours(tmp_path: Path) -> None:
    root, columns = version_2(tmp_path, "image"), rows(1, True)
    info = json.loads((root / "meta" / "info.json").read_text())
    height, width, _ = info["features"]["observation.images.top"]["shape"]
    narrow = png_of(np.zeros((width, 3, 3), np.uint8))
    columns["observation.images.top"] = [{"bytes": narrow} for _ in columns["observation.images.top"]]
    write_table(root / "data/chunk-000/episode_000001.parquet", columns)
    with pytest.raises(EpisodeError, match=rf"is {width}x3 pixels, info.json says \[{height}, {width}, 3\]"):
        open_source(root, "lerobot")[1]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["wrist", "top"], {"top": "image_primary", "wrist": "image_wrist"}),
        (["front", "side", "gripper_cam"], {"front": "image_primary", "gripper_cam": "image_wrist"}),
        (["front", "side"], {"front": "image_primary", "side": "image_wrist"}),
        (["hand", "top"], {"top": "image_primary", "hand": "image_wrist"}),
        (["left_hand_cam", "handheld"], {"handheld": "image_primary", "left_hand_cam": "image_wrist"}),
        (["left_hand_side", "eye_in_hand"], {"left_hand_side": "image_primary", "eye_in_hand": "image_wrist"}),
        (["front", "front_depth", "wrist"], {"front": "image_primary", "wrist": "image_wrist"}),
        (["front", "front_depth"], {"front": "image_primary"}),
        (["tactile_left", "segmentation", "front"], {"front": "image_primary"}),
        (["digit_left", "front", "touch"], {"front": "image_primary"}),
        (["left_wrist", "right_wrist"], {"left_wrist": "image_primary", "right_wrist": "image_wrist"}),
    ],
)
def test_cameras_on_a_hand_are_told_by_their_names(tmp_path: Path, keys: list[str], expected: dict[str, str]) -> None:
    described = version_2(tmp_path, "image") / "meta" / "info.json"
    info = json.loads(described.read_text())
    camera = info["features"].pop("observation.images.top")
    info["features"] |= {f"observation.images.{key}": camera for key in keys}
    write_json(described, info)
    reader = open_source(tmp_path, "lerobot")
    cameras = {key: name for name, key in reader.mapping().items() if name.startswith("image_")}
    assert cameras == {f"observation.images.{key}": name for key, name in expected.items()}
    assert ("cameras" in reader.identity()) == (list(expected) != keys[:2])
