"""Values on a command line: `type=` of argparse options whose bounds are checked before anything else happens."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

SEED = 2**32 - 1
"""The greatest seed: numpy's generators take 32 bits."""
PORT = 65535


def integer(least: int, greatest: int) -> Callable[[str], int]:
    """Whole numbers within bounds.

    >>> integer(1, 64)("2")
    2
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not least <= value <= greatest:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {greatest}")
        return value

    return parse


def number(least: float, greatest: float) -> Callable[[str], float]:
    """Finite numbers within bounds.

    >>> number(0, 1)("0.5")
    0.5
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not (math.isfinite(value) and least <= value <= greatest):
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {greatest:g}")
        return value

    return parse


def key_value(pair: str) -> tuple[str, Any]:
    """Key and value of `KEY=VALUE`; a value is JSON if it parses as JSON, or text.

    Raises:
        argparse.ArgumentTypeError: no equals sign, or nothing before it.
    """
    key, equals, value = pair.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{pair!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def json_or_name(text: str) -> Any:
    """A map in JSON if it begins with a brace, otherwise a name.

    Raises:
        argparse.ArgumentTypeError: a brace, but no JSON.
    """
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from None
