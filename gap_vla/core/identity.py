"""What made a thing: settings as a short hash, how settings differ, and the commit of the code.

Datasets and runs with other settings never share a name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
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


def content_digest(path: Path) -> str:
    """Hexadecimal SHA-256 prefix of a file, or of the files of a folder with their names, but for hidden ones.

    All of it is read (about 1 GB/s), once for as long as sizes, times and places on the disk stay: an edit may leave
    size and time as they were.
    """
    names = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in names if file.is_file() and not any(p[0] == "." for p in file.relative_to(path).parts)]
    seen = ((file, file.stat()) for file in files)
    return _content_digest(path, tuple((f, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for f, s in seen))


@functools.lru_cache(64)
def _content_digest(path: Path, seen: tuple[tuple[Any, ...], ...]) -> str:
    total, size = hashlib.sha256(), sum(each[1] for each in seen)
    if size > 2**32:
        print(f"looking whether {path} is what it was, {size / 1e9:.0f} GB", flush=True)
    for file, *_ in seen:
        with file.open("rb") as stream:
            total.update(file.relative_to(path).as_posix().encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


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
    """
    then, now = dict(flat(old)), dict(flat(new))
    pairs = {key: (then.get(key), now.get(key)) for key in {**then, **now}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


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

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "gap_vla", "finetune_configs")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
