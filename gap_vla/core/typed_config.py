"""Typed configurations: frozen dataclasses filled from nested dictionaries, with errors that name the key.

A number's least and greatest value are written beside its field, checked when it is made, and shown by `--help`. Only
the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import numbers
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from gap_vla.core.errors import ConfigError
from gap_vla.core.foreign import shown


def choose(value: str, choices: Sequence[str], what: str, error: type[Exception] = ConfigError) -> str:
    """Returns `value`, or raises `error` listing the choices and the nearest one."""
    if value in choices:
        return value
    hint = nearest(str(value), choices, " (did you mean {!r}?)")
    raise error(f"{what} {value!r} is unknown{hint}; choose one of {', '.join(choices)}")


def apply_changes(values: dict[str, Any], changes: Mapping[str, Any], where: str = "") -> None:
    """Writes `changes` into the nested `values`, which must have these keys already; `where` prefixes their names.

    Raises ConfigError: an unknown key, keys in the place of a value, or a value in that of keys.
    """
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{where.rstrip('.') or 'a change'} is {changes!r:.60}; give keys and their values")
    for key, value in changes.items():
        if key not in values:
            raise ConfigError(f"unknown configuration key {where}{key}{nearest(key, values, '; did you mean {}?')}")
        section = isinstance(values[key], Mapping) and key != "options"
        if section or (isinstance(value, Mapping) and key != "options"):
            if not section:
                raise ConfigError(f"{where}{key} is one value, not a section; give it without keys")
            apply_changes(values[key], value, f"{where}{key}.")
        else:
            values[key] = value


def nearest(word: str, words: Iterable[str], hint: str) -> str:
    """The hint with the nearest of the words in it; empty if none is near."""
    return "".join(hint.format(near) for near in difflib.get_close_matches(word, list(words), 1))


def to_plain(value: Any) -> Any:
    """Nested dictionaries and lists, ready for JSON."""
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    return [to_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


_hints = functools.cache(typing.get_type_hints)


def build_config(cls: Any, values: Any, where: str = "") -> Any:
    """An instance of the dataclass `cls`; sections become its nested dataclasses.

    Raises:
        ConfigError: unknown key (names the nearest), wrong type, or a value that `cls` refuses.
    """
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'} is {values!r}; it must be a section with keys")
    if hasattr(cls, "__pydantic_fields__"):
        from gap_vla.core.config import build

        try:
            return build(cls, dict(values.items()))
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = _hints(cls)  # without bounds; `cls` itself checks those
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            hint = nearest(key, fields, f"; did you mean {where}{{}}?")
            raise ConfigError(f"unknown configuration key {where}{key}{hint} (known here: {', '.join(fields)})")
        arguments[key] = _convert(value, hints[key], f"{where}{key}")
    needed = (one for one in fields.values() if one.default is one.default_factory is dataclasses.MISSING)
    if missing := [one.name for one in needed if one.name not in arguments]:
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'} does not say {missing[0]}; set it")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'}: {error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build_config(hint, value, f"{where}.")
    if origin is tuple:
        *parts, last = typing.get_args(hint)
        if isinstance(value, (str, bytes, Set, Mapping)) or not hasattr(value, "__iter__"):  # sets have no order
            raise ConfigError(f"{where} is {_found(value)}; it must be a sequence")
        value = tuple(value)
        hints = parts * len(value) if last is Ellipsis else [*parts, last]
        if len(value) != len(hints):
            raise ConfigError(f"{where} is {_found(value)}; it must have {len(hints)} entries")
        return tuple(_convert(item, hints[i], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        try:
            options = {str(k): v for k, v in value.items()}
            json.dumps(options, allow_nan=False, default=dict)
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{where} must be a section with values that JSON can hold ({error})") from None
        return options
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        kind = "" if _found(value) == type(value).__name__ else f" ({type(value).__name__})"
        raise ConfigError(f"{where} is {_found(value)}{kind}; it must be {hint.__name__}")
    if hint is str and "\0" in value:
        raise ConfigError(f"{where} is {_found(value)}; no name or path holds a null character")
    return os.path.expanduser(value) if hint is str else value  # no shell does that behind --config.data.rlds=


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The least and the greatest value of a number, both allowed; of a tuple, of each of its numbers.

    Attributes:
        why: what the bounds follow from.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Train:
    ...     steps: typing.Annotated[int, Bounds(1, 9, "one digit")] = 5
    >>> check_numbers(Train(steps=12), "train")
    Traceback (most recent call last):
    gap_vla.core.typed_config.ConfigError: train.steps is 12; it must be a whole number from 1 to 9 (one digit)
    """

    least: float
    most: float
    why: str

    def __str__(self) -> str:
        return f"{_shown(self.least)} to {_shown(self.most)} ({self.why})"


@dataclasses.dataclass(frozen=True)
class Items:
    """The least and the greatest length of a tuple."""

    least: int
    most: int


CAMERAS = ("primary", "wrist")
"""The cameras that a policy may see through."""

STEPS = 2**31 - 1
"""Training steps are counted in 32 bits."""

