"""A folder of `.npz` files, one demonstration each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.demos.arrays import array_names, read_arrays
from gap_vla.demos.fields import ACTION_LIMIT, IMAGE_NAMES, as_text, as_truth, make_episode
from gap_vla.demos.layout import StateLayout
from gap_vla.demos.source import Source


class NpzFolder(Source):
    """Each file holds arrays of equal length: state (T, S), action (T, A), pictures uint8 (T, h, w, 3), and optionally
    `phase` (T), `language_instruction` (text) and `success`.

    Args:
        path: the folder; files are taken in name order.
        state_key, action_key: names of the arrays.
        image_keys: array name to camera name; default: `image_primary` and `image_wrist` where they exist.
        layout: columns of the state, a name of `gap_vla.demos.layout.LAYOUTS` or its attributes.
        language_instruction: used where a file has none.
        action_limit: the largest action; null: whatever is there.

    Raises:
        EpisodeError: no files, a damaged file, a missing array, or arrays that do not fit; names the file.
    """

    kind = "npz"

    def __init__(
        self,
        path: Path,
        *,
        state_key: str = "proprio",
        action_key: str = "action",
        image_keys: Mapping[str, str] | None = None,
        layout: str | Mapping[str, Any] = "gap",
        language_instruction: str = "",
        action_limit: float | None = ACTION_LIMIT,
    ) -> None:
        self.path = Path(path)
        self.options = {
            "state_key": state_key,
            "action_key": action_key,
            "image_keys": dict(image_keys) if image_keys is not None else None,
            "layout": layout if isinstance(layout, str) else dict(layout),
            "language_instruction": language_instruction,
            **self.stated_limit(action_limit),
        }
        self._layout = StateLayout.of(layout)
        self._files = sorted(self.path.glob("*.npz")) if self.path.is_dir() else []
        if not self._files:
            raise EpisodeError(f"{self.path}: no .npz files in this folder")
        names = sorted({name for file in self._files for name in array_names(file)})
        self._image_keys = image_keys if image_keys is not None else {k: k for k in IMAGE_NAMES if k in names}
        used = {state_key, action_key, *self._image_keys, "phase", "language_instruction", "success"}
        self._dropped = {key: "not named as state, action or camera" for key in names if key not in used}

    def __len__(self) -> int:
        return len(self._files)

    def mapping(self) -> dict[str, str]:
        cameras = {camera: key for key, camera in self._image_keys.items()}
        named = {"proprio": self.options["state_key"], "action": self.options["action_key"], "phase": "phase"}
        return cameras | named

    def dropped(self) -> dict[str, str]:
        return self._dropped

    def read(self, index: int, *, images: bool = True) -> Episode:
        file = self._files[index]
        arrays = read_arrays(file, lambda name: images or name not in self._image_keys)
        return make_episode(
            arrays,
            str(file),
            state_key=self.options["state_key"],
            action_key=self.options["action_key"],
            image_keys=self._image_keys,
            layout=self._layout,
            images=images,
            action_limit=self.action_limit,
            language_instruction=as_text(
                arrays.get("language_instruction", self.options["language_instruction"]), f"{file}"
            ),
            success=as_truth(arrays.get("success", True), f"{file}: 'success'"),
            metadata={"file_path": str(file), "episode_id": file.stem},
        )
