"""A factor for each branch on the optimizer's update."""

from __future__ import annotations

from typing import Any

import optax


def scale_branch_updates() -> optax.GradientTransformationExtraArgs:
    """Multiplies packed updates by `branch_factors[branch]`, passed to `tx.update`; branches without a factor stay.

    As GAP's λ it belongs after the optimizer's normalisation and before weight decay.
    """

    def update(updates: Any, state: Any, params: Any = None, *, branch_factors: Any = None, **extra: Any) -> Any:
        found = branch_factors or {}
        return {label: found.get(label.split("/")[0], 1.0) * leaf for label, leaf in updates.items()}, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
