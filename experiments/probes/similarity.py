"""How alike two representations of the same pictures are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def cka(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n e"]) -> float:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019): 1 for features that differ by a rotation and a
    scale only, near 0 for unrelated ones.

    ‖aᵀb‖² / (‖aᵀa‖ ‖bᵀb‖) with centred columns. It is biased upwards where n is not much larger than d and e.

    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> round(cka(x, 2 * x @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])), 6)
    1.0
    """
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"features of {a.shape[0]} and {b.shape[0]} pictures; both must be of the same pictures")
    a, b = a - a.mean(0), b - b.mean(0)
    cross = np.linalg.norm(a.T @ b) ** 2
    own = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(cross / own) if own > 0 else 0.0
