"""Step fields of any dataset by path."""

from __future__ import annotations

from typing import Any


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries (or TFDS features) to `a/b` keys.

    Example:
        >>> flatten({"observation": {"state": 1}, "action": 2})
        {'observation/state': 1, 'action': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if hasattr(value, "items") else {f"{prefix}{key}": value}
    return flat
