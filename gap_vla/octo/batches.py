"""Tasks as a model takes them, and whether observations, tasks and parameters fit it: errors name key and shapes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import CheckpointError, misfits, shown

_NOT_GOALS = ("pad_mask_dict", "language_instruction")


class BatchError(UserError, ValueError):
    """Observations or tasks that do not fit the model; the message names the key and both shapes."""


def native(tree: Any) -> Any:
    """With numpy arrays in this machine's byte order: a compiled jax.jit and msgpack take their bytes as they lie."""

    def of(leaf: Any) -> Any:
        foreign = isinstance(leaf, np.ndarray) and not leaf.dtype.isnative
        return leaf.astype(leaf.dtype.newbyteorder("=")) if foreign else leaf

    return jax.tree.map(of, tree)


def create_tasks(
    example: Mapping[str, Any],
    text_processor: Any,
    goals: Mapping[str, Any] | None,
    texts: Sequence[str] | None,
) -> dict[str, Any]:
    """See `OctoModel.create_tasks`; `example` is the task of the model's example batch."""
    if goals is None and texts is None:
        raise BatchError("there is nothing to do: give goals, texts or both")
    if texts is not None and not np.ndim(texts):
        raise BatchError(f"texts is the one text {shown(texts)}; give a list with one for each task")
    if texts is not None and (
        odd := [text for text in np.ravel(np.asarray(texts, object)) if not isinstance(text, str)]
    ):
        raise BatchError(f"texts hold {shown(odd[0])}, which is no text; give str (bytes: .decode())")
    if goals is not None:
        if not isinstance(goals, Mapping):
            raise BatchError(f"goals is {shown(goals)}; give a mapping of names to arrays, such as image_primary")
        if single := [key for key, value in goals.items() if not np.shape(value)]:
            raise BatchError(f"the goal {single[0]} is {shown(goals[single[0]])}; give an array with a row per task")
        lengths = {key: len(value) for key, value in goals.items()}
        if len({*lengths.values()}) != 1:
            raise BatchError(f"goals have lengths {lengths}; give one or more, each with a row per task")
        batch = len(next(iter(goals.values())))
        task: dict[str, Any] = dict(goals)
        masks = {key: np.ones(batch, bool) for key in goals}
        if texts is not None and "language_instruction" in goals:
            raise BatchError("texts and the goal language_instruction are both instructions; give one of them")
    else:
        assert texts is not None
        batch = len(texts)
        shapes = {key: value for key, value in example.items() if key not in _NOT_GOALS}
        task = {key: np.zeros((batch, *value.shape[1:]), value.dtype) for key, value in shapes.items()}
        masks = {key: np.zeros(batch, bool) for key in shapes}

    if texts is not None:
        if text_processor is None:
            raise BatchError(
                "this model has no text processor, so it takes no texts; pass goals, an instruction's embedding as "
                "their language_instruction"
            )
        if len(texts) != batch:
            raise BatchError(f"{len(texts)} texts for {batch} goals; give one for each")
    if "language_instruction" not in masks:  # an embedding
        if text_processor is not None:
            task["language_instruction"] = text_processor.encode([""] * batch if texts is None else list(texts))
        masks["language_instruction"] = np.full(batch, texts is not None)
    task["pad_mask_dict"] = masks
    check_batch("task", task, example, leading=1)
    return task


def check_inputs(observations: Mapping[str, Any], tasks: Mapping[str, Any], example: Mapping[str, Any]) -> None:
    """`check_batch` of what a model reads, and whether there is a task for each observation.

    Raises:
        BatchError: see `check_batch`; or observations and tasks are not equally many.
    """
    check_batch("observation", observations, example["observation"], leading=2)
    check_batch("task", tasks, example["task"], leading=1)
    rows = {np.shape(leaf)[:1] for leaf in _flatten(observations).values()}
    known = _flatten(example["task"])
    for key, leaf in _flatten(tasks).items():
        if (key in known or key.startswith("language_instruction")) and np.shape(leaf)[:1] not in rows:
            found = f"task/{key} is {np.shape(leaf)}, the observations begin with {max(rows, default=())}"
            raise BatchError(f"{found}; give a task for each observation")
    _warn_of_unread_embedding(tasks)


def _warn_of_unread_embedding(task: Mapping[str, Any]) -> None:
    embedded, masks = task.get("language_instruction"), task.get("pad_mask_dict")
    mask = masks.get("language_instruction") if isinstance(masks, Mapping) else None
    traced = any(isinstance(one, jax.core.Tracer) for one in (embedded, mask))
    if mask is None or embedded is None or isinstance(embedded, Mapping) or traced or np.any(mask):
        return
    if np.any(embedded):  # zeros are none
        what = 'task["language_instruction"] is not read: task["pad_mask_dict"]["language_instruction"] is False'
        warnings.warn(f"{what} throughout; set it to True, or give the embedding among the goals", stacklevel=4)


