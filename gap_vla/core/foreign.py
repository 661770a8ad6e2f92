"""Where foreign files and values enter: what is wrong with them becomes an error of one line that says where and what.

Each reader puts its reading into one `refusing` block; what it checks itself it raises as its own error inside. Values
of JSON files, or of a caller, are taken by name with `Section`, `whole` and `finite`. It imports no other library.
"""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gap_vla.core.errors import UserError, failure_of_system, is_full_disk, message_of
from gap_vla.core.resources import available_memory

T = TypeVar("T")
_REQUIRED: Any = object()

FOREIGN = (
    OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError, ArithmeticError,
    AssertionError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What h5py, numpy, Pillow, zipfile, json and pyarrow are known to raise on damaged files."""

MOST_COMPRESSED = 1100
"""No file holds more than this many times its own size: deflate, the strongest compression in use, reaches 1032."""


@contextlib.contextmanager
def refusing(
    where: object,
    advice: str,
    error: type[UserError] = UserError,
    also: tuple[type[Exception], ...] = (),
    own: type[UserError] = UserError,
) -> Iterator[None]:
    """Errors of other libraries inside become `error`, on one line; `own` ones, a full disk, a missing right pass.

    Args:
        where: file, and episode or key, that the message begins with.
        advice: what to do, e.g. "copy the file again".
        error: what to raise.
        also: errors of a library that derive from `Exception` alone.
        own: errors that say all of this already.

    >>> with refusing("demos.npz", "write it again"):
    ...     {}["action"]
    Traceback (most recent call last):
        ...
    gap_vla.core.errors.UserError: demos.npz: no 'action'; write it again
    """
    try:
        yield
    except own:
        raise
    except (*FOREIGN, *also) as problem:  # type: ignore[misc]
        if is_full_disk(problem) or isinstance(problem, PermissionError):  # what is read is not damaged
            raise
        found = f"{problem}"
        if type(problem) is KeyError and problem.args:  # h5py's has a sentence in the place of the key
            found = re.sub("^no ['\"](Unable to .*).$", r"\1", f"no {found}")
        if failure := failure_of_system(problem):
            raise error(f"{f'{where}'.split(': ')[0]}: {failure}") from problem
        found = found.partition(" See full TensorStore details")[0]
        found = re.sub(r" ?<[\w.]+ object at 0x[0-9a-f]+>|\{\{.*?\}\} ?| \[Op:\w+\] name:", "", found)  # TensorFlow's
        raise error(f"{where}: {one_line(found) or type(problem).__name__}; {advice}") from problem


BEHIND_ANOTHER = re.compile(rb"(?:\xff\xd9|IEND\xaeB`\x82)(?:\xff\xd8\xff|\x89PNG\r\n\x1a\n)")
"""The end of a JPEG or PNG, and the beginning of one; a preview within one has other marks behind it."""


def real_path(path: str | Path) -> Path:
    """Where a path leads to; itself where links lead in a circle, of which `Path.resolve` makes a RuntimeError."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # with a byte that no path holds
        return Path(path)


def regular(path: Path, error: type[UserError] = UserError) -> Path:
    """The path, unless it may not be read, or a folder, pipe or device lies there, whose reader would wait for ever."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise error(f"{path} is {what}, no regular file; give one")
    if path.exists() and not os.access(path, os.R_OK):
        raise error(f"{path}: permission denied; ask for the right to read it")
    return path


def is_text(value: object) -> bool:
    """Whether it is text that UTF-8 can hold; names in files and folders may be other bytes."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_odd_number(text: str) -> bool:
    """Whether Python takes a text for a number that nobody means by it: `1_0`, or digits of other scripts."""
    with contextlib.suppress(ValueError):
        return math.isfinite(float(text)) and not re.fullmatch(r"[0-9.eE+-]+", text.strip(" "))
    return False


def one_line(text: object, most: int = 300) -> str:
    """Foreign text for a message: on one line, without control characters, not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def misfits(
    found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]], whose: str, most: int = 5
) -> str:
    """What does not fit of named arrays, by their shapes: the first `most` of it, and how much more; empty if all does.

    >>> misfits({"a": (2,), "c": ()}, {"a": (3,), "b": (1,)}, "the model's")
    "a is (2,), the model's (3,); missing b (1,); unexpected c ()"
    """
    problems = [
        f"{name} is {tuple(found[name])}, {whose} {tuple(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    problems += [f"missing {name} {tuple(expected[name])}" for name in expected if name not in found]
    problems += [f"unexpected {name} {tuple(found[name])}" for name in found if name not in expected]
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def refuse_too_large(where: object, declared: int, stored: int, error: type[UserError] = UserError) -> None:
    """Raises if data declare more bytes than the file can hold, or than this machine has, before any are asked for."""
    if declared > MOST_COMPRESSED * stored + 4096:
        raise error(f"{where}: declares {declared:,} bytes and stores {stored:,}; the file is damaged, get it again")
    if declared > 2**16 and (free := available_memory()) is not None and declared > free:
        raise error(f"{where}: needs {declared:,} bytes of memory, {free:,} are free; use a machine with more")


def content(path: Path, error: type[UserError] = UserError) -> bytes:
    """Of a regular file for which, and for what is made of it, there is memory."""
    refuse_too_large(regular(path, error), 4 * os.path.getsize(path), os.path.getsize(path), error)
    return path.read_bytes()


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError: none, not UTF-8, too deep, a key twice, or an integer of over
    300 digits."""
    if isinstance(text, bytes):  # of which json guesses UTF-16 too
        text = text.decode("utf-8-sig")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_int=_integer)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None


def _integer(digits: str) -> int:
    if len(digits) > 300:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{one_line(max(names, key=names.count), 60)!r} is given twice")
    return dict(pairs)


