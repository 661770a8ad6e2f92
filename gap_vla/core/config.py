"""One typed configuration: frozen pydantic dataclasses, to and from JSON, with every key's help beside it.

    @dataclass(frozen=True, config=STRICT)  # from pydantic.dataclasses
    class Train:
        steps: Steps = 2000
        '''Training steps.'''

A docstring under a field becomes its text in `--help`. A wrong value raises pydantic's `ValidationError`, which is a
`ValueError`; `build` raises `ConfigError` naming the dotted key.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gap_vla.core.errors import ConfigError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)

Seed = Annotated[int, Field(ge=0, lt=2**31)]
LayoutSeed = Annotated[int, Field(ge=0, lt=2**31 - 100_000)]
Steps = Annotated[int, Field(ge=1, lt=2**31)]
Episodes = Annotated[int, Field(ge=0, le=100_000)]
Workers = Annotated[int, Field(ge=1, le=256)]
Horizon = Annotated[int, Field(ge=1, le=256)]
Camera = Literal["primary", "wrist"]


def choose(value: str, choices: Sequence[str], what: str) -> str:
    """Returns `value`. Raises ConfigError, with the nearest of the choices: it is none of them."""
    if value in choices:
        return value
    hint = nearest(str(value), choices, " (did you mean {!r}?)")
    raise ConfigError(f"{what} {value!r} is unknown{hint}; choose one of {', '.join(choices)}")


def nearest(word: str, words: Iterable[str], hint: str) -> str:
    """The hint with the nearest of the words in it; empty if none is near."""
    return "".join(hint.format(near) for near in difflib.get_close_matches(word, list(words), 1))


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of a configuration class from nested dictionaries, as `identity.plain` makes them.

    Raises ConfigError naming the dotted key.
    """
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(in_plain_words(error, cls)) from None


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries with those of `changes` written over them."""
    merged = dict(values)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


class Key(NamedTuple):
    """A key of a configuration, for `--help`."""

    name: str  # dotted
    kind: str  # "int", "float", "str", …, or its choices "a | b"
    value: Any
    help: str


def keys(config: Any, prefix: str = "") -> Iterator[Key]:
    """Every key of a configuration with its type or choices, its value and its sentence."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for name in (field.name for field in dataclasses.fields(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield Key(f"{prefix}{name}", _kind(hints[name]), value, _sentence(type(config), name))


def _sentence(cls: Any, name: str) -> str:
    """The docstring under a field, where the field was written last."""
    fields = (getattr(base, "__pydantic_fields__", {}).get(name) for base in cls.__mro__)
    return next((field.description for field in fields if field and field.description), "")


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        return _kind(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if arguments := typing.get_args(hint):
        parts = [_kind(part) for part in arguments if part is not Ellipsis]
        name = getattr(typing.get_origin(hint), "__name__", "")
        return " | ".join(parts) if name in ("UnionType", "Union") else f"{name.lower()} of {', '.join(parts)}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def in_plain_words(error: ValidationError, cls: Any = None) -> str:
    """What is wrong with a configuration: the first fault, with its dotted key and value."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        known = _fields_at(cls, first["loc"][:-1])
        hint = nearest(
            str(first["loc"][-1]), known, f"; did you mean {'.'.join(map(str, (*first['loc'][:-1], '{}')))}?"
        )
        return f"unknown configuration key {key}{hint}" + (f" (known here: {', '.join(known)})" if known else "")
    if first["type"] == "value_error":  # raised by a class's own check
        return f"{first['ctx']['error']}"
    found = f"{key} is {first['input']!r:.80}: " if key else ""
    return found + first["msg"].replace("Input should", "it must").replace("Field required", "it is not set")


def _fields_at(cls: Any, path: Sequence[int | str]) -> list[str]:
    for name in path:
        cls = typing.get_type_hints(cls).get(str(name)) if dataclasses.is_dataclass(cls) else None
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
