"""The pictures of a LeRobot episode: out of its table, or out of a video."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import BEHIND_ANOTHER, FOREIGN, refusing, regular
from gap_vla.demos.hdf5_storage import first_filled
from gap_vla.demos.lerobot_declared import axes_of
from gap_vla.demos.lerobot_index import EpisodePlace
from gap_vla.drawing.video import packets, working_ffmpeg


def _require_size(width: int, height: int, shape: tuple[int, ...], where: str) -> None:
    """Raises EpisodeError for pictures of another size than info.json's; none is decoded."""
    if (height, width) != axes_of(shape)[:2]:
        raise EpisodeError(f"{where} is {height}x{width} pixels, info.json says {list(shape)}; correct one of them")


def require_grey(frames: np.ndarray, shape: tuple[int, ...], where: str) -> None:
    """Raises EpisodeError for decoded pictures in colours where info.json says one channel, first or last, or none."""
    if axes_of(shape)[-1] == 1 and np.ptp(frames, axis=-1).max() > 32:  # films of grey ones differ by a few
        raise EpisodeError(f"{where} is in colours, info.json says {list(shape)}; correct one of them")


def pictures_of(rows: list[Any], shape: tuple[int, ...], where: str) -> np.ndarray:
    """A table's, uint8[T, h, w, 3]. Raises EpisodeError: one is lost, damaged, deep, of another size, several in one or
    to be seen through, or they are not in the order of their files' numbers."""
    if lost := [step for step, row in enumerate(rows) if not isinstance(row, Mapping) or not row.get("bytes")]:
        raise EpisodeError(f"{where}: no picture at step {lost[0]}; download it again")
    _require_order(rows, where)
    bomb = (Image.DecompressionBombError,)
    formats = ("PNG", "JPEG", "WEBP")  # for PostScript, which Pillow knows too, it would start Ghostscript
    pictures = []
    for step, row in enumerate(rows):
        with refusing(
            f"{where}: the picture at step {step} is no whole PNG, JPEG or WebP",
            "download it again",
            EpisodeError,
            bomb,
        ):
            Image.open(io.BytesIO(row["bytes"]), formats=formats).verify()  # checksums, which reading passes over
            _require_rows(row["bytes"])
            pictures.append(Image.open(io.BytesIO(row["bytes"]), formats=formats))
    with refusing(f"{where}: a picture cannot be decoded", "download it again", EpisodeError, bomb):
        modes = {picture.mode for picture in pictures}
        if odd := modes - {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}:  # depth would be cut off at 255
            raise EpisodeError(f"{where}: a picture of mode {min(odd)}, not of 8-bit colours; leave this camera out")
        if deep := [step for step, row in enumerate(rows) if row["bytes"][:4] == _PNG and row["bytes"][24:25] > b"\b"]:
            raise EpisodeError(
                f"{where}: a picture of 16 bits a colour at step {deep[0]}, of which 8 would be lost; store "
                "pictures of 8 bits, or leave this camera out"
            )
        moving = [getattr(picture, "n_frames", 1) > 1 for picture in pictures]
        behind = [BEHIND_ANOTHER.search(row["bytes"]) is not None for row in rows]
        if several := np.flatnonzero(np.logical_or(moving, behind)).tolist():
            raise EpisodeError(
                f"{where}: several pictures in one file at step {several[0]}, of which one would be taken; store one a "
                "step, or leave this camera out"
            )
        if axes_of(shape)[-1] == 3 and (
            grey := [step for step, one in enumerate(pictures) if one.mode in ("1", "L", "LA")]
        ):
            said = f"of one channel at step {grey[0]}, info.json says {list(shape)}"
            raise EpisodeError(f"{where}: a picture {said}; correct one of them")
        if axes_of(shape)[-1] == 4 and not all(map(_has_alpha, pictures)):
            raise EpisodeError(
                f"{where} is without the fourth channel of info.json's {list(shape)}; correct one of them"
            )
        if thin := [step for step, picture in enumerate(pictures) if _has_alpha(picture) and _shines(picture)]:
            raise EpisodeError(
                f"{where}: a picture that is not opaque at step {thin[0]}; store what is to be seen, without alpha, or "
                "leave this camera out"
            )
        if odd_sizes := {picture.size for picture in pictures if sorted(picture.size) != sorted(axes_of(shape)[:2])}:
            _require_size(*min(odd_sizes), shape, where)
        upright = list(map(_upright, pictures))
        if len(sizes := {picture.size for picture in upright}) > 1:
            raise EpisodeError(f"{where}: pictures of {len(sizes)} sizes; download it again")
        _require_size(*sizes.pop(), shape, where)
        return np.stack([np.asarray(picture.convert("RGB")) for picture in upright])