SEED = Bounds(0, 2**31 - 1, "numpy, JAX, torch and the simulators all take such seeds")
EPISODES = Bounds(0, 100_000, "0: none; each takes seconds")
HORIZON = Bounds(1, 256, "control steps; a task takes some hundred")
LAYOUT_SEED = Bounds(0, SEED.most - EPISODES.most, "layouts count from it, in 31 bits")
WORKERS = Bounds(1, 256, "processes, each with a simulator")


@dataclasses.dataclass(frozen=True)
class NumberField:
    """A field that holds a number, or a tuple of something.

    Attributes:
        kind: int or float; None for a tuple of other things.
        many: whether it is a tuple.
        named: whether the tuple's entries are pairs of a name and a number.
        optional: whether None is allowed.
    """

    kind: type | None
    bounds: Bounds | None = None
    many: bool = False
    items: Items | None = None
    optional: bool = False
    named: bool = False

    def problem(self, value: Any) -> str | None:
        """What the value must be, or None if it is that."""
        if value is None and self.optional:
            return None
        if not self.many:
            return None if self._fits(value) else f"it must be {self._wanted()}"
        if not isinstance(value, (tuple, list)):
            return "it must be a sequence"
        if self.items and not self.items.least <= len(value) <= self.items.most:
            counts = sorted({self.items.least, self.items.most})
            return f"it must have {' to '.join(map(str, counts))} entries"
        entries = [number for _, number in value] if self.named else value
        return None if self.kind is None or all(map(self._fits, entries)) else f"each must be {self._wanted()}"

    def _fits(self, value: Any) -> bool:
        wanted: Any = numbers.Integral if self.kind is int else numbers.Real
        if not isinstance(value, wanted) or isinstance(value, bool) or not abs(value) < math.inf:
            return False
        return self.bounds is None or self.bounds.least <= value <= self.bounds.most

    def _wanted(self) -> str:
        name = "a whole number" if self.kind is int else "a number"
        return f"{name} from {self.bounds}" if self.bounds else f"{name}, and finite"


def check_numbers(config: Any, section: str, error: type[Exception] | None = None) -> None:
    """Refuses numbers and truth values of another type, NaN, infinities, and what lies outside a field's `Bounds`.

    A configuration's `__post_init__` calls it, so that nothing made with impossible numbers exists.

    Args:
        section: how the user calls it, e.g. "train"; "" for none.
        error: what to raise instead of ConfigError.
    """
    cls: Any = type(config)
    for name in (name for name, hint in _hints(cls).items() if hint is bool):
        value = getattr(config, name)
        if not isinstance(value, bool) and not (str(getattr(value, "dtype", "")) == "bool" and value.ndim == 0):
            key = f"{section}.{name}" if section else name
            raise (error or ConfigError)(f"{key} is {_found(value)}; it must be True or False")
        object.__setattr__(config, name, bool(value))
    for name, field in number_fields(cls).items():
        value = getattr(config, name)
        if problem := field.problem(value):
            key = f"{section}.{name}" if section else name
            raise (error or ConfigError)(f"{key} is {_found(value)}; {problem}")
        if hasattr(value, "item"):  # a number of numpy's, which JSON does not take
            object.__setattr__(config, name, value.item())


def require_own_sections(config: Any) -> None:
    """Raises ConfigError: a section is none, or is another configuration's, with other fields."""
    cls: Any = type(config)
    for name, hint in _hints(cls).items():
        if dataclasses.is_dataclass(hint):
            value, wanted = getattr(config, name), {field.name for field in dataclasses.fields(hint)}
            if not dataclasses.is_dataclass(value) or {field.name for field in dataclasses.fields(value)} != wanted:
                found = f"{name} is of the class {type(value).__name__}"
                raise ConfigError(f"{found}; {cls.__name__} takes {getattr(hint, '__name__', hint)}")


@functools.cache
def number_fields(cls: Any) -> dict[str, NumberField]:
    """The fields of a dataclass that `check_numbers` looks at, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {field.name: _number_field(hints[field.name]) for field in dataclasses.fields(cls)}
    return {name: field for name, field in found.items() if field is not None}


def all_number_fields(cls: Any, where: str = "") -> dict[str, NumberField]:
    """The same for a configuration with its sections, by dotted key."""
    found = {f"{where}{name}": field for name, field in number_fields(cls).items()}
    for name, hint in _hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= all_number_fields(hint, f"{where}{name}.")
    return found


def _number_field(hint: Any) -> NumberField | None:
    bounds = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Bounds)), None)
    items = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Items)), None)
    hint = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    if typing.get_origin(hint) is tuple:
        entry = typing.get_args(hint)[0]
        named = typing.get_origin(entry) is tuple
        inner = _number_field(typing.get_args(entry)[1] if named else entry) or NumberField(None)
        return dataclasses.replace(inner, many=True, items=items, named=named)
    kinds = set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, types.UnionType) else {hint}
    numeric = kinds & {int, float}
    if not numeric:
        return None
    return NumberField(float if float in numeric else int, bounds, optional=type(None) in kinds)


def _found(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_found, value))}{',' if len(value) == 1 else ''})"
    return shown(value)


def _shown(value: float) -> str:
    return f"{value:d}" if isinstance(value, int) else f"{value:g}"
