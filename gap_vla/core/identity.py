"""What made a thing, as a short hash: datasets and runs with other settings never share a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(settings: Mapping[str, Any], length: int = 8) -> str:
    """Hexadecimal SHA-256 prefix of the canonical JSON of `settings` (keys sorted, so their order does not matter).

    Example:
        >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
        True
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
