"""Whether one finder is better than another on the same recordings, beyond what recordings differ by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DEFAULT = "ours, defaults"
OWN = ("ours", "paper", "release")
"""How the names of lines begin that are our segmentation under some option, and no rival to it."""


def pooled_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of [..., recordings, (matched, found, true)], counts pooled over recordings; 1 where there are none."""
    matched, found, true = np.moveaxis(np.asarray(counts, float).sum(axis=-2), -1, 0)
    return np.where(found + true > 0, 2 * matched / np.maximum(found + true, 1), 1.0)


def counts_of(text: str) -> np.ndarray:
    """int[recordings, (matched, found, true)] of a line's `counts@5`.

    Example:
        >>> counts_of("4/5/5 5/5/6").tolist()
        [[4, 5, 5], [5, 5, 6]]
    """
    return np.array([[int(number) for number in recording.split("/")] for recording in text.split()])


def paired_difference(
    first: np.ndarray | Sequence[Sequence[int]],
    second: np.ndarray | Sequence[Sequence[int]],
    seed: int = 0,
    resamples: int = 10_000,
) -> tuple[float, float, float]:
    """F1 of the first less that of the second, and its 95 % interval, bootstrapped over the recordings both saw.

    Args:
        first, second: int[recordings, (matched, found, true)], from `counts_of`.

    Example:
        >>> paired_difference([(4, 4, 4)] * 5, [(2, 4, 4)] * 5)
        (0.5, 0.5, 0.5)
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        raise ValueError(f"the two finders saw {len(a)} and {len(b)} recordings; differences are paired")
    chosen = np.random.default_rng(seed).integers(len(a), size=(resamples, len(a)))
    low, high = np.quantile(pooled_f1(a[chosen]) - pooled_f1(b[chosen]), [0.025, 0.975])
    return float(pooled_f1(a) - pooled_f1(b)), float(low), float(high)


def against_the_best(finders: Mapping[str, Any]) -> list[list[str]]:
    """A row per task: the default, the best rival on it, and the difference; and what the default gained.

    The best rival is the one with the highest F1@5 on the same test recordings, so the choice is in its favour. There
    are no rows without the default, without any rival, or without the counts, which older results do not have.
    """
    finders = {name: f for name, f in finders.items() if all("counts@5" in scores for scores in f["tasks"].values())}
    rivals = [name for name in finders if not name.startswith(OWN)]
    if DEFAULT not in finders or not rivals:
        return []
    before = next((name for name in finders if name.startswith("ours before")), None)
    rows = []
    for task, default in finders[DEFAULT]["tasks"].items():
        best = max(rivals, key=lambda name: finders[name]["tasks"][task]["f1@5"])
        rival = finders[best]["tasks"][task]
        row = [task, f"{default['f1@5']:.2f}", best, f"{rival['f1@5']:.2f}"]
        row.append(_shown(default, rival))
        if before is not None:
            earlier = finders[before]["tasks"][task]
            row += [f"{earlier['f1@5']:.2f}", _shown(default, earlier)]
        rows.append(row)
    return rows


def _shown(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    difference = paired_difference(counts_of(first["counts@5"]), counts_of(second["counts@5"]))
    value, low, high = (f"{number:+.2f}".replace("-", "−") for number in difference)
    return f"{value} ({low} to {high})"
