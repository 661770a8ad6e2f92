"""What made a thing: settings as a short hash, how settings differ, and the commit of the code.

Datasets and runs with other settings never share a name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


def digest(settings: Mapping[str, Any], length: int = 8) -> str:
    """Hexadecimal SHA-256 prefix of the canonical JSON of `settings` (keys sorted, so their order does not matter).

    Example:
        >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
        True
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def plain(value: Any) -> Any:
    """`value` as JSON holds it: arrays and sets become lists, dataclasses dictionaries, other objects their text.

    >>> import numpy as np
    >>> plain({"sigma": np.float32(0.5), "dead_band": np.array([1e-9, 2]), "axes": {2, 1}})
    {'sigma': 0.5, 'dead_band': [1e-09, 2.0], 'axes': [1, 2]}
    """
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(part) for part in value), key=json.dumps)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def flat(tree: Any, prefix: str = "", separator: str = ".") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested dictionaries (or TFDS features); sequences as lists, as JSON has them.

    >>> dict(flat({"observation": {"state": 1}, "action": 2}, separator="/"))
    {'observation/state': 1, 'action': 2}
    """
    for key, value in tree.items():
        if hasattr(value, "items") and value:
            yield from flat(value, f"{prefix}{key}{separator}", separator)
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key to both values, None where there is none.

    >>> differences({"train": {"steps": 3}}, {"train": {"steps": 4}})
    {'train.steps': (3, 4)}
    >>> differences({"options": {}}, {"options": {"sigma": 2}})
    {'options.sigma': (None, 2)}
    """
    then, now = dict(flat(old)), dict(flat(new))
    pairs = {key: (then.get(key), now.get(key)) for key in {**then, **now}}
    filled = {key for key in pairs if any(other.startswith(f"{key}.") for other in pairs)}  # once empty
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and not ({} in pair and key in filled)}


def in_words(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """What `differences` found, for a message.

    >>> in_words({"train.steps": (3, 4), "options.sigma": (None, 5)})
    'train.steps: 3 then, 4 now; options.sigma: not given then, 5 now'
    """
    told = [
        f"{key}: {' then, '.join('not given' if value is None else repr(value) for value in pair)} now"
        for key, pair in changed.items()
    ]
    return "; ".join(told)


def commit() -> str:
    """The project's commit, with `+` if tracked files of the package differ; `unknown` outside of a checkout."""

    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), root):  # installed inside of somebody's
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "gap_vla", "finetune_configs")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine() -> dict[str, Any]:
    """What results depend on beside settings and data: cores, processor, versions of torch and JAX, and the commit."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    found = {"cores": os.cpu_count(), "processor": model or platform.machine()}
    for package in ("torch", "jax"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {**found, "commit": commit()}
