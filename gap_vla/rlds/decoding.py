"""How TFDS decodes an episode for `reader`: pictures of bounded size, steps stacked to arrays, numbers as declared."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.identity import flat

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

MOST_PIXELS = 2**24
"""Of one picture: 4096 × 4096."""


def each_picture(feature: Any, decode: Any) -> Any:
    """This decoder of TFDS for every picture below a feature."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return decode
    parts = ((key, each_picture(part, decode)) for key, part in getattr(feature, "items", tuple)())
    return {key: part for key, part in parts if part}


def bounded() -> Any:
    """A decoder that looks at the head of a PNG or JPEG first: a picture of a few bytes may be one of gigabytes."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with tf.init_scope():
        no_jpeg = tf.io.encode_jpeg(tf.zeros((1, 1, 3), tf.uint8)).numpy()

    def decode(picture: tf.Tensor, feature: tfds.features.Image) -> tf.Tensor:
        # without branches, of which each is a graph of its own and takes as long as opening the dataset
        head = tf.strings.substr(tf.strings.join([tf.strings.substr(picture, 0, 25), bytes(25)]), 0, 25)
        begins = tf.strings.substr(head, 0, 3)
        numbers = tf.cast(tf.reshape(tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.uint8), (2, 4)), tf.int64)
        of_png = tf.reduce_sum(numbers * [2**24, 2**16, 2**8, 1], axis=1)[::-1]
        is_jpeg = begins == b"\xff\xd8\xff"
        of_jpeg = tf.cast(tf.io.extract_jpeg_shape(tf.where(is_jpeg, picture, no_jpeg)), tf.int64)[:2]
        size = tf.where(begins == b"\x89PN", of_png, tf.where(is_jpeg, of_jpeg, 0))  # 0: its decoder says what it is
        wanted = [side or MOST_PIXELS for side in feature.shape[:2]]
        fits = tf.reduce_all(size <= wanted) & (tf.reduce_prod(size) <= MOST_PIXELS)
        said = tf.constant(f"a picture of other size than {[*feature.shape]}")
        told = [tf.raw_ops.Assert(condition=fits, data=[said, size])]
        if np.dtype(feature.np_dtype) == np.uint8:  # of more bits TensorFlow keeps the upper eight
            deep = (begins == b"\x89PN") & (tf.strings.substr(head, 24, 1) == b"\x10")
            why = tf.constant("a picture of 16 bits a channel, which is declared as one of bytes")
            told.append(tf.raw_ops.Assert(condition=~deep, data=[why]))
        with tf.control_dependencies(told):
            return feature.decode_example(tf.identity(picture))

    return tfds.decode.make_decoder()(decode)()


def stacked(episode: dict[str, Any], resize: Mapping[str, tuple[int, int]], uneven: bool = False) -> dict[str, Any]:
    """An episode whose steps are arrays; fields of changing length are left out where it is `uneven`."""
    import tensorflow as tf

    steps = episode["steps"]
    if uneven:
        chosen = steps.map(functools.partial(_even, specs=steps.element_spec))
        steps = chosen.prefetch(1)  # TensorFlow would fuse it with the batch, and allocate all of that
    steps = steps.batch(tf.int64.max).get_single_element()
    for path, size in resize.items():
        *parents, key = path.split("/")
        place = functools.reduce(lambda tree, name: tree[name], parents, steps)
        small = tf.image.resize(place[key], size, method="lanczos3", antialias=True)
        place[key] = tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8)
    return {**episode, "steps": steps}


def _even(step: Mapping[str, Any], specs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a step whose shape its description fixes, and pictures."""
    nested = {key: _even(step[key], spec) for key, spec in specs.items() if isinstance(spec, dict)}
    return {key: part for key, part in nested.items() if part} | {
        key: step[key] for key, spec in specs.items() if not isinstance(spec, dict) and _is_even(spec)
    }


def _is_even(spec: Any) -> bool:
    shape = getattr(spec, "shape", None)
    return shape is not None and (spec.dtype.name == "uint8" or (shape.rank is not None and None not in shape))


def stored_numbers(features: Any) -> dict[str, tuple[np.dtype, int]]:
    """Of the fields of a record that are truth values or integers below 64 bits, the dtype that is declared, and how
    many numbers a step holds; 0: it is not of the steps."""
    found = {}
    for key, info in flat(features.get_serialized_info(), separator="/"):
        dtype = np.dtype(getattr(info, "np_dtype", object))
        if dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize < 8):
            width = math.prod(size or 1 for size in info.shape[1:])
            found[key] = (dtype, width if key.startswith("steps/") else 0)
    return found


def beyond_declared(example: Any, numbers: Mapping[str, tuple[np.dtype, int]]) -> Iterator[tuple[str, int | None]]:
    """Says which `numbers` of a record its dtype cannot hold, which TFDS would make others of, and the first step."""
    for key, (dtype, width) in numbers.items():
        values = np.array(example.features.feature[key].int64_list.value if key in example.features.feature else ())
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if len(odd := np.flatnonzero((values < least) | (values > most))):
            step = int(odd[0] // width) if width else None
            yield f"{key} is stored as {int(values[odd[0]])}, and declared as {dtype}", step


def require_declared(example: Any, numbers: Mapping[str, tuple[np.dtype, int]], where: str) -> None:
    """Raises EpisodeError for numbers that are `beyond_declared`."""
    for text, step in beyond_declared(example, numbers):
        at = "" if step is None else f" at step {step}"
        raise EpisodeError(f"{where}: {text}{at}; correct features.json, or convert the source again")