_NUMBERED = re.compile(r"(\d+(?:\.\d+)?)\.[A-Za-z]\w*$")


def _require_order(rows: list[Mapping[str, Any]], where: str) -> None:
    """Raises EpisodeError: each path ends in a number, and these do not rise; where all are the same, they count
    something else."""
    found = [_NUMBERED.search(str(row.get("path") or "")) for row in rows]
    numbers = [float(match[1][-18:]) for match in found if match]
    falls = [step for step in range(1, len(numbers)) if numbers[step] < numbers[step - 1]]
    if len(numbers) == len(rows) and len({*numbers}) > 1 and falls:
        now, before = (str(rows[falls[0] - back]["path"])[-40:] for back in (0, 1))
        raise EpisodeError(f"{where} is {now} at step {falls[0]}, behind {before}; put the pictures in their order")


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info


def _shines(picture: Image.Image) -> bool:
    """Whether what is behind it would be seen through it."""
    return int(np.asarray(picture.convert("RGBA"))[..., 3].min()) < 255


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says, where it says so, as Hugging Face's `datasets` does, through which LeRobot reads."""
    turned = picture.getexif().get(ExifTags.Base.Orientation) is not None
    return ImageOps.exif_transpose(picture) if turned else picture


_PNG = b"\x89PNG"


