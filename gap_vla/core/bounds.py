"""Numbers with a least and a greatest value: written beside the field, checked when it is made, shown by `--help`.

Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from typing import Any

from gap_vla.core.typed_config import ConfigError


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


STEPS = 2**31 - 1
"""Training steps are counted in 32 bits."""

SEED = Bounds(0, 2**31 - 1, "numpy, JAX, torch and the simulators all take such seeds")


@dataclasses.dataclass(frozen=True)
class NumberField:
    """A field that holds a number, or a tuple of something.

    Attributes:
        kind: int or float; None for a tuple of other things.
        many: whether it is a tuple.
        optional: whether None is allowed.
    """

    kind: type | None
    bounds: Bounds | None = None
    many: bool = False
    items: Items | None = None
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """What the value must be, or None if it is that."""
        if value is None and self.optional:
            return None
        if not self.many:
            return None if self._fits(value) else f"it must be {self._wanted()}"
        if not isinstance(value, (tuple, list)):
            return "it must be a sequence"
        if self.items and not self.items.least <= len(value) <= self.items.most:
            return f"it must have {self.items.least} to {self.items.most} entries"
        return None if self.kind is None or all(map(self._fits, value)) else f"each must be {self._wanted()}"

    def _fits(self, value: Any) -> bool:
        wanted: Any = numbers.Integral if self.kind is int else numbers.Real
        if not isinstance(value, wanted) or isinstance(value, bool) or not math.isfinite(value):
            return False
        return self.bounds is None or self.bounds.least <= value <= self.bounds.most

    def _wanted(self) -> str:
        name = "a whole number" if self.kind is int else "a number"
        return f"{name} from {self.bounds}" if self.bounds else f"{name}, and finite"


def check_numbers(config: Any, section: str, error: type[Exception] | None = None) -> None:
    """Refuses numbers of another type, NaN, infinities, and what lies outside the `Bounds` of its field.

    A configuration's `__post_init__` calls it, so that nothing made with impossible numbers exists.

    Args:
        section: how the user calls it, e.g. "train"; "" for none.
        error: what to raise instead of ConfigError.
    """
    cls: Any = type(config)
    for name, field in number_fields(cls).items():
        value = getattr(config, name)
        if problem := field.problem(value):
            key = f"{section}.{name}" if section else name
            raise (error or ConfigError)(f"{key} is {value!r}; {problem}")


@functools.cache
def number_fields(cls: Any) -> dict[str, NumberField]:
    """The fields of a dataclass that `check_numbers` looks at, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {field.name: _number_field(hints[field.name]) for field in dataclasses.fields(cls)}
    return {name: field for name, field in found.items() if field is not None}


def all_number_fields(cls: Any, where: str = "") -> dict[str, NumberField]:
    """The same for a configuration with its sections, by dotted key."""
    found = {f"{where}{name}": field for name, field in number_fields(cls).items()}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= all_number_fields(hint, f"{where}{name}.")
    return found


def _number_field(hint: Any) -> NumberField | None:
    bounds = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Bounds)), None)
    items = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Items)), None)
    hint = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    if typing.get_origin(hint) is tuple:
        inner = _number_field(typing.get_args(hint)[0]) or NumberField(None)
        return dataclasses.replace(inner, many=True, items=items)
    kinds = set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, types.UnionType) else {hint}
    numeric = kinds & {int, float}
    if not numeric:
        return None
    return NumberField(float if float in numeric else int, bounds, optional=type(None) in kinds)


def _shown(value: float) -> str:
    return f"{value:d}" if isinstance(value, int) else f"{value:g}"
