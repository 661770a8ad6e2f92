"""Checks of the records as they lie in the shards: numbers beyond their dtype, and pictures that no reader decodes as
they were taken."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.core.foreign import BEHIND_ANOTHER, one_line
from gap_vla.core.identity import flat
from gap_vla.phases.motion import UNIT_QUATERNION_TOLERANCE
from gap_vla.rlds.checking.report import Finding
from gap_vla.rlds.decoding import MOST_PIXELS, beyond_declared, stored_numbers
from gap_vla.rlds.reader import read_steps
from gap_vla.rlds.unread import of_record, stored_fields
from gap_vla.rlds.version_files import examples, open_version

_OF_JPEG = re.compile("JPEG|Inconsistent progression|Bogus|Premature end")
"""Lines in which libjpeg tells of a picture."""

_ORIENTATION = 0x112
"""The tag of EXIF that says how a picture is to be turned."""
_BEHIND, _HARMLESS = re.compile(r"(\d{1,9}) extraneous bytes"), 64
"""What libjpeg says of bytes behind a picture, and how many of them a camera may leave there: of a picture that lost
some in its middle many more are left over."""


def check_records(builder: Any, most: int | None, known: Collection[str], left: set[str]) -> Iterator[Finding]:
    """Reads the records of each split, all or the first `most`; TFDS itself passes over what follows behind the fields
    that it knows. What is not read of them is added to what is `left` (see `of_record`). A note comes once. Raises
    EpisodeError: one is damaged."""
    told, fields = set[str](), stored_fields(builder.info.features)
    for split, info in builder.info.splits.items():
        records = itertools.chain.from_iterable(examples(Path(str(file))) for file in info.filepaths)
        for index, example in enumerate(itertools.islice(records, most)):
            left |= of_record(example, fields, known)
            for found in check_example(example, builder.info.features, f"{split}[{index}]"):
                if found.level != "note" or found.message not in told:
                    yield found
                    told.add(found.message)


def holds_quaternions(version_dir: Path, key: str, most: int | None) -> bool:
    """Whether columns 3 to 6 of every nine of this step field have length one at half of the steps or more, for any arm
    in any episode that is read. Raises EpisodeError: one is damaged."""
    for split in open_version(version_dir).info.splits:
        for steps, _ in itertools.islice(read_steps(version_dir, split, images=False), most):
            state = dict(flat(steps, separator="/")).get(key, np.empty(0))
            if state.dtype.kind in "fiu" and state.size:
                turns = state.reshape(len(state), -1, 9)[..., 3:7].astype(np.float64)
                off = abs(np.linalg.norm(turns, axis=-1) - 1) > UNIT_QUATERNION_TOLERANCE
                if (off.mean(0) <= 0.5).any():
                    return True
    return False


def check_example(example: Any, features: Any, name: str) -> Iterator[Finding]:
    """Numbers are those that their dtype holds, and pictures are decoded as they were taken."""
    for text, step in beyond_declared(example, stored_numbers(features)):
        text += "; correct features.json, or convert the source again"
        yield Finding("error", "declared", text, name, step)
    for key, feature in flat(features["steps"].feature, separator="/"):
        film = f"steps/{key}"
        if _is_picture(feature) and film in example.features.feature:
            yield from _check_film(film, example.features.feature[film].bytes_list.value, feature, name)


def _is_picture(feature: Any) -> bool:
    shape = getattr(feature, "shape", None) or ()
    return type(feature).__name__ == "Image" and np.dtype(feature.np_dtype) == np.uint8 and len(shape) == 3


def _check_film(key: str, film: Any, feature: Any, name: str) -> Iterator[Finding]:
    """The first picture that is to be turned, the first that is several, is seen through or is of another format, and
    the first that the decoder repairs."""
    for step, picture in enumerate(film):
        if b"Exif" in picture[:4096] or b"eXIf" in picture[:4096]:
            with contextlib.suppress(Exception), Image.open(io.BytesIO(picture)) as opened:
                turned = opened.getexif().get(_ORIENTATION, 1)
                if turned != 1:
                    text = f"{key} is to be turned by its EXIF (orientation {turned}), which TensorFlow does not; turn "
                    yield Finding("warning", "picture", text + "the pixels, and write it without", name, step)
                    break
    chunks = [dict(_chunks(picture)) for picture in film]
    for step, (picture, parts) in enumerate(zip(film, chunks)):
        if BEHIND_ANOTHER.search(picture) or b"acTL" in parts:
            how = "in one file" if b"acTL" in parts else "one behind the other"
            text = f"{key} holds several pictures {how}, of which the first is read; store one a step"
            yield Finding("error", "picture", text, name, step)
            break
        if b"IEND" in parts and (more := len(picture) - parts[b"IEND"]) > _HARMLESS:
            text = f"{key} has {more} bytes behind its end, which are not read; write it without"
            yield Finding("warning", "picture", text, name, step)
            break
    for step, (picture, parts) in enumerate(zip(film, chunks)):
        if (picture[25:26] in (b"\4", b"\6") or b"tRNS" in parts) and _shines(picture):
            text = f"{key} is not opaque, and its alpha is not read; store what is to be seen"
            yield Finding("warning", "picture", text, name, step)
            break
    for step in [step for step, one in enumerate(film) if feature.shape[-1] == 1 and _is_coloured(one)][:1]:
        text = f"{key} is in colours, features.json declares one channel: it is read as grey; correct one of them"
        yield Finding("warning", "picture", text, name, step)
    yield from _check_formats(key, film, feature, name)
    with _heard() as said:
        step = next((step for step, picture in enumerate(film) if _is_repaired(picture, said)), 0)
        damaged = said()
    if damaged:
        text = f"{key} is a damaged JPEG ({one_line(damaged, 100)}); copy it again, or drop the episode"
        behind = _BEHIND.search(damaged)
        harmless = behind is not None and int(behind[1]) <= _HARMLESS
        yield Finding("warning" if harmless else "error", "picture", text, name, step)


_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = {_PNG[:4]: "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"GIF8": "GIF"}


def _check_formats(key: str, film: Any, feature: Any, name: str) -> Iterator[Finding]:
    """Pictures are of one format, and that of `features.json`: who writes bytes to TFDS may declare another one."""
    found = [next((form for head, form in _FORMATS.items() if one.startswith(head)), "") for one in film]
    if len({*found}) > 1:
        step = next(step for step, form in enumerate(found) if form != found[0])
        text = f"{key} is {found[step] or 'of no known format'}, {found[0] or 'of none'} before; JPEG keeps less than "
        yield Finding("warning", "picture", text + "PNG: store all as one", name, step)
    elif found and (said := getattr(feature, "_encoding_format", None)) and found[0] and found[0] != said.upper():
        yield Finding("note", "picture", f"{key} is {found[0]}, features.json says {said}; what is stored is read")


def _chunks(picture: bytes) -> Iterator[tuple[bytes, int]]:
    """The names of a PNG's parts up to its end, and where each ends; nothing of other pictures."""
    place = len(_PNG)
    while picture.startswith(_PNG) and place + 8 <= len(picture):
        kind, place = picture[place + 4 : place + 8], place + 12 + int.from_bytes(picture[place : place + 4], "big")
        yield kind, place
        if kind == b"IEND":
            return


