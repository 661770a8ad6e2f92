"""Pickles of dictionaries of numpy arrays (Meta-World recordings of published code): read without running any code."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.core.foreign import refusing, regular
from gap_vla.demos.beside import COUNTS, COUNTS_OF_ALL, PER_STEP, require_rows, tells
from gap_vla.demos.fields import files_in, is_blank, require_one_size
from gap_vla.demos.pickle_tokens import read_pickle
from gap_vla.demos.source import OTHERS, NamedArrays


class ArrayPickles(NamedArrays):
    """One pickle per demonstration in a folder, or one pickle with a list (or dictionary) of demonstrations; each may
    hold `phase`, `language_instruction` and `success` as those of `NpzFolder` do. What numbers and texts stand beside
    demonstrations in a dictionary are of all that have none of that name.

    Args:
        path: file, or folder with `*.pkl` / `*.pickle`.
        **options: of `NamedArrays`; the names are those within a demonstration's dictionary.

    Raises:
        EpisodeError: anything but plain arrays in a pickle, damage, missing keys; names the file.
    """

    kind = "pickle"
    STATE_KEY = "state"

    def _find(self) -> None:
        files = files_in(self.path, ".pkl", ".pickle") if self.path.is_dir() else [self.path]
        if not files:
            raise EpisodeError(f"{self.path}: no .pkl files in this folder")
        self.places = [(file, key) for file in files for key in _keys(load_arrays(file), file)]
        self._opened: tuple[Path, Any] | None = None
        held = [self._glance(index) for index in range(len(self))]
        if len(self.files) > 1:
            self._opened = None
        self._refuse_idle(self.options["language_instruction"], (arrays.get("language_instruction") for arrays in held))
        self._refuse_steps(held)
        self._names = sorted({str(name) for names in held for name in names})
        self._times = {name: sum(name in names for names in held) for name in OTHERS}
        self._take_images()
        self.options["image_keys"] = dict(self._image_keys)  # a dataset is known by them

    def _glance(self, index: int) -> dict[Any, Any]:
        """What an opening needs of a recording, without its arrays: of all of a folder there may be no memory."""
        found, action = self._arrays(index), self.options["action_key"]
        if not isinstance(found, Mapping):
            return {}
        kept = {**dict.fromkeys(found), "language_instruction": found.get("language_instruction")}
        if isinstance(rows := found.get(action), np.ndarray):
            kept[action] = np.broadcast_to(np.uint8(0), rows.shape)
        return kept if "language_instruction" in found else {name: kept[name] for name in found}

    def _refuse_steps(self, held: Sequence[Mapping[str, Any]]) -> None:
        """Counts the steps of each file. Raises EpisodeError: each of several recordings in a file is one step, so that
        they are none."""
        self._steps: dict[Path, int] = {}
        actions: list[Any] = [arrays.get(self.options["action_key"]) for arrays in held]
        for file in sorted(self.files):
            inside = [rows for (of, _), rows in zip(self.places, actions) if of == file]
            self._steps[file] = sum(len(rows) for rows in inside if isinstance(rows, np.ndarray) and rows.ndim)
            if len(inside) > 1 and all(isinstance(rows, np.ndarray) and rows.shape[:1] == (1,) for rows in inside):
                raise EpisodeError(
                    f"{file}: each of its {len(inside)} entries is one step, its action {[*np.shape(inside[0])]}: with "
                    "a batch axis of 1 they are the steps of demonstrations; join those of each demonstration to "
                    "arrays [T, width] (numpy.concatenate), and write a list of these"
                )

    @property
    def files(self) -> Collection[Path]:
        return {file for file, _ in self.places}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def look(self) -> None:
        episodes = (self.read(index) for index in range(len(self) if self._image_keys else 0))
        require_one_size((e.name, {key: film.shape[1:3] for key, film in e.images.items()}) for e in episodes)

    def read(self, index: int, *, images: bool = True) -> Episode:
        file, key = self.places[index]
        name = file.stem if key is None else f"{file.stem}[{key}]"
        where = f"{file}, episode {name}"
        arrays = self._arrays(index)
        if not isinstance(arrays, Mapping):
            raise EpisodeError(f"{where}: a {type(arrays).__name__}, not a dictionary of arrays")
        episode = self._episode(arrays, where, images, file=file, name=name)
        for one in self.dropped():
            if tells(one) and isinstance(rows := arrays.get(one), np.ndarray | list | tuple | int | float | np.generic):
                try:
                    rows = np.asarray(rows)
                except ValueError:  # rows of several lengths
                    if one.lower() in PER_STEP:
                        raise EpisodeError(f"{where}: {one!r} has rows of several lengths; write an array") from None
                    continue
                of_all = one.lower() in COUNTS and one in self._beside(index) and rows.size == 1
                if not of_all or rows.item() != self._steps[file]:
                    require_rows(one, rows, len(episode), where)
        return episode

    def _beside(self, index: int) -> Collection[Any]:
        """Names of what a file says of all of its demonstrations, and this one does not."""
        file, key = self.places[index]
        content = self._opened[1] if self._opened and self._opened[0] == file else load_arrays(file)
        return content.keys() - content[key].keys() if key is not None and isinstance(content, Mapping) else ()

    def _arrays(self, index: int) -> Any:
        file, key = self.places[index]
        opened = self._opened  # another thread may open another file meanwhile
        if opened is None or opened[0] != file:
            opened = self._opened = (file, load_arrays(file))
        content = opened[1]
        if key is None or not isinstance(content, Mapping):
            return content if key is None else content[key]
        beside = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
        own = {name: one for name, one in content[key].items() if name != "language_instruction" or not is_blank(one)}
        return beside | own


def load_arrays(file: Path) -> Any:
    """The content of a pickle of numpy arrays, numbers and text in lists and dictionaries.

    Raises EpisodeError: it holds anything else, or is damaged. No code of it has run.
    """
    unread = refusing(f"{file}: not read as a pickle of arrays", "write it again", EpisodeError)
    with unread, open(regular(file, EpisodeError), "rb") as stream:
        if stream.read(4) == b"PK\3\4":
            raise ValueError("it is a zip, as torch.save writes; save a dictionary of numpy arrays with pickle.dump")
        stream.seek(0)
        return read_pickle(stream, os.fstat(stream.fileno()).st_size)


def _keys(content: Any, file: Path) -> list[Any]:
    if isinstance(content, Mapping):
        nested = [key for key, value in content.items() if isinstance(value, Mapping)]
        odd = [key for key, value in content.items() if not isinstance(value, Mapping | str | int | float | np.generic)]
        if nested and odd:
            what = f"{file}: {odd[0]!r} is no demonstration as {nested[0]!r} is"
            advice = "make a dictionary of each, or, if this is one demonstration, store its arrays side by side"
            raise EpisodeError(f"{what}; {advice}")
        for name in COUNTS_OF_ALL:
            if nested and isinstance(said := content.get(name), int | float | np.number) and said != len(nested):
                raise EpisodeError(f"{file}: {len(nested)} demonstrations, {name!r} says {said}; get all of it")
        return nested if nested else [None]
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        if not content:
            raise EpisodeError(f"{file}: no demonstrations")
        return list(range(len(content)))
    raise EpisodeError(f"{file}: a {type(content).__name__}, not a dictionary or list of demonstrations")
