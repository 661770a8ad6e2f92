"""What paired differences allow to say, in sentences that fit their intervals."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.tables.analysis import BlockResult, pairs_of
from experiments.tables.tables import IN
from experiments.tables.tables_text import words
from gap_vla.rollouts.statistics import PairedDifference, points

CLOSE = 0.05
"""Methods whose difference lies within this are called as good as each other."""


def verdict(first: str, second: str, found: PairedDifference) -> str:
    """One sentence about `first` beside `second`.

    >>> verdict("gap", "concat", PairedDifference(0.083, (-0.13, 0.29), 1e-6, (0.18, 0.02, 0.05), 3, 100))
    'undecided between `gap` and `concat`: +8 points (−13 to +29 over 3 seeds)'
    """
    low, high = found.interval
    figures = f"{points(found.difference)} points ({points(low)} to {points(high)}"
    if found.seeds < 2:
        return f"one seed only of `{first}` and `{second}`: {figures} for these two policies)"
    figures += f" over {found.seeds} seeds)"
    if -CLOSE <= low and high <= CLOSE:
        return f"`{first}` is as good as `{second}`: {figures}"
    if low > 0 or high < 0:
        return f"`{first}` succeeds {'more' if low > 0 else 'less'} often than `{second}`: {figures}"
    return f"undecided between `{first}` and `{second}`: {figures}"


def verdicts(result: BlockResult, pairs: Iterable[tuple[str, str]] | None = None) -> list[str]:
    """One line for each variant: its differences in words; those of `pairs` only, if given."""
    asked = pairs_of(result.block) if pairs is None else list(pairs)
    lines = []
    for variant in result.variants:
        found = [(pair, result.differences_on(*pair).get(variant)) for pair in asked]
        sentences = [verdict(*pair, one) for pair, one in found if one is not None]
        if sentences:
            where = "On layouts like those of the demonstrations" if variant == IN else f"On {words(variant)}"
            lines.append(f"{where}: {'; '.join(sentences)}.")
    return lines