def whole(what: str, value: Any, least: int, greatest: int, error: type[UserError] = UserError) -> int:
    """`value` as int, or the error naming `what`, the value and the bounds."""
    number: Any = value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= number <= greatest:
        bounds = f"a whole number from {least} to {greatest}" if least < greatest else least
        raise error(f"{what} is {shown(value)}; it must be {bounds}")
    return int(value)


def finite(what: str, value: Any, least: float, greatest: float, error: type[UserError] = UserError) -> float:
    """`value` as float, or the error naming `what`, the value and the bounds; NaN lies in no bounds."""
    number: Any = value
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least <= number <= greatest:
        raise error(f"{what} is {shown(value)}; it must be a number from {least:g} to {greatest:g}")
    return float(value)


def shown(value: Any) -> str:
    """A value in a message: short, on one line.

    >>> shown("a" * 100)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"
    """
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, str | bytes | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:39]}…"


MOST_OF_JSON = 2**26
"""Bytes of one object; the largest, a record of some hundred thousand episodes, has a tenth."""


class Section:
    """An object of a JSON file, or a part of one: values by key, of the kind and within the bounds that are asked for.

    What is missing or of another kind raises `error`, which names the file (`where`), the key and what was found.

    >>> Section({"eval": {"execute": 2}}, "config.json").section("eval").whole("execute", 1, 100)
    2
    """

    def __init__(self, values: Any, where: str, error: type[UserError] = UserError) -> None:
        self.where, self.error = where, error
        if not isinstance(values, Mapping):
            raise error(f"{where} is {_kind(values)}; it must be an object with keys")
        self.values = values

    @classmethod
    def read(cls, path: Path, error: type[UserError] = UserError, advice: str = "copy the file again") -> Section:
        """The object in a JSON file, or `error`: no such file, no JSON (then with `advice`), or no object."""
        try:
            if (size := os.path.getsize(path)) > MOST_OF_JSON:
                raise error(f"{path}: {size:,} bytes of settings or results; copy the file again")
            values = parsed(content(path, error))
        except OSError as problem:
            raise error(message_of(problem)) from None
        except error:
            raise
        except ValueError as problem:  # no JSON, no UTF-8, a number of thousands of digits
            raise error(f"{path}: not valid JSON ({problem}); {advice}") from None
        return cls(values, str(path), error)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def name(self, key: str) -> str:
        """How messages call the value of `key`: the file, then the path of keys."""
        return f"{self.where}{'.' if ': ' in self.where else ': '}{key}"

    def refuse(self, key: str, needed: str) -> UserError:
        """The error for a value of another kind than what is `needed`."""
        return self.error(f"{self.name(key)} is {_kind(self.values.get(key))}; it must be {needed}")

    def require_numbers(self, least: float = -1e300, greatest: float = 1e300) -> None:
        """Raises the error for the first value that is no number between these, among them NaN."""
        for key in self.values:
            try:
                self.finite(key, least, greatest)
            except self.error as problem:
                raise self.error(f"{problem}; copy the file again") from None

    def require(self, *keys: str) -> None:
        """Raises the error for the first of these keys that is missing."""
        for key in keys:
            self._value(key, _REQUIRED)

    def section(self, key: str, default: Mapping[str, Any] = _REQUIRED) -> Section:
        return Section(self._value(key, default), self.name(key), self.error)

    def whole(self, key: str, least: int, greatest: int, default: int = _REQUIRED) -> int:
        return whole(self.name(key), self._value(key, default), least, greatest, self.error)

    def finite(self, key: str, least: float, greatest: float, default: float = _REQUIRED) -> float:
        return finite(self.name(key), self._value(key, default), least, greatest, self.error)

    def text(self, key: str, default: str = _REQUIRED) -> str:
        if not is_text(value := self._of_type(key, default, str, "a text")):
            raise self.refuse(key, "a text that UTF-8 can hold")
        return value

    def choice(self, key: str, choices: Sequence[str], default: str = _REQUIRED) -> str:
        if (value := self.text(key, default)) not in choices:
            raise self.refuse(key, f"one of {', '.join(choices)}")
        return value

    def flag(self, key: str, default: bool = _REQUIRED) -> bool:
        return self._of_type(key, default, bool, "true or false")

    def list(self, key: str, item: Callable[[Section, str], T]) -> tuple[T, ...]:
        """The items of a list, each taken by `item`, such as `Section.text`."""
        value = self._of_type(key, _REQUIRED, list, "a list")
        items = Section({f"{key}[{place}]": one for place, one in enumerate(value)}, self.where, self.error)
        return tuple(item(items, name) for name in items.values)

    def _value(self, key: str, default: Any) -> Any:
        if key in self.values:
            return self.values[key]
        if default is _REQUIRED:
            found = ", ".join(sorted(map(str, self.values))[:20]) or "none"
            raise self.error(f"{self.name(key)} is missing; found {found[:400]}")
        return default

    def _of_type(self, key: str, default: Any, kind: type, needed: str) -> Any:
        value = self._value(key, default)
        if not isinstance(value, kind):
            raise self.refuse(key, needed)
        return value


def _kind(value: Any) -> str:
    kind = "null" if value is None else type(value).__name__
    return f"{shown(value)} ({kind})" if isinstance(value, str | int | float) else kind


class CheckpointError(UserError, ValueError):
    """A checkpoint directory that cannot be used; the message names the file or the parameters, and what to do."""


def blaming(where: Path | str, what: str) -> contextlib.AbstractContextManager[None]:
    """Whatever goes wrong inside is the fault of a file that somebody else wrote: a CheckpointError that names it."""
    advice = "copy it again, or take another"
    return refusing(f"{where}: {what}", advice, CheckpointError, (Exception,), CheckpointError)
