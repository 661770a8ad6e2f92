"""`KEY=VALUE` on a command line."""

from __future__ import annotations

import argparse
import json
from typing import Any


def key_value(pair: str) -> tuple[str, Any]:
    """Key and value of `KEY=VALUE`, as `type=` of an argparse option; a value is JSON if it parses as JSON, or text.

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
