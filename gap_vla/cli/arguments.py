"""What command lines share. Importing it loads the standard library only."""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from gap_vla.core.errors import USER_ERROR


class Parser(argparse.ArgumentParser):
    """Takes `--image_size` for `--image-size`; an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"error: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._present_name(word) for word in words], namespace)

    def _present_name(self, word: str) -> str:
        name, equals, value = word.partition("=")
        dashed = name[:2] + name[2:].replace("_", "-")
        return f"{dashed}{equals}{value}" if dashed in self._option_string_actions else word


def command_parser(command: Callable[..., Any], **options: Any) -> Parser:
    """A parser that shows the command's docstring, and takes options by their whole names only; `options`: of
    `argparse.ArgumentParser`."""
    shown = argparse.RawDescriptionHelpFormatter
    return Parser(description=inspect.getdoc(command), formatter_class=shown, allow_abbrev=False, **options)


# ---- `type=` and `action=` of options


def number(kind: type, least: float, most: float = float("inf")) -> Any:
    """A number of that kind and in these bounds."""

    def read(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not {least} to {most}")
        return value

    read.__name__ = kind.__name__
    return read


whole = functools.partial(number, int)
real = functools.partial(number, float)
seed = whole(0, 2**31 - 1)


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """Words with commas between them."""
    return text.split(",")


def pair(text: str) -> tuple[str, Any]:
    """KEY=VALUE; the value is JSON if it parses as JSON, or text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    with contextlib.suppress(json.JSONDecodeError):
        value = json.loads(value)
    return key, value


class Cameras(argparse.Action):
    """`--cameras primary wrist`; `none`, or no name, is an empty tuple."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        choices = ("primary", "wrist", "none")
        super().__init__(option_strings, dest, nargs="*", choices=choices, metavar="CAMERA", **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(name for name in values if name != "none"))
