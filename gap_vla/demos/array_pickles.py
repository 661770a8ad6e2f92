"""Pickles of dictionaries of numpy arrays, as of Meta-World recordings, read without running their code."""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import EpisodeError
from gap_vla.demos.source import PICKLES, ArraySource, Place, Recording, files_in

_ARRAYS = {
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
        if name not in _ARRAYS.get(module.replace("numpy._core", "numpy.core"), ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}; only dictionaries of numpy arrays are read")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_arrays(file: Path) -> Any:
    """The content of a pickle of arrays, numbers and text. Raises EpisodeError: it holds anything else."""
    with file.open("rb") as stream:
        try:
            return Unpickler(stream, encoding="latin1").load()
        except OSError:
            raise
        except Exception as error:  # damage shows as any exception
            raise EpisodeError(f"{file} is not read as a pickle of arrays: {error}") from None


@dataclass(frozen=True)
class Entry(Place):
    """A demonstration in a pickle; `key` is its place in the list or dictionary, None for a pickle of one."""

    key: Any = None


class ArrayPickles(ArraySource):
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
                keys = [key for key, value in content.items() if isinstance(value, Mapping)]
                if not keys or any(isinstance(value, np.ndarray | list) for value in content.values()):
                    places.append(Entry(file, file.stem))
                    continue
            elif isinstance(content, list | tuple | np.ndarray):
                keys = list(range(len(content)))
            else:
                raise EpisodeError(f"{file} holds a {type(content).__name__}, no dictionary or list of demonstrations")
            places += [Entry(file, f"{file.stem}[{key}]", key) for key in keys]
        return places, {}

    @contextlib.contextmanager
    def recording(self, place: Entry) -> Iterator[Recording]:
        content = _content(place.file)
        demo = content if place.key is None else content[place.key]
        if not isinstance(demo, Mapping):
            said = f"a {type(demo).__name__}, not a dictionary of arrays"
            raise EpisodeError(f"{place.file}, episode {place.name}: {said}")
        of_all: dict[Any, Any] = {}
        if place.key is not None and isinstance(content, Mapping):
            of_all = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
        arrays = {**of_all, **dict(_flat(demo))}
        yield Recording(arrays, arrays.get("language_instruction") or of_all.get("language_instruction", ""),
                        arrays.get("success", True))  # fmt: skip


@functools.lru_cache(maxsize=1)  # of a file with many demonstrations
def _content(file: Path) -> Any:
    return load_arrays(file)


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
