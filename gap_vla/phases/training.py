"""Training the LSTM of M5 by Adam, in float32.

Every sum has a fixed order (see `lstm.py`), so the same data and seed give the same bits on every processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gap_vla.core.progress import PATIENCE, Progress
from gap_vla.phases.lstm import f32, gradients, length_of
from gap_vla.phases.measures import weighted_loss

if TYPE_CHECKING:
    from gap_vla.phases.estimator import EstimatorSettings

LONGEST = 200
"""Recordings that are longer, in steps of the LSTM, are learnt in pieces of at most this length."""

WARM = 10
"""The first steps of a later piece are not asked for: what came before is missing."""

ADAM = 0.9, 0.999, 1e-8

Example = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features f32[T, F] (scaled), targets f32[T] (c_t of M4) and weights f32[T] of one recording."""


def train(
    examples: Sequence[Sequence[Example]], settings: EstimatorSettings, updates: int
) -> tuple[list[np.ndarray], float]:
    """Minimises the weighted binary cross-entropy of M5.

    Args:
        examples: recordings, each in one or more versions, of which an update takes one.
        settings: `EstimatorSettings`.
        updates: so many; each takes `batch_size` recordings.

    Returns:
        The parameters, in the order of `lstm.Weights` from `first_in` on, and the mean loss over the last tenth of the
        updates.
    """
    rng = np.random.default_rng(settings.seed)
    recordings = [list(versions) for recording in examples for versions in zip(*map(pieces, recording))]
    lengths = [len(versions[0][0]) for versions in recordings]
    p = initial(examples[0][0][0].shape[1], settings.hidden, rng)
    moments = [np.zeros_like(v) for v in p], [np.zeros_like(v) for v in p]
    batches: list[list[int]] = []
    loss, weight = 0.0, 0.0
    progress = Progress("LSTM of ρ", updates, "update", after=PATIENCE)
    for update in range(1, updates + 1):
        progress.advance(1)
        if not batches:  # neighbours in length share a batch, so that little is padded
            order = sorted(range(len(lengths)), key=lambda i: lengths[i] + rng.uniform(0, 0.2 * lengths[i] + 1))
            batches = [order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)]
            rng.shuffle(batches)
        chosen = [recordings[i] for i in batches.pop()]
        x, y, w = side_by_side([versions[rng.integers(len(versions))] for versions in chosen])
        if not w.any():  # the samples ahead, at which nothing is asked
            continue
        rho, gradient = gradients(x, y, w, *p)
        if 10 * update > 9 * updates:
            loss += weighted_loss(rho, y, w) * float(w.sum())
            weight += float(w.sum())
        rate = f32(settings.learning_rate * 0.5 * (1 + np.cos(np.pi * (update - 1) / updates)))
        p = adam(p, gradient, moments, update, rate)
    progress.close()
    return p, loss / weight if weight else 0.0


def pieces(example: Example) -> list[Example]:
    """A recording in pieces of nearly equal length, at most `LONGEST` steps; the weights of `WARM` steps are 0."""
    number = -(-len(example[0]) // LONGEST)
    cut = list(zip(*(np.array_split(array, number) for array in example)))
    return [cut[0], *((x, y, np.where(np.arange(len(w)) < WARM, f32(0), w)) for x, y, w in cut[1:])]


def side_by_side(examples: Sequence[Example]) -> list[np.ndarray]:
    """Features f32[T, B, F], targets and weights f32[T, B], with zeros after the end of the shorter ones."""
    most = max(len(example[0]) for example in examples)
    padded = [[np.pad(a, [(0, most - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays] for arrays in zip(*examples)]
    return [np.stack(arrays, axis=1) for arrays in padded]


def initial(width: int, hidden: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Parameters, uniform within ± 1 / √hidden, as torch draws them."""
    shapes = [(width, 4 * hidden), (hidden, 4 * hidden), (4 * hidden,)]
    shapes += [(hidden, 4 * hidden), (hidden, 4 * hidden), (4 * hidden,), (hidden,), (1,)]
    return [rng.uniform(-(hidden**-0.5), hidden**-0.5, shape).astype(f32) for shape in shapes]


def adam(
    p: list[np.ndarray],
    gradient: Sequence[np.ndarray],
    moments: tuple[list[np.ndarray], list[np.ndarray]],
    update: int,
    rate: np.float32,
) -> list[np.ndarray]:
    """The parameters after one update of Adam; the gradient is cut to length 1. Changes the moments in place."""
    scale = f32(min(1.0, 1.0 / (length_of(*gradient) + 1e-6)))
    b1, b2, least = (f32(value) for value in ADAM)
    first, second = f32(1 - ADAM[0] ** update), f32(1 - ADAM[1] ** update)
    out = []
    for value, g, m, v in zip(p, gradient, *moments):
        g = g * scale
        m[...] = b1 * m + (1 - b1) * g
        v[...] = b2 * v + (1 - b2) * (g * g)
        out.append(value - rate * (m / first) / (np.sqrt(v / second) + least))
    return out
