"""Arrays by name that Python programs save: folders of `.npz`, and pickles of dictionaries of numpy arrays.

Pickles, as of Meta-World recordings, are read without running their code.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.columns import Columns
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, replacing
from gap_vla.demos.arrays import as_text
from gap_vla.demos.source import PICKLES, Labels, Place, Recording, Source, files_in


class NpzFolder(Source):
    """Each file holds arrays of equal length: a state, actions, pictures, `phase`; and texts or numbers.

    `columns` and `action_columns`, texts, may describe the state and the actions.
    """

    kind = "npz"
    STATES = ("proprio", "state", "observation/state", "observation.state")

    def find(self) -> tuple[list[Place], dict[str, list[str]]]:
        return [Place(file, file.stem) for file in files_in(self.path, (".npz",))], {}

    @contextlib.contextmanager
    def recording(self, place: Place) -> Iterator[Recording]:
        with np.load(place.file, allow_pickle=False) as arrays:
            yield Recording(arrays, arrays.get("language_instruction", ""), arrays.get("success", True))

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        field = "columns" if names == self.state else "action_columns"
        if field in self.names:
            with self.recording(self.places[0]) as first:
                return Columns.parse(as_text(first.arrays[field]))
        return None

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Copies each file with all that it holds, and adds `rho`, `change_point` and what the columns are."""
        with replacing(out) as new:
            new.mkdir()
            for place, own in zip(self.places, labels):
                added = {f"{name}.npy": np.asarray(value) for name, value in {**own, **self.described}.items()}
                with zipfile.ZipFile(place.file) as old, zipfile.ZipFile(new / place.file.name, "w") as copy:
                    for member in old.infolist():
                        if member.filename not in added:
                            copy.writestr(member, old.read(member))
                    for name, value in added.items():
                        with copy.open(name, "w") as stream:
                            np.lib.format.write_array(stream, value, allow_pickle=False)
            mark(new, "labelled_npz")


_NAMES = {
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "_codecs": ("encode",),  # of bytes that Python 2 wrote as text
    "builtins": ("bytes", "bytearray"),
    "__builtin__": ("bytes", "bytearray"),
    "collections": ("OrderedDict",),
}
"""What a pickle may name: what numpy's arrays consist of. Names of numpy's `_core` are those of its `core`."""


class Unpickler(pickle.Unpickler):
    """Knows numpy's arrays and nothing else, so that no code of a pickle runs."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _NAMES.get(module.replace("numpy._core", "numpy.core"), ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}; only dictionaries of numpy arrays are read")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


@dataclass(frozen=True)
class Entry(Place):
    """A demonstration in a pickle; `key` is its place in the list or dictionary, None for a pickle of one."""

    key: Any = None


class ArrayPickles(Source):
    """A pickle per demonstration in a folder, or pickles with a list or dictionary of demonstrations.

    A demonstration is a dictionary of arrays; arrays in dictionaries within it are called `outer/inner`. Numbers and
    texts that stand beside demonstrations in a dictionary are of all of them.
    """

    kind = "pickle"
    STATES = ("state", "proprio", "observations/state", "observation/state", "obs/state")
    INSIDE = ("observations/", "observation/", "obs/")

    def find(self) -> tuple[list[Entry], dict[str, list[str]]]:
        places = []
        for file in files_in(self.path, PICKLES):
            content = _content(file)
            if isinstance(content, Mapping):
                keys: list[Any] = [key for key, value in content.items() if isinstance(value, Mapping)]
                if not keys or any(isinstance(value, np.ndarray | list) for value in content.values()):
                    places.append(Entry(file, file.stem))
                    continue
            else:
                keys = list(range(len(content)))
            places += [Entry(file, f"{file.stem}[{key}]", key) for key in keys]
        return places, {}

    @contextlib.contextmanager
    def recording(self, place: Entry) -> Iterator[Recording]:
        content = _content(place.file)
        demo, of_all = content, {}
        if place.key is not None:
            demo = content[place.key]
            if isinstance(content, Mapping):
                of_all = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
        arrays = {**of_all, **dict(_flat(demo))}
        yield Recording(arrays, arrays.get("language_instruction", ""), arrays.get("success", True))


@functools.lru_cache(maxsize=1)  # of a file with many demonstrations
def _content(file: Path) -> Any:
    """What a pickle of arrays, numbers and text holds. Raises EpisodeError: it holds anything else."""
    try:
        with file.open("rb") as stream:
            content = Unpickler(stream, encoding="latin1").load()
    except Exception as error:  # damage shows as any exception
        raise EpisodeError(f"{file} is not read as a pickle of arrays: {error}") from None
    demos = content if isinstance(content, list | tuple | np.ndarray) else [content]
    if not all(isinstance(demo, Mapping) for demo in demos):
        raise EpisodeError(f"{file} holds a {type(content).__name__}, no dictionary of arrays or list of dictionaries")
    return content


def _flat(demo: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in demo.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", _regular(value)


def _regular(value: Any) -> Any:
    """Rows of equal length in a list or an array of objects as one array."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim):
        with contextlib.suppress(ValueError):
            return np.asarray(list(value))
    return value
