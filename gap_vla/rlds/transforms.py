"""ρ through upstream's own pipelines, `tf.data` and dlimp (docs/UPSTREAM.md).

Upstream Octo's pipeline keeps nothing of a step but pictures, state, text and action. `pack_rho`, a `standardize_fn`,
lets ρ travel as a last action dimension; `unpack_rho`, a `post_chunk_transforms` entry, takes it out again, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def pack_rho(trajectory: dict[str, Any]) -> dict[str, Any]:
    """Appends `rho` to `action`; give `action_normalization_mask` one more entry, False (`mask_with_rho`)."""
    rho = tf.cast(trajectory["rho"], tf.float32)[:, None]
    return {**trajectory, "action": tf.concat([tf.cast(trajectory["action"], tf.float32), rho], axis=1)}


def unpack_rho(trajectory: dict[str, Any]) -> dict[str, Any]:
    """Cuts ρ off the chunked actions [T, W, H, A + 1] and puts it beside them as `rho` [T, W].

    The first action of a chunk is the one of the chunk's own step, so that is the step's ρ.
    """
    packed = trajectory["action"]
    changed = {**trajectory, "action": packed[..., :-1], "rho": packed[..., 0, -1]}
    if "action_pad_mask" in trajectory:
        changed["action_pad_mask"] = trajectory["action_pad_mask"][..., :-1]
    return changed


def mask_with_rho(action_mask: Sequence[bool]) -> list[bool]:
    """`action_normalization_mask` for packed actions: the given mask, then False for ρ."""
    return [*map(bool, action_mask), False]


def without_rho(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Dataset statistics of packed actions cut to the actions, for saving with the model and un-normalising."""
    action = {key: np.asarray(value)[:-1] for key, value in statistics["action"].items()}
    return {**statistics, "action": action}