def _is_coloured(picture: bytes) -> bool:
    """Whether a PNG or JPEG has three channels, or a palette of which it shows colours."""
    if picture.startswith(_PNG) and picture[25:26] != b"\3":
        return picture[25:26] in (b"\2", b"\6")
    with contextlib.suppress(Exception), Image.open(io.BytesIO(picture)) as opened:  # the reader names what is damaged
        if opened.mode == "P" and np.prod(opened.size, dtype=float) <= MOST_PIXELS:
            return bool(np.ptp(np.asarray(opened.convert("RGB")), axis=-1).any())
        return picture[:3] == b"\xff\xd8\xff" and opened.mode == "RGB"
    return False


def _shines(picture: bytes) -> bool:
    """Whether what is behind a PNG would be seen through it."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(picture)) as opened:  # the reader names what is damaged
        return np.prod(opened.size, dtype=float) <= MOST_PIXELS and bool(
            np.asarray(opened.convert("RGBA"))[..., 3].min() < 255
        )
    return False


def _is_repaired(picture: bytes, said: Callable[[], str]) -> bool:
    """Whether something is said when it is decoded, if it is a JPEG."""
    import tensorflow as tf

    if picture[:3] != b"\xff\xd8\xff":
        return False
    with contextlib.suppress(tf.errors.OpError):  # which the reader names
        if np.prod(tf.io.extract_jpeg_shape(picture).numpy()[:2], dtype=float) <= MOST_PIXELS:
            tf.io.decode_jpeg(picture)
    return bool(said())


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """What is said inside of damaged JPEG, which libjpeg writes to stderr and repairs; all else is written there."""
    try:
        screen = os.dup(2)
    except OSError:  # closed
        yield str
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)

        def said() -> str:
            text = os.pread(held.fileno(), 4096, 0).decode(errors="replace") if os.fstat(held.fileno()).st_size else ""
            return next((line for line in text.splitlines() if _OF_JPEG.search(line)), "")

        try:
            yield said
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            held.seek(0)
            lines = held.read().decode(errors="backslashreplace").splitlines(keepends=True)
            if sys.stderr is not None:
                sys.stderr.write("".join(line for line in lines if not _OF_JPEG.search(line)))
