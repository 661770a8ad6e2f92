"""How TFDS decodes an episode for `reader`: pictures of bounded size, steps stacked to arrays, numbers as declared."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

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


def as_floats(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The same steps, with numbers of TensorFlow's own, as bfloat16, in float32, which holds each of them."""
    return {
        key: as_floats(part)
        if isinstance(part, dict)
        else part.astype(np.float32)
        if isinstance(part, np.ndarray) and part.dtype.kind == "V"
        else part
        for key, part in tree.items()
    }


class Stored(NamedTuple):
    """What numbers of a record may be.

    Attributes:
        what: as which they are declared.
        width: how many a step holds; 0: they are not of the steps.
        least, most: of each.
    """

    what: str
    width: int
    least: int
    most: int


def stored_numbers(features: Any) -> dict[str, Stored]:
    """The fields of a record that are truth values, numbers of classes, or integers below 64 bits."""
    classes = {key: getattr(one, "num_classes", None) for key, one in flat(features, separator="/")}
    found = {}
    for key, info in flat(features.get_serialized_info(), separator="/"):
        dtype = np.dtype(getattr(info, "np_dtype", object))
        if count := classes.get(key):
            what, least, most = f"one of {count} classes", -1, count - 1  # -1: none
        elif dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize < 8):
            limits = None if dtype.kind == "b" else np.iinfo(dtype)
            what, least, most = f"{dtype}", limits.min if limits else 0, limits.max if limits else 1
        else:
            continue
        width = math.prod(size or 1 for size in info.shape[1:]) if key.startswith("steps/") else 0
        found[key] = Stored(what, width, least, most)
    return found


def beyond_declared(example: Any, numbers: Mapping[str, Stored]) -> Iterator[tuple[str, int | None]]:
    """Says which `numbers` of a record are not what they are declared as, which TFDS would make others of, and the
    first step."""
    for key, (what, width, least, most) in numbers.items():
        values = np.array(example.features.feature[key].int64_list.value if key in example.features.feature else ())
        if len(odd := np.flatnonzero((values < least) | (values > most))):
            step = int(odd[0] // width) if width else None
            yield f"{key} is stored as {int(values[odd[0]])}, and declared as {what}", step


def require_declared(example: Any, numbers: Mapping[str, Stored], where: str) -> None:
    """Raises EpisodeError for numbers that are `beyond_declared`."""
    for text, step in beyond_declared(example, numbers):
        at = "" if step is None else f" at step {step}"
        raise EpisodeError(f"{where}: {text}{at}; correct features.json, or convert the source again")
