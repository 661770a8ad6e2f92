"""Intervals for success rates, and paired comparisons of methods that were rolled out on the same layouts.

Everything here takes plain arrays of outcomes and knows nothing of simulators or policies.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

LEVEL = 0.95
"""Of every interval."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a success probability: near its nominal coverage on average.

    Solves |p̂ − p| = z·sqrt(p(1−p)/n) for p (E. B. Wilson, JASA 1927). No episodes give the interval (0, 1).

    >>> [round(x, 3) for x in wilson(7, 30)]
    [0.118, 0.409]
    """
    if successes == n == 0:
        return 0.0, 1.0
    from scipy import stats

    found = stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


def mean_rate(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Interval of a success rate over training seeds, from each seed's successes and episodes.

    Student's t over the seeds' rates, never narrower than Wilson's interval for all rollouts together.

    >>> [round(x, 2) for x in mean_rate([(81, 100), (93, 100), (94, 100)])]
    [0.71, 1.0]
    """
    wins, episodes = (sum(map(int, column)) for column in zip(*counts))
    return over_seeds([w / n for w, n in counts], wilson(wins, episodes), bounds=(0.0, 1.0))


def mcnemar(a: Bool[np.ndarray, " n"], b: Bool[np.ndarray, " n"]) -> float:
    """Exact two-sided McNemar test on paired outcomes.

    The probability, if both were equally good, of a split of the discordant pairs at least as uneven as the observed
    one. 1.0 without discordant pairs.

    >>> round(mcnemar(np.array([1, 1, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 0, 0, 0])), 4)
    0.0312
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    from scipy import stats

    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def over_seeds(
    per_seed: Sequence[float], within: tuple[float, float], *, bounds: tuple[float, float] = (-1.0, 1.0)
) -> tuple[float, float]:
    """Interval of a mean over training seeds: Student's t with their number, and never narrower than `within`.

    Args:
        per_seed: one figure for each seed. With a single seed the interval is `within`, which then speaks about that
            policy alone.
        within: what the rollouts alone leave open; seeds that happen to agree do not make it smaller.
        bounds: the figure cannot lie outside.

    >>> [round(x, 2) for x in over_seeds([0.18, 0.02, 0.05], (0.01, 0.19))]
    [-0.13, 0.29]
    """
    if len(per_seed) < 2:
        return within
    mean, spread = float(np.mean(per_seed)), float(np.std(per_seed, ddof=1)) / math.sqrt(len(per_seed))
    from scipy import stats

    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(per_seed) - 1)) * spread
    return max(bounds[0], min(within[0], mean - half)), min(bounds[1], max(within[1], mean + half))


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Success of `a` minus success of `b` on shared layouts.

    Attributes:
        difference: mean over seeds and layouts, in [-1, 1].
        interval: of it, over seeds (Student's t), never narrower than a bootstrap over seeds and layouts.
        p_mcnemar: exact McNemar probability over all pairs. It treats the pairs of several seeds as independent and so
            says nothing about how much training seeds scatter; the interval does.
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

    Seeds and layouts are crossed (each seed's policy is rolled out on every layout), and both are samples of something
    larger, so the bootstrap draws rows and columns independently (A. Owen, "The pigeonhole bootstrap", 2007). Few rows
    cannot show a spread well, and the bootstrap alone would be too narrow, so the interval reaches at least as far as
    Student's t over the seeds' differences. With one seed only layouts are drawn: the interval then speaks about that
    pair of checkpoints alone. Where no layout differs from another, a bootstrap has nothing to draw from, and the
    interval leaves open what Wilson's does after none of as many.

    Args:
        a, b: outcomes, bool or 0/1, `[layouts]` or `[seeds, layouts]`; entry (s, l) of both is the same seed and
            layout.
    """
    first, second = np.atleast_2d(a).astype(bool), np.atleast_2d(b).astype(bool)
    gain = first.astype(float) - second
    seeds, layouts = gain.shape
    rows, columns = _drawn(seeds, layouts, draws)
    means = np.einsum("ds,sl,dl->d", rows, gain, columns, optimize=True)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    if np.ptp(gain) == 0:
        unseen = wilson(0, gain.size)[1]
        low, high = max(low - unseen, -1.0), min(high + unseen, 1.0)
    per_seed = gain.mean(1).tolist()
    return PairedDifference(
        difference=float(gain.mean()),
        interval=over_seeds(per_seed, (float(low), float(high))),
        p_mcnemar=mcnemar(first.ravel(), second.ravel()),
        per_seed=tuple(per_seed),
        seeds=seeds,
        layouts=layouts,
    )


@functools.lru_cache(maxsize=1)  # of many layouts they are large
def _drawn(seeds: int, layouts: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each draw has each seed and each layout, as a share."""
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


def with_interval(rate: float, interval: tuple[float, float]) -> str:
    """
    >>> with_interval(0.74, wilson(74, 100))
    '74 % (95 % interval 65 to 82 %)'
    """
    low, high = map(percent, interval)
    return f"{percent(rate)} % (95 % interval {low} to {high} %)"


def points(value: float) -> str:
    """A difference of rates in percentage points; one decimal where rounding would hide the sign.

    >>> points(0.123), points(-0.05), points(-0.003), points(-0.0003)
    ('+12', '−5', '−0.3', '0')
    """
    if not round(100 * value, 1):
        return "0"
    return f"{100 * value:+.{0 if round(100 * value) else 1}f}".replace("-", "−")
