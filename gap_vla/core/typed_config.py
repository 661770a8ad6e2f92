"""Typed configurations: frozen dataclasses filled from nested dictionaries, with errors that name the key.

Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

from gap_vla.core.errors import UserError


class ConfigError(UserError, ValueError):
    """A configuration that cannot be run; the message names the key, the value and the choices."""


def choose(value: str, choices: tuple[str, ...], what: str) -> str:
    """Returns `value`, or raises ConfigError listing the choices and the nearest one."""
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"{what} {value!r} is unknown{hint}; choose one of {', '.join(choices)}")


def apply_changes(values: dict[str, Any], changes: Mapping[str, Any], where: str = "") -> None:
    """Writes `changes` into the nested `values`, which must have these keys already; `where` prefixes their names."""
    for key, value in changes.items():
        if key not in values:
            near = difflib.get_close_matches(key, values, 1)
            raise ConfigError(
                f"unknown configuration key {where}{key}" + (f"; did you mean {near[0]}?" if near else "")
            )
        if isinstance(value, Mapping) and key not in ("options", "rival"):
            apply_changes(values[key], value, f"{where}{key}.")
        else:
            values[key] = value


def to_plain(value: Any) -> Any:
    """Nested dictionaries and lists, ready for JSON."""
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    return [to_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def build_config(cls: Any, values: Any, where: str = "") -> Any:
    """An instance of the dataclass `cls`; sections become its nested dataclasses.

    Raises:
        ConfigError: unknown key (names the nearest), wrong type, or a value that `cls` refuses.
    """
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'} is {values!r}; it must be a section with keys")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)  # without bounds; `cls` itself checks those
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {where}{near[0]}?" if near else ""
            raise ConfigError(f"unknown configuration key {where}{key}{hint} (known here: {', '.join(fields)})")
        arguments[key] = _convert(value, hints[key], f"{where}{key}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where.rstrip('.') or 'the configuration'}: {error}") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build_config(hint, value, f"{where}.")
    if origin is tuple:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{where} is {value!r}; it must be a sequence")
        return tuple(_convert(item, typing.get_args(hint)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        return {str(k): v for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r} ({type(value).__name__}); it must be {hint.__name__}")
    return value
