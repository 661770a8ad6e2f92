"""LeRobot datasets, format v2 and v3: parquet tables, pictures in them or in videos. Read without LeRobot."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.demos.fields import make_episode, resized
from gap_vla.demos.layout import StateLayout
from gap_vla.demos.lerobot_index import EpisodePlace, read_index
from gap_vla.demos.source import Source
from gap_vla.episode import Episode, EpisodeError


class LeRobot(Source):
    """A LeRobot dataset folder (the one that holds `meta/info.json`).

    Args:
        path: the folder.
        image_keys: feature to camera name; default: the first two cameras become `image_primary` and `image_wrist`.
        state_key, action_key: feature names.
        layout: columns of the state, a name of `gap_vla.demos.layout.LAYOUTS` or its attributes. Joint positions are no
            end-effector pose: ρ needs one; name its columns, or write the dataset with `--method none`.
        image_size: (height, width) to resize to.

    Raises:
        EpisodeError: not a LeRobot folder, an unknown version, a damaged table or video; names the file.
    """

    kind = "lerobot"

    def __init__(
        self,
        path: Path,
        *,
        image_keys: Mapping[str, str] | None = None,
        state_key: str = "observation.state",
        action_key: str = "action",
        layout: str | Mapping[str, Any] = "gap",
        image_size: tuple[int, int] | list[int] | None = None,
    ) -> None:
        self.path = Path(path)
        self.options = {
            "image_keys": dict(image_keys) if image_keys is not None else None,
            "state_key": state_key,
            "action_key": action_key,
            "layout": layout if isinstance(layout, str) else dict(layout),
            "image_size": list(image_size) if image_size else None,
        }
        self._size = (image_size[0], image_size[1]) if image_size else None
        self._layout = StateLayout.of(layout)
        info_file = self.path / "meta" / "info.json"
        if not info_file.exists():
            raise EpisodeError(f"{self.path}: no meta/info.json; give the folder of one LeRobot dataset")
        try:
            self._info = json.loads(info_file.read_text())
        except json.JSONDecodeError as error:
            raise EpisodeError(f"{info_file}: not JSON ({error})") from None
        self._features = self._info["features"]
        cameras = [key for key, value in self._features.items() if value["dtype"] in ("video", "image")]
        names = ("image_primary", "image_wrist")
        self._image_keys = dict(image_keys) if image_keys is not None else dict(zip(cameras, names))
        for key in (state_key, action_key, *self._image_keys):
            if key not in self._features:
                raise EpisodeError(f"{info_file}: no feature {key!r} (features: {', '.join(self._features)})")
        self._places = read_index(self.path, self._info)

    def __len__(self) -> int:
        return len(self._places)

    def mapping(self) -> dict[str, str]:
        cameras = {camera: key for key, camera in self._image_keys.items()}
        return cameras | {"proprio": self.options["state_key"], "action": self.options["action_key"]}

    def dropped(self) -> dict[str, str]:
        used = {*self._image_keys, self.options["state_key"], self.options["action_key"]}
        return {key: "not named as state, action or camera" for key in self._features if key not in used}

    def read(self, index: int, *, images: bool = True) -> Episode:
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = self._places[index]
        where = f"{place.table}, episode {place.index}"
        stored = [k for k in self._image_keys if images and self._features[k]["dtype"] == "image"]
        columns = [self.options["state_key"], self.options["action_key"], "episode_index", *stored]
        try:
            table = pq.read_table(place.table, columns=columns, filters=[("episode_index", "==", place.index)])
        except (pa.ArrowException, OSError) as error:
            raise EpisodeError(f"{where}: the table cannot be read ({error}); download it again") from None
        if len(table) != place.length:
            raise EpisodeError(f"{where}: {len(table)} rows, the index says {place.length}; download it again")
        arrays: dict[str, Any] = {}
        for key in columns[:2]:
            width = int(np.prod(self._features[key]["shape"]))
            arrays[key] = np.stack([np.asarray(row, np.float32).reshape(width) for row in table[key].to_pylist()])
        for key in self._image_keys if images else ():
            frames = _pictures(table[key], where) if key in stored else _video(place, key)
            arrays[key] = resized(frames, self._size)
        return make_episode(
            arrays,
            where,
            state_key=self.options["state_key"],
            action_key=self.options["action_key"],
            image_keys=self._image_keys,
            layout=self._layout,
            images=images,
            language_instruction=place.task,
            metadata={"file_path": str(place.table), "episode_id": str(place.index)},
        )


def _pictures(column: Any, where: str) -> np.ndarray:
    try:
        return np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in column.to_pylist()])
    except (OSError, TypeError, ValueError) as error:
        raise EpisodeError(f"{where}: a picture cannot be decoded ({error})") from None


def _video(place: EpisodePlace, key: str) -> np.ndarray:
    """Decodes the episode's frames; ffmpeg seeks to the frame at or after the start of the episode."""
    import imageio_ffmpeg

    video, start = place.videos[key]
    where = f"{video}, episode {place.index}"
    if not video.exists():
        raise EpisodeError(f"{where}: the video is missing; download it")
    seek = ["-ss", f"{start:.6f}"] if start > 0 else []
    reader = imageio_ffmpeg.read_frames(str(video), input_params=seek, output_params=["-frames:v", str(place.length)])
    frames = []
    try:
        width, height = next(reader)["size"]
        for raw in reader:
            frames.append(np.frombuffer(raw, np.uint8).reshape(height, width, 3))
    except (OSError, RuntimeError, StopIteration, ValueError) as error:
        raise EpisodeError(f"{where}: the video cannot be decoded ({error}); download it again") from None
    finally:
        reader.close()
    if len(frames) != place.length:
        raise EpisodeError(f"{where}: {len(frames)} frames, the episode has {place.length} steps; download it again")
    return np.stack(frames)
