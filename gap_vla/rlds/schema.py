"""The one layout of our datasets: Octo/OXE's RLDS fields plus ρ, as TFDS features, and episodes to and from it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from operator import methodcaller
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import parsed, refusing
from gap_vla.core.identity import plain
from gap_vla.demos.fields import as_truths, decoded, is_blank, require_cameras

LANGUAGE = ("language_instruction", "observation/natural_language_instruction")
"""Step fields with an episode's instruction (`instruction_of`)."""

SCHEMA_VERSION = 2
"""Raise it whenever a change of code gives the same episodes another dataset: its layout, splits or statistics."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """Shapes and optional fields of a dataset; the same for each of its episodes.

    Attributes:
        images: camera name to (height, width), in name order.
        proprio_dim: width of `steps/observation/proprio`.
        action_dim: width of `steps/action`.
        rho: whether `steps/rho` (float32) and `steps/change_point` (bool) exist.
        phase: whether `steps/phase` (string) exists.
    """

    images: tuple[tuple[str, tuple[int, int]], ...]
    proprio_dim: int
    action_dim: int
    rho: bool
    phase: bool

    @classmethod
    def of(cls, episode: Episode) -> Schema:
        """The layout of an episode. Raises EpisodeError: a camera's name that readers of the dataset do not know."""
        require_cameras([*episode.images], episode.name)
        sizes = tuple((key, (value.shape[1], value.shape[2])) for key, value in sorted(episode.images.items()))
        annotated = episode.rho is not None and episode.change_point is not None
        return cls(sizes, episode.proprio.shape[1], episode.action.shape[1], annotated, episode.phase is not None)

    def check(self, *episodes: Episode) -> None:
        """Raises EpisodeError if one of the episodes differs from the dataset's first one."""
        for episode, field in itertools.product(episodes, dataclasses.fields(self)):
            found, expected = getattr(Schema.of(episode), field.name), getattr(self, field.name)
            if found != expected:
                raise EpisodeError(
                    f"{episode.name}: {field.name} is {_told(found)}, the first episode has {_told(expected)}; "
                    "a dataset has one layout: make two of them or repair the episode"
                )

    def features(self) -> Any:
        """The `tfds.features.FeaturesDict`."""
        import tensorflow_datasets as tfds

        observation: dict[str, Any] = {
            key: tfds.features.Image(shape=(h, w, 3), dtype=np.uint8, encoding_format="png")
            for key, (h, w) in self.images
        }
        observation["proprio"] = tfds.features.Tensor(shape=(self.proprio_dim,), dtype=np.float32)
        step: dict[str, Any] = {
            "observation": observation,
            "action": tfds.features.Tensor(shape=(self.action_dim,), dtype=np.float32),
            "language_instruction": tfds.features.Text(),
            "is_first": np.bool_,
            "is_last": np.bool_,
            "is_terminal": np.bool_,
            "reward": np.float32,
            "discount": np.float32,
        }
        if self.rho:
            step |= {"rho": np.float32, "change_point": np.bool_}
        if self.phase:
            step["phase"] = tfds.features.Text()
        return tfds.features.FeaturesDict(
            {
                "steps": tfds.features.Dataset(step),
                "episode_metadata": {
                    "episode_id": tfds.features.Text(),
                    "file_path": tfds.features.Text(),
                    "success": np.bool_,
                    "extra_json": tfds.features.Text(),
                },
            }
        )

    def encode(self, episode: Episode) -> dict[str, Any]:
        """One episode as stacked arrays, images as PNG bytes: what TFDS' example serializer takes."""
        self.check(episode)
        steps = len(episode)
        last = np.arange(steps) == steps - 1
        extra = {key: _text(value) for key, value in episode.metadata.items()}
        names = {key: extra.pop(key, None) for key in ("episode_id", "file_path")}
        step: dict[str, Any] = {
            "observation": {
                **{key: [encode_png(frame) for frame in episode.images[key]] for key, _ in self.images},
                "proprio": np.asarray(episode.proprio, np.float32),
            },
            "action": np.asarray(episode.action, np.float32),
            "language_instruction": [episode.language_instruction] * steps,
            "is_first": np.arange(steps) == 0,
            "is_last": last,
            "is_terminal": last & episode.success,
            "reward": (last & episode.success).astype(np.float32),
            "discount": np.ones(steps, np.float32),
        }
        if self.rho:
            step["rho"] = np.asarray(episode.rho, np.float32)
            step["change_point"] = np.asarray(episode.change_point, bool)
        if self.phase:
            assert episode.phase is not None
            step["phase"] = [decoded(name) for name in episode.phase]
        return {
            "steps": step,
            "episode_metadata": {
                **{key: "" if name is None else str(name) for key, name in names.items()},
                "success": bool(episode.success),
                "extra_json": _as_json(extra, f"{episode.name}: metadata"),
            },
        }


