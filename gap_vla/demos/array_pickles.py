"""Pickles of dictionaries of numpy arrays (Meta-World recordings of published code): read without running any code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import refusing
from gap_vla.demos.fields import ACTION_LIMIT, make_episode
from gap_vla.demos.layout import StateLayout
from gap_vla.demos.pickle_tokens import read_pickle
from gap_vla.demos.source import Source


class ArrayPickles(Source):
    """One pickle per demonstration in a folder, or one pickle with a list (or dictionary) of demonstrations.

    Args:
        path: file, or folder with `*.pkl` / `*.pickle`.
        state_key, action_key: names within a demonstration's dictionary.
        image_keys: name to camera name, e.g. `{"image": "image_primary"}`.
        layout: columns of the state, a name of `gap_vla.demos.layout.LAYOUTS` or its attributes.
        language_instruction: these files have none.
        action_limit: the largest action; null: whatever is there.

    Raises:
        EpisodeError: anything but plain arrays in a pickle, damage, missing keys; names the file.
    """

    kind = "pickle"

    def __init__(
        self,
        path: Path,
        *,
        state_key: str = "state",
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
            "image_keys": dict(image_keys or {}),
            "layout": layout if isinstance(layout, str) else dict(layout),
            "language_instruction": language_instruction,
            **self.stated_limit(action_limit),
        }
        self._layout = StateLayout.of(layout)
        files = [self.path]
        if self.path.is_dir():
            files = sorted(p for p in self.path.iterdir() if p.suffix in (".pkl", ".pickle"))
        if not files:
            raise EpisodeError(f"{self.path}: no .pkl files in this folder")
        self._places = [(file, key) for file in files for key in _keys(load_arrays(file), file)]
        if not self._places:
            raise EpisodeError(f"{self.path}: no demonstrations")
        self._opened: tuple[Path, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __len__(self) -> int:
        return len(self._places)

    def mapping(self) -> dict[str, str]:
        cameras = {camera: key for key, camera in self.options["image_keys"].items()}
        return cameras | {"proprio": self.options["state_key"], "action": self.options["action_key"]}

    def dropped(self) -> dict[str, str]:
        file, key = self._places[0]
        content = load_arrays(file)
        first = content if key is None else content[key]
        used = {self.options["state_key"], self.options["action_key"], *self.options["image_keys"], "phase"}
        names = [str(name) for name in first] if isinstance(first, Mapping) else []
        return {name: "not named as state, action or camera" for name in names if name not in used}

    def read(self, index: int, *, images: bool = True) -> Episode:
        file, key = self._places[index]
        if self._opened is None or self._opened[0] != file:
            self._opened = (file, load_arrays(file))
        content = self._opened[1]
        name = file.stem if key is None else f"{file.stem}[{key}]"
        arrays = content if key is None else content[key]
        if not isinstance(arrays, Mapping):
            raise EpisodeError(f"{file}, episode {name}: a {type(arrays).__name__}, not a dictionary of arrays")
        return make_episode(
            arrays,
            f"{file}, episode {name}",
            state_key=self.options["state_key"],
            action_key=self.options["action_key"],
            image_keys=self.options["image_keys"],
            layout=self._layout,
            images=images,
            action_limit=self.action_limit,
            language_instruction=self.options["language_instruction"],
            metadata={"file_path": str(file), "episode_id": name},
        )


def load_arrays(file: Path) -> Any:
    """The content of a pickle that holds nothing but numpy arrays, numbers and text in lists and dictionaries.

    Raises:
        EpisodeError: it holds anything else, or is damaged. No code of it has run.
    """
    with (
        refusing(f"{file}: not read as a pickle of arrays", "write it again", EpisodeError),
        open(file, "rb") as stream,
    ):
        return read_pickle(stream, os.fstat(stream.fileno()).st_size)


def _keys(content: Any, file: Path) -> list[Any]:
    if isinstance(content, Mapping):
        nested = [key for key, value in content.items() if isinstance(value, Mapping)]
        return nested if nested else [None]
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        return list(range(len(content)))
    raise EpisodeError(f"{file}: a {type(content).__name__}, not a dictionary or list of demonstrations")