def check_pad_mask(mask: Any) -> None:
    """Raises BatchError: a timestep_pad_mask that holds other than 0 and 1, or leaves the present step out.

    One that is traced, or of another shape than (B, W), is not looked at.
    """
    if isinstance(mask, jax.core.Tracer) or np.ndim(mask) != 2:
        return
    found = np.asarray(mask)
    if (odd := found[(found != 0) & (found != 1)]).size:
        raise BatchError(f"timestep_pad_mask holds {odd[0]}; give True for a step that was seen, False for padding")
    wrong = (found.any(1) | (not found.any())) & (found[:, -1] == 0)  # single rows may fill a batch up
    if wrong.any():
        row = int(np.argmax(wrong))
        raise BatchError(f"timestep_pad_mask marks the present step of row {row} as padding; True is what was seen")


def check_temperature(temperature: Any) -> None:
    """Raises BatchError: bins cannot be drawn with it. One that is traced is not looked at."""
    if not isinstance(temperature, jax.core.Tracer) and not 0 < (found := float(temperature)) < np.inf:
        raise BatchError(f"temperature is {found:g}; give one above 0, or argmax=True for the likeliest action")


def check_batch(kind: str, data: Mapping[str, Any], example: Mapping[str, Any], leading: int) -> None:
    """Compare shapes with the example the model was built for, apart from the first `leading` axes.

    Missing and additional keys are allowed (a missing camera is padding) and warned about, but for a missing
    instruction; an instruction may be word pieces in one and an embedding in the other.

    Raises:
        BatchError: it is no dictionary; an entry is no array of numpy or JAX, has another shape, is a dictionary where
            the example has an array, a picture that is not uint8, or numbers that are masked, of another byte order,
            or not finite as float32 (those that are traced are not looked at).
    """
    if not isinstance(data, Mapping):
        raise BatchError(f"{kind} is {shown(data)}; give a dictionary of arrays ({{}} for a task that says nothing)")
    found, expected = _flatten(data), _flatten(example)
    for key in sorted(set(found) & {*expected, "language_instruction"}):
        if not isinstance(getattr(found[key], "dtype", None), np.dtype):  # as torch's, TensorFlow's, and of a list
            raise BatchError(f"{kind}/{key} is a {type(found[key]).__name__}; give an array of numpy or JAX")
    # pad_mask_dict may lack entries, and say of an instruction that there is none.
    extra, missing = (
        sorted(key for key in keys if not key.startswith(("pad_mask_dict/", "language_instruction")))
        for keys in (set(found) - set(expected), set(expected) - set(found))
    )
    if extra:
        warnings.warn(f"{kind}: ignored or unknown to the model: {extra}", stacklevel=3)
    if missing:
        warnings.warn(f"{kind}: the model was built with {missing}, which are missing here", stacklevel=3)
    deeper = [key for key in missing if any(one.startswith(f"{key}/") for one in extra)]
    wrong = [f"{kind}/{key} is a dictionary, expected an array" for key in deeper]
    wrong += [
        f"{kind}/{key} is {np.shape(found[key])}, expected "
        f"({', '.join([*'BW'[:leading], *map(str, np.shape(expected[key])[leading:])])})"
        for key in sorted(set(found) & set(expected))
        if np.shape(found[key])[leading:] != np.shape(expected[key])[leading:]
        or np.ndim(found[key]) != np.ndim(expected[key])
    ]
    words, embedded = expected.get("language_instruction/input_ids"), found.get("language_instruction")
    if words is not None and embedded is not None:
        length = np.shape(words)[1]
        if np.ndim(embedded) != 3 or np.shape(embedded)[1] != length:
            what = f"expected (B, {length}, E), an embedding of each word piece"
            wrong.append(f"{kind}/language_instruction is {np.shape(embedded)}, {what}")
    wrong += [
        f"{kind}/{key} is {odd} in places"
        for key in sorted(set(found) & {*expected, "language_instruction"})
        if (odd := _oddity(found[key]))
    ]
    wrong += [
        f"{kind}/{key} is {found[key].dtype}, the model takes pictures as uint8"
        for key in sorted(set(found) & set(expected))
        if key.startswith("image_") and hasattr(found[key], "dtype") and found[key].dtype != np.uint8
    ]
    wrong += [  # which jax.jit, once compiled, reads in this machine's order
        f"{kind}/{key} is {dtype.str}, in the byte order of another machine; give .astype({dtype.newbyteorder('=')})"
        for key in sorted(set(found) & {*expected, "language_instruction"})
        if isinstance(dtype := getattr(found[key], "dtype", None), np.dtype) and not dtype.isnative
    ]
    if wrong:
        raise BatchError("; ".join(wrong))