def _text(value: Any) -> Any:
    """Bytes, as h5py gives texts, as the text that they are; also within lists and dictionaries."""
    if isinstance(value, Mapping):
        return {key: _text(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_text(one) for one in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return _text(value.tolist())
    with contextlib.suppress(UnicodeDecodeError):
        return value.decode() if isinstance(value, bytes) else value
    return value


def _as_json(extra: dict[str, Any], name: str) -> str:
    """Text of JSON, which knows no NaN and infinity: null stands for them."""
    about = plain(extra, name, EpisodeError, number=methodcaller("tolist"))
    with refusing(name, "give texts for its names", EpisodeError):
        return json.dumps(_finite(about), sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def instruction_of(fields: Mapping[str, Any]) -> Any:
    """Of an RLDS episode's step fields the one that tells the instruction, the first of `LANGUAGE` that is not blank
    throughout; else the first that is there, or nothing."""
    found = [fields[name] for name in LANGUAGE if name in fields]
    return next((texts for texts in found if not all(map(is_blank, texts))), found[0] if found else ())


def is_row(dtype: np.dtype, shape: Sequence[int | None]) -> bool:
    """Whether a field of this shape in a step is a number or a row of numbers, and no picture whatever its name."""
    return dtype.kind in "biufV" and len(shape) < 2


def with_cameras(steps: Mapping[str, Any]) -> dict[str, Any]:
    """Steps without what is only called as pictures. Raises ValueError: the observation has no fields."""
    if not isinstance(observation := steps["observation"], Mapping):
        raise ValueError("steps/observation is one array, not fields by name")
    called = ((name, np.asarray(values)) for name, values in observation.items() if name.startswith("image_"))
    rows = {name for name, values in called if is_row(values.dtype, values.shape[1:])}
    return {**steps, "observation": {name: values for name, values in observation.items() if name not in rows}}


def decode_episode(steps: Mapping[str, Any], metadata: Mapping[str, Any]) -> Episode:
    """An Episode from the decoded, stacked arrays of one RLDS episode (the inverse of `Schema.encode`)."""
    observation = steps["observation"]
    spoken = steps.get("language_instruction", [b""])[0]
    return Episode(
        images={key: np.asarray(value) for key, value in observation.items() if key.startswith("image_")},
        proprio=np.asarray(observation["proprio"], np.float32),
        action=np.asarray(steps["action"], np.float32),
        language_instruction=_utf8(spoken, "steps/language_instruction") if isinstance(spoken, bytes) else spoken,
        success=bool(metadata.get("success", True)),
        phase=np.array([_utf8(p, "steps/phase") for p in steps["phase"]]) if "phase" in steps else None,
        rho=np.asarray(steps["rho"], np.float32) if "rho" in steps else None,
        change_point=as_truths(steps["change_point"]) if "change_point" in steps else None,
        metadata=recorded(metadata),
    )


def recorded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """An Episode's metadata from those of an RLDS episode; raises ValueError or TypeError for what is no text."""
    texts = {key: _utf8(metadata.get(key, b""), f"episode_metadata/{key}") for key in ("episode_id", "file_path")}
    extra = _utf8(metadata.get("extra_json", b""), name := "episode_metadata/extra_json") or "{}"
    try:
        return {**texts, **parsed(extra)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _utf8(value: Any, name: str) -> str:
    try:
        return decoded(value)
    except UnicodeError:
        raise ValueError(f"{name} is no UTF-8") from None


def encode_png(image: np.ndarray) -> bytes:
    """Lossless; level 1 costs a third of the default's time and gives files about 10 % larger."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", compress_level=1)
    return stream.getvalue()


def content_hash(episodes: Sequence[Episode]) -> str:
    """Hash of all that episodes hold, for data that come from memory and have no file to name."""
    total = hashlib.sha256()
    for episode in episodes:
        for key, value in sorted(episode.arrays.items()):
            if key == "phase" and np.asarray(value).dtype.kind in "OT":  # which hold places in memory
                texts = [n.decode(errors="backslashreplace") if isinstance(n, bytes) else str(n) for n in value]
                value = np.array(texts, str)  # one that is no text is refused where it is written
            value = np.ascontiguousarray(value)
            total.update(f"{key}{value.dtype}{value.shape}".encode())
            total.update(value.tobytes())
        # the text of a number of numpy, as always: another form would be another name of the same data
        about = plain(dict(episode.metadata), f"{episode.name}: metadata", EpisodeError, number=str)
        rest = [str(episode.language_instruction), bool(episode.success), about]
        total.update(json.dumps(rest, sort_keys=True).encode())
    return total.hexdigest()[:16]


def labels_hash(labels: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Hash of labels as they are written, where not `build_dataset` made them."""
    total = hashlib.sha256()
    for of_episode in labels:
        for key, value in sorted(of_episode.items()):
            stored = np.ascontiguousarray(value, {"rho": np.float32, "change_point": np.bool_}.get(key))
            total.update(f"{key}{stored.shape}".encode() + stored.tobytes())
    return total.hexdigest()[:16]


def _told(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return ", ".join(f"{camera} of {height}×{width}" for camera, (height, width) in value) or "none"
