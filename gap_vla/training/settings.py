"""Which settings are part of what is trained, which of what is measured, and which may change at any time.

| settings | part of | changed with `--resume` |
|---|---|---|
| `NO_PART_OF_THE_RESULT`: folders, workers, videos, rhythm, device | nothing | the run goes on |
| the other `eval.*` | what is measured | training goes on; rollouts that are there are set aside and made again |
| everything else | what is trained | refused: that is another run, in another directory |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NO_PART_OF_THE_RESULT = frozenset(
    "runs data.root eval.workers eval.videos train.log_every train.validate_every train.save_every "
    "train.threads train.device".split()
)
"""Folders, workers, rhythm and device. (With other threads or on another device, sums are rounded otherwise.)"""


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; sequences as lists, as JSON has them."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def of_result(config: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, everything that can change what is trained or measured."""
    return {key: value for key, value in flat(config) if key not in NO_PART_OF_THE_RESULT}


def of_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, everything that can change what is trained."""
    return {key: value for key, value in of_result(config).items() if not key.startswith("eval.")}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key to both values, None where there is none.

    >>> differences({"train": {"steps": 3}}, {"train": {"steps": 4}})
    {'train.steps': (3, 4)}
    """
    then, now = dict(flat(old)), dict(flat(new))
    pairs = {key: (then.get(key), now.get(key)) for key in {**then, **now}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def in_words(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """`train.steps: 3 then, 4 now; …`"""
    return "; ".join(f"{key}: {old!r} then, {new!r} now" for key, (old, new) in changed.items())
