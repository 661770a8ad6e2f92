"""The one layout of our datasets: Octo/OXE's RLDS fields plus ρ, as TFDS features."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.core.identity import plain

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
        sizes = tuple((key, (value.shape[1], value.shape[2])) for key, value in sorted(episode.images.items()))
        annotated = episode.rho is not None and episode.change_point is not None
        return cls(sizes, episode.proprio.shape[1], episode.action.shape[1], annotated, episode.phase is not None)

    def check(self, episode: Episode) -> None:
        """Raises EpisodeError: the episode has another layout than the dataset's first one."""
        found = Schema.of(episode)
        for field in dataclasses.fields(self):
            here, first = getattr(found, field.name), getattr(self, field.name)
            if here != first:
                raise EpisodeError(
                    f"{episode.name}: {field.name} is {here}, of the first episode {first}; a dataset has one layout"
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
        steps, text = len(episode), episode.language_instruction
        last = np.arange(steps) == steps - 1
        extra = plain(episode.metadata)
        names = {key: str(extra.pop(key, None) or "") for key in ("episode_id", "file_path")}
        step: dict[str, Any] = {
            "observation": {
                **{key: [encode_png(frame) for frame in episode.images[key]] for key, _ in self.images},
                "proprio": np.asarray(episode.proprio, np.float32),
            },
            "action": np.asarray(episode.action, np.float32),
            "language_instruction": [text] * steps if isinstance(text, str) else list(text),
            "is_first": np.arange(steps) == 0,
            "is_last": last,
            "is_terminal": last & episode.success,
            "reward": (last & episode.success).astype(np.float32),
            "discount": np.ones(steps, np.float32),
        }
        if self.rho:
            step["rho"] = np.asarray(episode.rho, np.float32)
            step["change_point"] = np.asarray(episode.change_point, bool)
        if episode.phase is not None:
            step["phase"] = [name.decode() if isinstance(name, bytes) else str(name) for name in episode.phase]
        extra_json = json.dumps(_finite(extra), sort_keys=True, allow_nan=False)
        return {
            "steps": step,
            "episode_metadata": {**names, "success": bool(episode.success), "extra_json": extra_json},
        }


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
            value = np.ascontiguousarray(np.asarray(value, str) if value.dtype.kind in "OT" else value)
            total.update(f"{key}{value.dtype}{value.shape}".encode() + value.tobytes())
        rest = [str(episode.language_instruction), bool(episode.success), plain(episode.metadata)]
        total.update(json.dumps(rest, sort_keys=True).encode())
    return total.hexdigest()[:16]
