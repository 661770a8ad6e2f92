"""Parameters in two trees, trainable and frozen, so that no gradient of a frozen one is ever computed or stored.

Octo-small has 27 million trainable parameters beside 110 million of a frozen T5: differentiating all of them costs
a gradient tree four times the size, all zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import traverse_util

from gap_vla.octo.optimizer import freeze_labels


def split_frozen(params: Any, frozen_keys: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trainable, frozen) by the patterns of `freeze_labels`; `join_frozen` is the inverse.

    Optimizing the trainable tree without `frozen_keys` is optimizing the whole with them: the clipping norm counts
    trainable leaves only in both.
    """
    labels = traverse_util.flatten_dict(freeze_labels(params, list(frozen_keys or ())))
    flat = traverse_util.flatten_dict(dict(params))
    trees = [
        traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if labels[path] == label})
        for label in ("trainable", "frozen")
    ]
    return trees[0], trees[1]


def join_frozen(trainable: Any, frozen: Any) -> dict[str, Any]:
    """One tree of both."""
    flat = {**traverse_util.flatten_dict(dict(trainable)), **traverse_util.flatten_dict(dict(frozen))}
    return traverse_util.unflatten_dict(flat)