def _oddity(value: Any) -> str:
    if np.ma.is_masked(value):
        return "masked"
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if isinstance(value, jax.core.Tracer) or not jax.dtypes.issubdtype(dtype, np.floating):
        return ""
    with np.errstate(over="ignore"):
        return "" if np.isfinite(np.asarray(value).astype(np.float32)).all() else "NaN or infinite"


def with_percentiles(statistics: Mapping[str, Any]) -> Mapping[str, Any]:
    """With Octo's names of the 1st and 99th percentile, where only OpenVLA's are there."""
    names = {"p01": "q01", "p99": "q99"}
    return {**{own: statistics[other] for own, other in names.items() if other in statistics}, **statistics}


def check_statistics(statistics: Mapping[str, Any], kind: str, action_dim: int) -> None:
    """Statistics for un-normalisation must be those of one data set's actions, at most as wide as the model's.

    Args:
        kind: "normal" needs mean and std, "bounds" needs mean, p01 and p99.

    Raises:
        BatchError: a key is missing, or a vector is wider than the actions or than the others, not of numbers (a mask:
            of truth values), not finite as float32, or what no data have: a std below 0, or where the mask does not
            leave it out, 0 throughout, or p01 above p99.
    """
    needed = {"normal": ("mean", "std"), "bounds": ("mean", "p01", "p99")}[kind]
    missing = [key for key in needed if key not in statistics]
    if missing:
        raise BatchError(
            f"unnormalization_statistics lacks {', '.join(missing)} for normalization {kind!r}; found "
            f"{sorted(statistics)}. Pass those of one data set's actions, such as "
            'model.dataset_statistics["action"] or model.dataset_statistics["bridge_dataset"]["action"]'
        )
    found = {key: _vector(statistics[key], key) for key in (*needed, *(["mask"] if "mask" in statistics else []))}
    width = found["mean"].shape
    for key, values in found.items():
        shape = values.shape
        if shape != width or len(shape) != 1 or shape[0] > action_dim:
            raise BatchError(
                f"unnormalization_statistics/{key} is {shape}, mean is {width}, and the model's actions are "
                f"({action_dim},) wide: these are statistics of another robot"
            )
        if not np.isfinite(values).all() or (key == "std" and (values < 0).any()):
            raise BatchError(f"unnormalization_statistics/{key} is {values.tolist()}: these belong to no data")
    used = found.get("mask", np.ones(width)).astype(bool)
    if kind == "normal" and used.any() and not found["std"][used].any():
        raise BatchError(
            "unnormalization_statistics/std is 0 in all dimensions, so that every action would be the mean"
        )
    if kind == "bounds" and (crossed := used & (found["p01"] > found["p99"])).any():
        raise BatchError(
            f"unnormalization_statistics/p01 is above p99 at index {int(np.argmax(crossed))}; copy them again"
        )


def _vector(value: Any, key: str) -> np.ndarray:
    """float32, of a mask 0 and 1; raises BatchError for what is of another kind."""
    try:
        given = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        given = np.empty(0, object)
    kinds = [np.floating, np.integer, *([np.bool_] if key == "mask" else [])]
    if not any(jax.dtypes.issubdtype(given.dtype, kind) for kind in kinds):
        raise BatchError(f"unnormalization_statistics/{key} is {str(value)[:60]}; it must be a vector of numbers")
    if key == "mask" and not np.isin(given, (0, 1)).all():
        raise BatchError(f"unnormalization_statistics/mask is {given.tolist()}; it must hold truth values, or 0 and 1")
    with np.errstate(over="ignore"):
        return given.astype(np.float32)


def check_params(params: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Parameters must have exactly the names and shapes of `expected`.

    Raises:
        CheckpointError: with the names that are missing, additional, or of another shape; or the first one that
            holds NaN, infinity, or no numbers.
    """
    have = {key: np.asarray(leaf) for key, leaf in _flatten(params).items()}
    want = _flatten(expected)
    found, needed = ({key: tree[key].shape for key in sorted(tree)} for tree in (have, want))
    if problems := misfits(found, needed, "the config's model has", most=20):
        raise CheckpointError(
            f"{path}: the parameters are not those of the model in config.json: {problems}. "
            "Use the config.json that belongs to them, or merge them with gap_vla.octo.merge_params."
        )
    for key, leaf in have.items():
        if not jax.dtypes.issubdtype(leaf.dtype, np.floating):
            raise CheckpointError(f"{path}: {key} holds {leaf.dtype}, parameters are floating-point numbers")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(leaf.astype(want[key].dtype, copy=False))
        if bad.any():
            raise CheckpointError(
                f"{path}: {key} holds {int(bad.sum())} values of {bad.size} that are NaN or infinite; the training "
                "diverged or the file is damaged, take another step"
            )


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(tree), sep="/")
