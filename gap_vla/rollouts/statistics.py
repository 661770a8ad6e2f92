"""Intervals for success rates, and paired comparisons of methods that were rolled out on the same layouts.

Everything here takes plain arrays of outcomes and knows nothing of simulators or policies.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import whole

LEVEL = 0.95
"""Of every interval."""


class OutcomesError(UserError, ValueError):
    """Outcomes that cannot be counted or paired; the message says what was found."""


def _checked(successes: int, n: int) -> tuple[int, int]:
    """Both as int: numpy's small ones overflow in sums and squares. Raises OutcomesError: they are no such counts."""
    if not all(isinstance(one, numbers.Integral) for one in (successes, n)) or not 0 <= successes <= n:
        raise OutcomesError(f"{successes} successes of {n} episodes; need whole numbers, 0 <= successes <= episodes")
    return int(successes), int(n)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a success probability: near its nominal coverage on average.

    Solves |p̂ − p| = z·sqrt(p(1−p)/n) for p (E. B. Wilson, JASA 1927). No episodes give the interval (0, 1).

    >>> [round(x, 3) for x in wilson(7, 30)]
    [0.118, 0.409]
    """
    successes, n = _checked(successes, n)
    if n == 0:
        return 0.0, 1.0
    z = float(special.ndtri(0.5 + LEVEL / 2))
    rate, shrink = successes / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def clopper_pearson(successes: int, n: int) -> tuple[float, float]:
    """Clopper–Pearson ("exact") interval: its coverage is never below the nominal level, so it is wider than Wilson's.

    >>> [round(x, 3) for x in clopper_pearson(7, 30)]
    [0.099, 0.423]
    """
    successes, n = _checked(successes, n)
    tail = (1 - LEVEL) / 2
    low = float(special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(special.betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def mean_rate(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Interval of a success rate over training seeds, from each seed's successes and episodes.

    Student's t over the seeds' rates, never narrower than Wilson's interval for all rollouts together.

    >>> [round(x, 2) for x in mean_rate([(81, 100), (93, 100), (94, 100)])]
    [0.71, 1.0]
    """
    counts = [_checked(won, played) for won, played in counts]
    if not len(counts) or not all(played for _, played in counts):
        raise OutcomesError(f"{len(counts)} seeds, of which {sum(not n for _, n in counts)} have no episode")
    wins, episodes = (sum(column) for column in zip(*counts))
    return over_seeds([w / n for w, n in counts], wilson(wins, episodes), bounds=(0.0, 1.0))


def as_outcomes(values: Any) -> Bool[np.ndarray, "..."]:
    """Outcomes as bool. Raises OutcomesError: one is not 0 or 1."""
    found = np.asarray(values)
    if found.dtype.kind not in "biuf" or np.ma.is_masked(values) or not np.isin(found, (0, 1)).all():
        raise OutcomesError(
            f"outcomes are {found.dtype} {found.ravel()[:5].tolist()}…; all must be 0 or 1, none masked"
        )
    return found.astype(bool)


def mcnemar(a: Bool[np.ndarray, " n"], b: Bool[np.ndarray, " n"]) -> float:
    """Exact two-sided McNemar test on paired outcomes: the probability, if both were equally good, of a
    split of the discordant pairs at least as uneven as the observed one. 1.0 without discordant pairs.

    >>> round(mcnemar(np.array([1, 1, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 0, 0, 0])), 4)
    0.0312
    """
    first, second = as_outcomes(a), as_outcomes(b)
    if first.shape != second.shape or first.ndim != 1:
        raise OutcomesError(f"outcomes of shapes {first.shape} and {second.shape}; pairs need two equal 1-D arrays")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    return min(1.0, 2 * float(special.bdtr(min(only_first, only_second), discordant, 0.5)))