def _require_rows(data: bytes) -> None:
    """Raises ValueError: a PNG's compressed rows are fewer or more than its head says; Pillow fills in black ones."""
    if data[:4] != _PNG:
        return
    width, height, depth, colours, *_, laced = struct.unpack(">IIBBBBB", data[16:29])
    bits, place, parts = depth * {2: 3, 4: 2, 6: 4}.get(colours, 1), 8, []
    while place + 8 <= len(data) and (kind := data[place + 4 : place + 8]) != b"IEND":
        size = int.from_bytes(data[place : place + 4], "big")
        parts += [data[place + 8 : place + 8 + size]] if kind == b"IDAT" else []
        place += 12 + size
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes] if laced else [(width, height)]
    right = sum(high * (1 + -(-wide * bits // 8)) for wide, high in sides if wide > 0 and high > 0)
    if (found := len(zlib.decompressobj().decompress(b"".join(parts), right + 1))) != right:
        raise ValueError(f"{'more' if found > right else 'fewer'} rows than {height}")


_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pdin", b"uuid")
"""With which an mp4 begins. Other kinds are not given to ffmpeg: scripts and playlists make it open more files."""


def require_there(video: Path, where: str) -> None:
    """Raises EpisodeError: there is no such video, or a link to none."""
    if not regular(video, EpisodeError).exists():
        raise EpisodeError(f"{where}: the video is missing; download it")


def frames_of(place: EpisodePlace, key: str, shape: tuple[int, ...], fps: float) -> np.ndarray:
    """Decodes the episode's frames, from the one nearest to its start: ffmpeg seeks to the next one, so ask earlier."""
    import imageio_ffmpeg

    video, start = place.videos[key]
    where = f"{video}, episode {place.index}"
    require_there(video, where)
    with video.open("rb") as stream:
        head = stream.read(8)
    if head[4:] not in _BOXES and head[:4] not in (b"\x1aE\xdf\xa3", b"RIFF"):
        raise EpisodeError(f"{where}: no video of the kind mp4, mkv, webm or avi; download it again")
    first = round((start or 0) * fps)
    most = place.length + (start is None)
    # it ends at the first error, rather than fill in what it cannot decode, and turns nothing, as LeRobot
    asked = ["-xerror", "-err_detect", "explode", "-noautorotate"]
    asked += ["-ss", f"{(first - 0.25) / fps:.6f}"] if first else []
    asked += ["-t", f"{place.length / fps:.6f}"] if start is not None else []
    # a frame that is missing is not filled in, one of another size not made to fit
    given = ["-fps_mode", "passthrough", "-frames:v", str(most), "-noautoscale"]
    reader = imageio_ffmpeg.read_frames(f"file:{video}", input_params=asked, output_params=given)
    with contextlib.closing(reader):
        try:
            found: Any = next(reader, {})
            (width, height), pace = found["size"], found["fps"]
            _require_size(width, height, shape, f"{where}: {key!r}")
            _require_bytes(found.get("pix_fmt", ""), shape, f"{where}: {key!r}")
            frames = [np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader]
        except EpisodeError:
            raise
        except FOREIGN as error:  # it quotes all that ffmpeg says of itself
            working_ffmpeg(video, EpisodeError)
            raise EpisodeError(f"{where}: the video cannot be decoded; download it again") from error
    _require_even(video, first, place.length, where, fps)
    # ffmpeg tells two decimals; a place within a shared video is found by its time
    drifts = start is not None and abs(pace - fps) > 0.005 and abs(pace / fps - 1) * (first + place.length) >= 0.5
    if drifts or abs(pace - fps) > max(fps / 100, 0.005):
        raise EpisodeError(f"{where}: the video has {pace:g} frames a second, info.json says fps {fps:g}; correct one")
    if len(frames) != place.length:
        found_frames = f"more than {place.length}" if len(frames) > place.length else len(frames)
        raise EpisodeError(f"{where}: {found_frames} frames, the episode has {place.length} steps; download it again")
    return np.stack(frames)


def _require_bytes(form: str, shape: tuple[int, ...], where: str) -> None:
    """Raises EpisodeError: a film has more than 8 bits a colour, or alpha, which is not decoded, or no fourth channel
    where info.json says one."""
    if re.match(r"\w+(le|be)\b", form) and not re.match("(rgb|bgr)(444|555|565)", form):
        raise EpisodeError(
            f"{where} is a film of {form.partition('(')[0]}, of which 8 bits a colour are kept; store pictures of 8 "
            "bits, or leave this camera out"
        )
    if re.match("rgba|bgra|argb|abgr|yuva|gbrap|ya8", form):
        said = f"{form.partition('(')[0]}, whose alpha is not read; info.json says {list(shape)}"
        raise EpisodeError(f"{where} is a film of {said}: store what is to be seen, or leave this camera out")
    if axes_of(shape)[-1] == 4:
        raise EpisodeError(f"{where} is a film of three channels, info.json says {list(shape)}; correct one of them")


def tell_more(video: Path, frames: int, fps: float) -> None:
    """A note, if a film has more frames than those of all its episodes."""
    if (more := len(_times_of(video, fps)) - frames) > 0:
        print(f"note: {video}: its last {more} frames are of no episode, by the index", flush=True)


def _films_in(video: Path) -> int:
    """How many films were put behind one another in an MP4, of which players show the first; 1 for other containers."""
    count, place, size = 0, 0, video.stat().st_size
    with video.open("rb") as stream:
        while place + 8 <= size:
            stream.seek(place)
            head = stream.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if place == 0 and kind not in _BOXES:
                return 1
            if not any(head[:8]):  # padding
                place = max(place + 4, first_filled(stream, place))
                continue
            length = int.from_bytes(head[8:], "big") if length == 1 else length or size - place
            if length < 8:
                break
            count, place = count + (kind == b"moov"), place + length
    return max(count, 1)


def _require_even(video: Path, first: int, length: int, where: str, fps: float) -> None:
    """Raises EpisodeError if a frame was lost among those of an episode, by the times at which they are shown, or the
    film does not begin with its first one."""
    if _films_in(video) > 1:
        raise EpisodeError(f"{video}: several films behind one another, of which one would be taken; keep one")
    times = _times_of(video, fps)
    if len(times) and abs(times[0]) * fps > 0.5:
        raise EpisodeError(f"{where}: the film begins at {times[0]:.3g} s, not at 0; write it again from its beginning")
    times = times[first : first + length]
    gaps = np.diff(times)
    if len(gaps) and (odd := np.abs(gaps / np.median(gaps) - 1) >= 0.5).any():
        step = int(odd.argmax())
        said = f"frame {step + 1} comes {gaps[step]:.3g} s after frame {step}, others {np.median(gaps):.3g} s"
        raise EpisodeError(f"{where}: frames were lost: {said}; download it again")


def _times_of(video: Path, fps: float) -> Float[np.ndarray, " frames"]:
    """`_times` without those before 0, which are not shown: a film that was cut keeps what the first frames need."""
    times = _times(video, video.stat().st_mtime_ns)
    return times[times * fps > -0.5]


@functools.lru_cache(16)
def _times(video: Path, changed: int) -> Float[np.ndarray, " frames"]:
    """Seconds, rising, read from the packets; none where the container keeps no times. Raises EpisodeError: of which
    pictures is not clear."""
    unit, shown = 0.0, []
    for line in packets(video, every=True):
        if line.startswith("#tb 0:"):
            above, below = line.partition(":")[2].split("/")
            unit = int(above) / int(below)
        elif line.startswith("#tb "):
            raise EpisodeError(f"{video}: several films in one file, of which one would be taken; keep one")
        elif not line.startswith("#"):
            shown.append(line.split(",")[2].strip())
    kept = unit and all(time.lstrip("-").isdecimal() for time in shown)
    return np.sort(np.array(shown, np.float64)) * unit if kept else np.zeros(0)
