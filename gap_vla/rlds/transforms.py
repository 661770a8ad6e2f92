"""Trajectory transforms: plain functions on dictionaries of tensors, for `tf.data` and for dlimp pipelines alike.

A trajectory is `{"observation": {image_*, proprio, timestep}, "task": {language_instruction}, "action", …}` with
leading dimension T. `rho` and `change_point`, where present, stay aligned with their step in every function.

Upstream Octo's own pipeline keeps nothing of a step but pictures, state, text and action. `pack_rho`, a
`standardize_fn`, lets ρ travel as a last action dimension; `unpack_rho`, a `post_chunk_transforms` entry, takes it out
again, exactly (docs/UPSTREAM.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gap_vla.core.errors import ConfigError, UserError
from gap_vla.rlds.statistics import MIN_STD, limits, vector_of

Trajectory = dict[str, Any]
STEP_KEYS = ("rho", "change_point")
"""Per-step quantities beside observation and action."""


def restructure(
    trajectory: Trajectory,
    *,
    image_keys: Mapping[str, str],
    proprio_key: str | None = "proprio",
    language_key: str | None = "language_instruction",
    name: str = "",
) -> Trajectory:
    """An RLDS episode's steps to a trajectory; unlike upstream's it keeps ρ.

    Args:
        image_keys: camera name to observation key, `{"image_primary": "image_0"}`.
        proprio_key: observation key of the state, or None.
        language_key: step key of the instruction, or None.
        name: dataset name.
    """
    old = trajectory["observation"]
    steps = tf.shape(trajectory["action"])[0]
    observation = {camera: old[key] for camera, key in image_keys.items()}
    if proprio_key is not None:
        observation["proprio"] = tf.cast(old[proprio_key], tf.float32)
    observation["timestep"] = tf.range(steps)
    task = {} if language_key is None else {"language_instruction": trajectory[language_key]}
    kept = {key: trajectory[key] for key in STEP_KEYS if key in trajectory}
    return {
        "observation": observation,
        "task": task,
        "action": tf.cast(trajectory["action"], tf.float32),
        "dataset_name": tf.repeat(name, steps),
        **kept,
    }


def normalize_trajectory(trajectory: Trajectory, statistics: Mapping[str, Any], kind: str = "normal") -> Trajectory:
    """`gap_vla.rlds.normalize` for action and proprio of a trajectory.

    They differ for statistics without a `mask`: here dimensions with a deviation below `MIN_STD` stay as they are,
    there all are scaled.
    """
    observation = dict(trajectory["observation"])
    if "proprio" in observation:
        observation["proprio"] = _normalized(observation["proprio"], statistics["proprio"], kind)
    action = _normalized(trajectory["action"], statistics["action"], kind)
    return {**trajectory, "observation": observation, "action": action}


def _normalized(x: tf.Tensor, statistics: Mapping[str, Any], kind: str) -> tf.Tensor:
    if kind == "none":
        return x
    mean, std = (vector_of(statistics, key) for key in ("mean", "std"))
    if x.shape[-1] not in (None, len(mean)):
        raise UserError(f"array is {x.shape[-1]} wide, statistics are {len(mean)} wide: they belong to other data")
    mask = np.asarray(statistics.get("mask", std >= MIN_STD), bool)
    if kind == "normal":
        return tf.where(mask, (x - mean) / (std + 1e-8), x)
    low, high = limits(statistics, kind)
    return tf.where(mask, tf.clip_by_value(2 * (x - low) / (high - low + 1e-8) - 1, -1, 1), x)


def add_pad_mask_dict(trajectory: Trajectory) -> Trajectory:
    """Adds `pad_mask_dict` to observation and task: False where a text (or an encoded picture) is empty."""
    steps = tf.shape(trajectory["action"])[0]
    changed = dict(trajectory)
    for part in ("observation", "task"):
        masks = {
            key: tf.strings.length(value) != 0 if value.dtype == tf.string else tf.ones([steps], tf.bool)
            for key, value in trajectory[part].items()
            if not isinstance(value, dict)
        }
        changed[part] = {**trajectory[part], "pad_mask_dict": masks}
    return changed


def relabel_goals(trajectory: Trajectory, seed: Any = None, max_goal_distance: int | None = None) -> Trajectory:
    """Merges the observation at a uniformly drawn step in [t, T) into each step's task (goal relabelling).

    Args:
        seed: int32[2] of a stateless draw; None draws from TensorFlow's global generator.
        max_goal_distance: steps from t to the goal, at most.
    """
    steps = tf.shape(trajectory["action"])[0]
    low = tf.range(steps)
    high = tf.fill([steps], steps) if max_goal_distance is None else tf.minimum(low + max_goal_distance + 1, steps)
    draw = tf.random.uniform([steps]) if seed is None else tf.random.stateless_uniform([steps], seed)
    goal = tf.minimum(low + tf.cast(draw * tf.cast(high - low, tf.float32), tf.int32), high - 1)
    at_goal = tf.nest.map_structure(lambda x: tf.gather(x, goal), trajectory["observation"])
    masks = {**trajectory["task"].get("pad_mask_dict", {}), **at_goal.pop("pad_mask_dict", {})}
    return {**trajectory, "task": {**trajectory["task"], **at_goal, "pad_mask_dict": masks}}


def chunk(
    trajectory: Trajectory, window_size: int, action_horizon: int, *, upstream_action_mask: bool = False
) -> Trajectory:
    """History windows of observations and ρ, chunks of actions: `gap_vla.rlds.window_indices` for a whole trajectory.

    Args:
        trajectory: as above; `task.timestep`, where present (goal relabelling), is the last step of the task.
        window_size, action_horizon: W and H; actions that are chunks already (3-D), and their `action_pad_mask`, are
            cut to it. A mask [T, A] goes with the actions of its steps.
        upstream_action_mask: upstream's mask, one step late.

    Returns:
        observation [T, W, …] with `timestep_pad_mask` and `task_completed` [T, W, H], action and `action_pad_mask`
        [T, W, H, A], `rho` and `change_point` [T, W].
    """
    action = trajectory["action"]
    if len(action.shape) == 3 and (action.shape[1] or action_horizon) < action_horizon:
        raise ConfigError(f"actions are chunks of {action.shape[1]}, action_horizon is {action_horizon}; take less")
    steps = tf.shape(action)[0]
    raw = tf.range(steps)[:, None] + tf.range(1 - window_size, 1)
    index = tf.maximum(raw, 0)
    ahead = tf.range(action_horizon)
    of_chunks = tf.minimum(index[..., None] + ahead, steps - 1)
    if len(action.shape) == 3:
        chunks = tf.gather(action[:, :action_horizon], index)
    else:
        chunks = tf.gather(action, of_chunks)
    goal = trajectory["task"].get("timestep", tf.fill([steps], steps - 1))[:, None, None]
    at = (raw if upstream_action_mask else index)[..., None] + ahead
    valid = at < goal + 2 if upstream_action_mask else at <= goal
    dims = trajectory.get("action_pad_mask", tf.ones_like(action, tf.bool))
    of_all = tf.broadcast_to(dims, [steps, *tf.unstack(tf.shape(dims)[1:])])
    if len(dims.shape) == 3:
        dims = tf.gather(of_all[:, :action_horizon], index)
    elif len(action.shape) == 3:
        dims = tf.gather(of_all, index)[:, :, None]
    elif upstream_action_mask:
        dims = of_all[:, None, None]
    else:
        dims = tf.gather(of_all, of_chunks)
    observation = tf.nest.map_structure(lambda x: tf.gather(x, index), trajectory["observation"])
    observation["timestep_pad_mask"] = raw >= 0
    observation["task_completed"] = ~valid
    labels = {key: trajectory[key] for key in STEP_KEYS if key in trajectory}
    kept = {key: tf.gather(value, index) for key, value in labels.items()}
    return {
        **trajectory,
        **kept,
        "observation": observation,
        "action": chunks,
        "action_pad_mask": valid[..., None] & dims,
    }


def pack_rho(trajectory: dict[str, Any]) -> dict[str, Any]:
    """Appends `rho` to `action`; give `action_normalization_mask` one more entry, False (`mask_with_rho`).

    Raises ConfigError: the dataset has no ρ.
    """
    if "rho" not in trajectory:
        raise ConfigError("the dataset has no steps/rho; add it with `gap-vla annotate`")
    rho = tf.cast(trajectory["rho"], tf.float32)[:, None]
    return {**trajectory, "action": tf.concat([tf.cast(trajectory["action"], tf.float32), rho], axis=1)}


def unpack_rho(trajectory: dict[str, Any]) -> dict[str, Any]:
    """Cuts ρ off the chunked actions [T, W, H, A + 1] and puts it beside them as `rho` [T, W].

    The first action of a chunk is the one of the chunk's own step, so that is the step's ρ. Raises ConfigError: the
    actions are not chunked yet.
    """
    packed = trajectory["action"]
    if len(packed.shape) != 4:
        raise ConfigError(f"action is {[*packed.shape]}, not [T, W, H, A + 1]; unpack_rho comes after the chunking")
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