def over_seeds(
    per_seed: Sequence[float],
    within: tuple[float, float],
    *,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> tuple[float, float]:
    """Interval of a mean over training seeds: Student's t with their number, and never narrower than `within`.

    Args:
        per_seed: one figure for each seed. With a single one the interval is `within`, which then speaks about that
            policy alone.
        within: what the rollouts alone leave open; seeds that happen to agree do not make it smaller.
        bounds: the figure cannot lie outside.

    >>> [round(x, 2) for x in over_seeds([0.18, 0.02, 0.05], (0.01, 0.19))]
    [-0.13, 0.29]
    """
    inside = [bounds[0] - 1e-9 <= figure <= bounds[1] + 1e-9 for figure in (*per_seed, *within)]  # NaN is not
    if not len(per_seed) or not all(inside) or within[0] > within[1]:
        told = f"figures of seeds are {[*per_seed]}, within {within}"
        raise OutcomesError(
            f"{told}; give finite ones of {bounds[0]:g} to {bounds[1]:g}, one at least, the lower end first"
        )
    if len(per_seed) < 2:
        return within
    mean, spread = float(np.mean(per_seed)), float(np.std(per_seed, ddof=1)) / math.sqrt(len(per_seed))
    half = float(special.stdtrit(len(per_seed) - 1, 0.5 + LEVEL / 2)) * spread
    return max(bounds[0], min(within[0], mean - half)), min(bounds[1], max(within[1], mean + half))


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Success of `a` minus success of `b` on shared layouts.

    Attributes:
        difference: mean over seeds and layouts, in [-1, 1].
        interval: of it, over seeds (Student's t), never narrower than a bootstrap over seeds and layouts.
        p_mcnemar: exact McNemar probability over all pairs. It treats the pairs of several seeds as
            independent and so says nothing about how much training seeds scatter; the interval does.
        per_seed: the difference of each seed.
        seeds, layouts: what it was computed from.
    """

    difference: float
    interval: tuple[float, float]
    p_mcnemar: float
    per_seed: tuple[float, ...]
    seeds: int
    layouts: int


def paired_difference(
    a: Float[np.ndarray, "*seeds layouts"], b: Float[np.ndarray, "*seeds layouts"], *, draws: int = 4000
) -> PairedDifference:
    """Compares two methods that saw the same layouts with the same training seeds.

    Seeds and layouts are crossed (each seed's policy is rolled out on every layout), and both are samples of
    something larger, so the bootstrap draws rows and columns independently (A. Owen, "The pigeonhole
    bootstrap", 2007). Few rows cannot show a spread well, and the bootstrap alone would be too narrow, so the interval
    reaches at least as far as Student's t over the seeds' differences. With one seed only layouts are drawn: the
    interval then speaks about that pair of checkpoints alone. Where no layout differs from another, a bootstrap has
    nothing to draw from, and the interval leaves open what Wilson's does after none of as many.

    Args:
        a, b: outcomes, bool or 0/1, `[layouts]` or `[seeds, layouts]`; entry (s, l) of both is the same
            seed and layout.

    Raises:
        OutcomesError: shapes differ, are not 1-D or 2-D, or are empty, an outcome is not 0 or 1, or `draws` is
            below 100.
    """
    whole("draws", draws, 100, 10**9, OutcomesError)
    first, second = (np.atleast_2d(as_outcomes(one)).astype(float) for one in (a, b))
    if np.shape(a) != np.shape(b) or np.ndim(a) not in (1, 2) or first.size == 0:
        raise OutcomesError(
            f"outcomes of shapes {np.shape(a)}, {np.shape(b)}; need two equal [layouts] or [seeds, layouts]"
        )
    gain = first - second
    seeds, layouts = gain.shape
    rows, columns = _drawn(seeds, layouts, draws)
    means = np.einsum("ds,sl,dl->d", rows, gain, columns, optimize=True)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    if np.ptp(gain) == 0:
        unseen = wilson(0, gain.size)[1]
        low, high = max(low - unseen, -1.0), min(high + unseen, 1.0)
    return PairedDifference(
        difference=float(gain.mean()),
        interval=over_seeds(gain.mean(1).tolist(), (float(low), float(high))),
        p_mcnemar=mcnemar(first.ravel() > 0, second.ravel() > 0),
        per_seed=tuple(float(x) for x in gain.mean(1)),
        seeds=seeds,
        layouts=layouts,
    )


@functools.lru_cache(maxsize=1)  # of many layouts they are large
def _drawn(seeds: int, layouts: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    return rows, rng.multinomial(layouts, np.full(layouts, 1 / layouts), size=draws) / layouts


def percent(rate: float) -> str:
    """A rate in per cent; decimals where rounding would say that it is 0 or 100 and it is not.

    >>> percent(0.744), percent(1.0), percent(199 / 200), percent(1 / 250), percent(0.0)
    ('74', '100', '99.5', '0.4', '0')
    """
    texts = [f"{100 * rate:.{digits}f}" for digits in range(4)]
    return next((text for text in texts if 0 < float(text) < 100), texts[0])


def points(value: float) -> str:
    """A difference of rates in percentage points; one decimal where rounding would hide the sign.

    >>> points(0.123), points(-0.05), points(-0.003), points(-0.0003)
    ('+12', '−5', '−0.3', '0')
    """
    if not round(100 * value, 1):
        return "0"
    return f"{100 * value:+.{0 if round(100 * value) else 1}f}".replace("-", "−")
