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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.core.foreign import BEHIND_ANOTHER, one_line
from gap_vla.core.identity import flat
from gap_vla.rlds.checking.report import Finding
from gap_vla.rlds.decoding import MOST_PIXELS, beyond_declared, stored_numbers
from gap_vla.rlds.version_files import examples

_OF_JPEG = re.compile("JPEG|Inconsistent progression|Bogus|Premature end")
"""Lines in which libjpeg tells of a picture."""

_ORIENTATION = 0x112
"""The tag of EXIF that says how a picture is to be turned."""
_BEHIND, _HARMLESS = re.compile(r"(\d{1,9}) extraneous bytes"), 64
"""What libjpeg says of bytes behind a picture, and how many of them a camera may leave there: of a picture that lost
some in its middle many more are left over."""


def check_records(builder: Any, most: int | None) -> Iterator[Finding]:
    """Reads the records of each split, all or the first `most`; TFDS itself passes over what follows behind the fields
    that it knows. Raises EpisodeError: one is damaged."""
    for split, info in builder.info.splits.items():
        records = itertools.chain.from_iterable(examples(Path(str(file))) for file in info.filepaths)
        for index, example in enumerate(itertools.islice(records, most)):
            yield from check_example(example, builder.info.features, f"{split}[{index}]")


def check_example(example: Any, features: Any, name: str) -> Iterator[Finding]:
    """Numbers are those that their dtype holds, and pictures are decoded as they were taken."""
    for text, step in beyond_declared(example, stored_numbers(features)):
        text += "; correct features.json, or convert the source again"
        yield Finding("error", "declared", text, name, step)
    for key, feature in flat(features["steps"].feature, separator="/"):
        film = f"steps/{key}"
        if _is_picture(feature) and film in example.features.feature:
            yield from _check_film(film, example.features.feature[film].bytes_list.value, name)


def _is_picture(feature: Any) -> bool:
    shape = getattr(feature, "shape", None) or ()
    return type(feature).__name__ == "Image" and np.dtype(feature.np_dtype) == np.uint8 and len(shape) == 3


def _check_film(key: str, film: Any, name: str) -> Iterator[Finding]:
    """The first picture that is to be turned, and the first that the decoder repairs."""
    for step, picture in enumerate(film):
        if b"Exif" in picture[:4096] or b"eXIf" in picture[:4096]:
            with contextlib.suppress(Exception), Image.open(io.BytesIO(picture)) as opened:
                turned = opened.getexif().get(_ORIENTATION, 1)
                if turned != 1:
                    text = f"{key} is to be turned by its EXIF (orientation {turned}), which TensorFlow does not; turn "
                    yield Finding("warning", "picture", text + "the pixels, and write it without", name, step)
                    break
    for step, picture in enumerate(film):
        if BEHIND_ANOTHER.search(picture):
            text = f"{key} holds several pictures one behind the other, of which the first is read; store one a step"
            yield Finding("error", "picture", text, name, step)
            break
    with _heard() as said:
        step = next((step for step, picture in enumerate(film) if _is_repaired(picture, said)), 0)
        damaged = said()
    if damaged:
        text = f"{key} is a damaged JPEG ({one_line(damaged, 100)}); copy it again, or drop the episode"
        behind = _BEHIND.search(damaged)
        harmless = behind is not None and int(behind[1]) <= _HARMLESS
        yield Finding("warning" if harmless else "error", "picture", text, name, step)


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
