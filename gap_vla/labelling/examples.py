"""Episodes out of the `tf.train.Example`s of any RLDS dataset: the state by name and layout, images by their bytes."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Error
from PIL import Image

from gap_vla.core.episode import OPENING_UNIT, Episode
from gap_vla.core.foreign import refusing
from gap_vla.demos.fields import as_rows
from gap_vla.demos.layout import StateLayout
from gap_vla.labelling.job import LabelJob, LabellingError, joined
from gap_vla.rlds.version_files import records

PICTURES = (b"\x89PNG", b"\xff\xd8\xff")
"""How encoded PNG and JPEG images begin."""

LANGUAGE = ("language_instruction", "observation/natural_language_instruction")


def examples(file: Path) -> Iterator[Any]:
    """The records of a shard.

    Raises:
        LabellingError: it is damaged.
    """
    import tensorflow as tf

    for record in records(file, LabellingError):
        with refusing(f"{file} holds something else than examples", "copy it again", LabellingError, (Error,)):
            example = tf.train.Example.FromString(record)
        yield example


def episode_of(example: Any, file: str, number: int, job: LabelJob, *, images: bool = False) -> Episode:
    """One episode: state and phases, and if wanted its images and labels.

    Raises:
        LabellingError: no such state (the message lists what there is), or a damaged field.
    """
    where = f"{file}, episode {number}"
    with refusing(where, "convert the source again", LabellingError, (Image.DecompressionBombError,)):
        return _episode_of(example, where, file, number, job, images).validate()


def _episode_of(example: Any, where: str, file: str, number: int, job: LabelJob, images: bool) -> Episode:
    steps = _steps(example, where)
    state = joined({name: _column(example, name, steps, where) for name in job.state_names}, where)
    assert state is not None
    layout = StateLayout.of(job.layout)
    proprio = layout.to_proprio(as_rows(state, f"{where}: {job.state!r}"), where)
    features = example.features.feature
    known: dict[str, Any] = {}
    if "steps/phase" in features:
        known["phase"] = np.array([name.decode() for name in features["steps/phase"].bytes_list.value])
    if images and "steps/rho" in features:
        known["rho"] = np.array(features["steps/rho"].float_list.value, np.float32)
    if images and "steps/change_point" in features:
        known["change_point"] = np.array(features["steps/change_point"].int64_list.value, bool)
    for name in LANGUAGE:
        if texts := features[f"steps/{name}"].bytes_list.value if f"steps/{name}" in features else ():
            known["language_instruction"] = texts[0].decode(errors="replace")
            break
    return Episode(
        _images(example, steps) if images else {},
        proprio,
        np.zeros((steps, 0), np.float32),
        metadata={"file_path": file, "episode_id": number, **_recorded(features), **layout.facts},
        **known,
    )


def extra_of(example: Any, file: str, number: int, job: LabelJob) -> np.ndarray:
    """f64[T, E]: the job's extra columns."""
    where = f"{file}, episode {number}"
    steps = _steps(example, where)
    columns = joined({name: _column(example, name, steps, where) for name in job.extra_names}, where)
    assert columns is not None
    return columns


def _recorded(features: Any) -> dict[str, Any]:
    """The unit of the gripper, where a dataset of ours was converted from one whose openings are not in m."""
    key = "episode_metadata/extra_json"
    if key not in features or not (text := features[key].bytes_list.value):
        return {}
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return {OPENING_UNIT: json.loads(text[0])[OPENING_UNIT]}
    return {}


def _steps(example: Any, where: str) -> int:
    features = example.features.feature
    if "steps/is_first" not in features:
        raise LabellingError(f"{where}: no 'steps/is_first' (found: {_known(example)})")
    return len(features["steps/is_first"].int64_list.value)


def _column(example: Any, name: str, steps: int, where: str) -> np.ndarray:
    features = example.features.feature
    if f"steps/{name}" not in features:
        raise LabellingError(f"{where}: no 'steps/{name}' (found: {_known(example)})")
    feature = features[f"steps/{name}"]
    values = np.array(getattr(feature, feature.WhichOneof("kind") or "float_list").value)
    if values.dtype.kind not in "fi" or (steps and len(values) % steps):
        raise LabellingError(f"{where}: 'steps/{name}' holds {len(values)} values of {values.dtype} for {steps} steps")
    return values.reshape(steps, -1 if steps else 0)


def _known(example: Any) -> str:
    return ", ".join(sorted(key for key in example.features.feature if key.startswith("steps/")))


def _images(example: Any, steps: int) -> dict[str, np.ndarray]:
    """uint8[T, h, w, 3] per camera: every step feature whose bytes are coloured pictures of one size."""
    found = {}
    for key, feature in sorted(example.features.feature.items()):
        values = feature.bytes_list.value
        if not key.startswith("steps/") or len(values) != steps or not steps or not values[0].startswith(PICTURES):
            continue
        pictures = [Image.open(io.BytesIO(value)) for value in values]
        if pictures[0].mode in ("RGB", "RGBA", "L", "P") and len({picture.size for picture in pictures}) == 1:
            name = key.removeprefix("steps/").removeprefix("observation/")
            found[name] = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return found
