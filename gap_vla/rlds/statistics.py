"""Dataset statistics with upstream's keys, and the normalisations that use them. numpy only."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import CheckpointError, Section, shown
from gap_vla.core.identity import flat
from gap_vla.core.typed_config import choose
from gap_vla.core.whole import write_json
from gap_vla.demos.fields import as_truths

STATISTICS = "dataset_statistics.json"
"""Their file, beside the shards of a dataset and in a store."""

NORMALIZATIONS = ("normal", "bounds", "bounds_q99", "min_max", "none")

MIN_STD = 1e-4
"""A dimension that varies less than this (m, quaternion or action units) carries no signal: its mask is False.

Dividing by such a standard deviation would blow a hair's difference at rollout up to a huge input. Masked dimensions
pass through unchanged, in both directions.
"""

_EPS = 1e-8

_ORDER = (
    ("min", "mean"), ("mean", "max"), ("min", "p01"), ("min", "q01"), ("p01", "p99"), ("q01", "q99"), ("p99", "max"),
    ("q99", "max"), ("p01", "q01"), ("q01", "p01"), ("p99", "q99"), ("q99", "p99"),
)  # fmt: skip
"""Vectors of a field of which the first is nowhere above the second; p01 and q01 are two names of one."""

_COUNTS = ("num_transitions", "num_trajectories")


class StatisticsError(UserError, ValueError):
    """Statistics that do not belong to the data, or cannot be used as asked; the message says why."""


def dataset_statistics(
    actions: Iterable[Float[np.ndarray, "T A"]],
    proprios: Iterable[Float[np.ndarray, "T P"]],
) -> dict[str, Any]:
    """Mean, std (population), min, max and quantiles over every step of every episode, and the counts.

    The mask is True for dimensions to normalise: all but those that do not vary (`MIN_STD`) and, in actions whose width
    is a multiple of 7, every 7th, which is taken for an arm's gripper, whatever its range.

    Returns:
        `{"action": {mean, std, max, min, p01, p99, q01, q99, mask}, "proprio": {…}, "num_transitions",
        "num_trajectories"}`; vectors are float32 arrays. p01/p99 (Octo's names) and q01/q99 (OpenVLA's) are equal.

    Raises:
        StatisticsError: no steps, other steps of the one than of the other, or values that are no finite numbers.
    """
    actions, proprios = ([_whole(one) for one in of_field] for of_field in (actions, proprios))
    if [*map(len, actions)] != [*map(len, proprios)] or not sum(map(len, actions)):
        steps = " and ".join(f"{sum(map(len, one))} steps in {len(one)} episodes" for one in (actions, proprios))
        raise StatisticsError(f"actions and proprioception have {steps}; give those of the same steps, one or more")
    for name, of_field in (("action", actions), ("proprio", proprios)):
        for place, one in enumerate(of_field):
            if one.ndim != 2 or one.shape[1:] != of_field[0].shape[1:] or one.dtype.kind not in "fiu":
                raise StatisticsError(
                    f"{name} of episode {place} is {one.dtype}{[*one.shape]}; give numbers [T, width]"
                )
            with np.errstate(over="ignore"):
                if not np.isfinite(one.astype(np.float32)).all():
                    raise StatisticsError(f"{name} of episode {place} is NaN or infinite; repair or drop the episode")
    action, proprio = np.concatenate(actions), np.concatenate(proprios)
    mask = np.ones(action.shape[1], bool)
    if action.shape[1] % 7 == 0:
        mask[6::7] = False
    return {
        "action": _describe(action, mask),
        "proprio": _describe(proprio, np.ones(proprio.shape[1], bool)),
        "num_transitions": len(action),
        "num_trajectories": len(actions),
    }


def _whole(values: Any) -> np.ndarray:
    if np.ma.is_masked(values):
        raise StatisticsError("values are masked in places; fill or drop them")
    return np.asarray(values)


def _describe(values: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    wide = values.astype(np.float64)
    std = wide.std(0)
    low, high = np.quantile(wide, [0.01, 0.99], axis=0)
    described = {"mean": wide.mean(0), "std": std, "max": wide.max(0), "min": wide.min(0)}
    described |= {"p01": low, "p99": high, "q01": low, "q99": high}
    return {k: v.astype(np.float32) for k, v in described.items()} | {"mask": mask & (std >= MIN_STD)}


def normalize(
    x: Float[np.ndarray, "*batch D"], statistics: Mapping[str, Any], kind: str = "normal"
) -> Float[np.ndarray, "*batch D"]:
    """Scales `x` by one field of the statistics (`statistics["action"]` or `["proprio"]`).

    `normal`: (x − mean)/(std + 1e-8). `bounds`: upstream Octo's, the 1st/99th percentile to [−1, 1], clipped;
    `bounds_q99` is OpenVLA's name of the same. `min_max`: minimum/maximum to [−1, 1] (OpenVLA's `bounds`). `none`.
    Dimensions whose mask is False are returned unchanged.

    Raises:
        StatisticsError: a vector is missing, of another width than `x` or no vector of finite numbers, a `std` below 0,
            a mask that is not bool, or `x` is no array of numbers.
    """
    mask = mask_of(statistics, x)
    if kind == "none":
        return np.asarray(x, np.float32)
    if kind == "normal":
        y = (x - vector_of(statistics, "mean")) / (vector_of(statistics, "std") + _EPS)
    else:
        low, high = limits(statistics, kind)
        y = np.clip(2 * (x - low) / (high - low + _EPS) - 1, -1, 1)
    return np.where(mask, y, x).astype(np.float32)


def unnormalize(
    x: Float[np.ndarray, "*batch D"], statistics: Mapping[str, Any], kind: str = "normal"
) -> Float[np.ndarray, "*batch D"]:
    """The inverse of `normalize` (of what was not clipped)."""
    mask = mask_of(statistics, x)
    if kind == "none":
        return np.asarray(x, np.float32)
    if kind == "normal":
        y = x * (vector_of(statistics, "std") + _EPS) + vector_of(statistics, "mean")
    else:
        low, high = limits(statistics, kind)
        y = (x + 1) / 2 * (high - low + _EPS) + low
    return np.where(mask, y, x).astype(np.float32)


def check_statistics(
    statistics: Any,
    field: str,
    kind: str,
    where: str,
    error: type[UserError] = UserError,
    *,
    widest: int,
    upstreams: bool = False,
) -> int:
    """Can one field of the statistics be normalised with? Asked once, where statistics come from a file.

    Args:
        statistics: all fields; `field` is `action` or `proprio`.
        where: the file, for the message.
        widest: how many dimensions the network has; returned is how many the statistics have.
        upstreams: of a checkpoint of upstream's, which takes dimensions that never varied for their mean (or limit);
            a note names them.

    Raises:
        error: naming the key, for what is missing, of another width, NaN, infinite, or says of a dimension that the
            mask does not leave out that it never varied, or what no data could have (`_require_possible`).
    """
    root = Section(statistics, where, error)
    section = root.section(field)
    choose(kind, NORMALIZATIONS, f"{where}: normalization", error)
    ends = () if kind in ("none", "normal") else _limit_names(section.values, kind)
    vectors: dict[str, np.ndarray] = {}
    for key in ("mean", *(["std"] if kind == "normal" else []), *ends, *(["mask"] if "mask" in section else [])):
        section.require(key)
        vector = _typed(key, section.values[key])
        if vector.dtype != (np.bool_ if key == "mask" else np.float32):
            wanted = "truth values" if key == "mask" else "numbers"
            raise error(f"{section.name(key)} is no list of {wanted}; copy the file again")
        width = len(vectors.get("mean", vector)) if vector.ndim else 0
        if vector.shape != (width,) or not 1 <= width <= widest:
            raise error(f"{section.name(key)} has shape {vector.shape}; the network takes {widest} dimensions")
        if not np.isfinite(vector).all():
            raise error(f"{section.name(key)} is NaN or infinite at index {int(np.argmin(np.isfinite(vector)))}")
        vectors[key] = vector
    used = vectors.get("mask", np.ones(width)) != 0
    spans = {"std": vectors["std"]} if kind == "normal" else {}
    spans |= {ends[0]: vectors[ends[1]] - vectors[ends[0]]} if ends else {}
    still = {key: used & (span >= 0) & (span <= _EPS) for key, span in spans.items()}
    rested = [key for key, where_still in still.items() if upstreams and 0 < where_still.sum() < used.sum()]
    for key in rested:
        used = used & ~still[key]
    if kind == "normal" and (constant := used & (vectors["std"] <= _EPS)).any():
        index = int(np.argmax(constant))
        where = f"{section.name('std')} is {vectors['std'][index]:g} at index {index}"
        if vectors["std"][index] < 0:
            raise error(f"{where}, and a deviation is none below 0; copy the file again")
        raise error(
            f"{where}: what does not vary cannot be normalised; set {field}.mask to false there, if it is right"
        )
    if ends and (crossed := used & (vectors[ends[0]] > vectors[ends[1]])).any():
        raise error(f"{section.name(ends[0])} is above {ends[1]} at index {int(np.argmax(crossed))}")
    if ends and (resting := used & (vectors[ends[1]] - vectors[ends[0]] <= _EPS)).any():
        where = f"{section.name(ends[0])} is {ends[1]} at index {int(np.argmax(resting))}"
        advice = "copy it again" if issubclass(error, CheckpointError) else "take data.normalization normal"
        raise error(f"{where}: what rests in nearly all steps has no range; {advice}")
    _require_possible(section, vectors["mean"], used, _require_counts(root))
    for key in rested:
        what = f"{section.name(key)} says that index {', '.join(map(str, np.flatnonzero(still[key])))} never varied"
        print(f"note: {what}; it is taken as upstream takes it", file=sys.stderr, flush=True)
    return width


def _require_counts(root: Section) -> float | None:
    """Steps, if they are told. Raises the section's error for counts that are no whole numbers from 1, or of fewer
    steps than episodes."""
    counts = {key: np.asarray(root.values[key]).tolist() for key in _COUNTS if key in root}
    section = Section(counts, root.where, root.error)
    for key in counts:
        if not section.finite(key, 1, 1e18).is_integer():
            raise section.refuse(key, "a whole number")
    if len(counts) == 2 and counts["num_transitions"] < counts["num_trajectories"]:
        said = f"num_transitions is {counts['num_transitions']}, num_trajectories {counts['num_trajectories']}"
        raise root.error(f"{root.where}: {said}; an episode has a step at least: copy the file again")
    return counts.get("num_transitions")


def _require_possible(section: Section, mean: np.ndarray, used: np.ndarray, steps: float | None) -> None:
    """Raises the section's error for vectors that no data could have: a mean or quantiles beyond minimum or maximum,
    quantiles in the wrong order, or, in a `used` dimension, a standard deviation above half the range or below what the
    quantiles, or so many steps, leave. Sums in float32 are not exact.
    """
    known = {"mean": mean}
    for key in ("min", "max", "p01", "p99", "q01", "q99", "std"):
        if key in section:
            known[key] = _typed(key, section.values[key])
            if known[key].shape != mean.shape or known[key].dtype != np.float32:
                raise section.refuse(key, f"a list of {len(mean)} numbers")
    slack = 1e-3 * (1 + np.abs(mean))
    for low, high in _ORDER:
        if {low, high} <= known.keys() and (wrong := ~(known[low] <= known[high] + slack)).any():
            at = int(np.argmax(wrong))
            if "mean" in (low, high):
                other = high if low == "mean" else low
                raise section.error(f"{section.name('mean')} lies beyond {other} at index {at}; copy the file again")
            what = f"{section.name(low)} is {known[low][at]:g} and {high} {known[high][at]:g} at index {at}"
            raise section.error(f"{what}, which cannot both be; copy the file again")
    if {"min", "max", "std"} <= known.keys():
        most = 1.01 * (known["max"] - known["min"]) / 2 + slack  # whatever the data between them
        if (wrong := used & ~(known["std"] <= most)).any():
            at = int(np.argmax(wrong))
            what = f"{section.name('std')} is {known['std'][at]:g} at index {at}"
            raise section.error(f"{what}, above half the range from min to max; copy the file again")
    for low, high in (("p01", "p99"), ("q01", "q99")):
        if {low, high, "std"} <= known.keys():
            least = 0.07 * (known[high] - known[low]) - slack / 10  # a hundredth of the steps lies at each, or beyond
            if (wrong := used & (known["std"] < least)).any():
                at = int(np.argmax(wrong))
                what = f"{section.name('std')} is {known['std'][at]:g} at index {at}"
                raise section.error(f"{what}, below 7 % of the range from {low} to {high}; copy the file again")
    if steps and {"min", "max", "std"} <= known.keys():  # which are of steps, and two deviate least about their mean
        span = known["max"] - known["min"]
        if (wrong := used & (known["std"] < 0.99 * span / np.sqrt(2 * steps) - slack)).any():
            at = int(np.argmax(wrong))
            what = f"{section.name('std')} is {known['std'][at]:g} at index {at}, the range {span[at]:g}"
            raise section.error(f"{what}, and num_transitions {steps:g}, which cannot all be; copy the file again")


def unlike(said: Mapping[str, Any], meant: Mapping[str, Any]) -> list[str]:
    """Keys of computed statistics (`meant`) of which a file says something else; which dimensions a mask leaves out may
    be somebody's choice."""
    known = dict(flat(said))
    return [key for key, value in flat(meant) if key not in known or not _alike(known[key], np.asarray(value))]


def _alike(found: Any, meant: np.ndarray) -> bool:
    if meant.dtype == np.bool_ or np.shape(found) != meant.shape:
        return np.asarray(found).dtype == np.bool_ == meant.dtype and np.shape(found) == meant.shape
    return np.allclose(found, meant, 1e-3 if meant.ndim else 0, 1e-5)  # counts are exact


def save_statistics(statistics: Mapping[str, Any], path: Path) -> None:
    """Writes JSON with lists for arrays."""
    plain = {
        k: {n: np.asarray(v).tolist() for n, v in value.items()} if isinstance(value, Mapping) else int(value)
        for k, value in statistics.items()
    }
    write_json(path, plain)


def load_statistics(path: Path, error: type[UserError] = UserError) -> dict[str, Any]:
    """Reads what `save_statistics` (or upstream Octo) wrote; raises `error` for a file, or a field, of no object."""
    found = Section.read(path, error)
    for field in ("action", "proprio"):
        found.section(field, {})
    return {
        key: {n: _typed(n, v) for n, v in value.items()} if isinstance(value, dict) else value
        for key, value in found.values.items()
    }


def statistics_digest(statistics: Mapping[str, Any], normalization: str) -> str:
    """Hexadecimal hash of what states and actions are scaled with; the same before and after writing and reading."""
    content = hashlib.sha256(normalization.encode())
    for field in ("action", "proprio"):
        for name, value in sorted(Section(statistics.get(field, {}), field, StatisticsError).values.items()):
            found = np.asarray(value)
            numbers = found.astype(np.float32).tobytes() if found.dtype.kind in "biuf" else b"?"
            content.update(f"{field}/{name}".encode() + numbers)
    return content.hexdigest()[:16]


def _typed(name: str, value: Any) -> np.ndarray:
    """float32, or bool for a mask; what is of another kind stays, and `check_statistics` refuses it."""
    try:
        given = np.asarray(value)
    except ValueError:  # lists of other lengths in a list
        return np.asarray("odd")
    if name == "mask":
        return as_truths(given)
    with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinite; `check_statistics` says so
        return given.astype(np.float32) if given.dtype.kind in "iuf" else given


def vector_of(statistics: Mapping[str, Any], name: str) -> np.ndarray:
    """One vector of a field, with as many numbers as its mean has."""
    if not isinstance(statistics, Mapping):
        raise StatisticsError(f"statistics are {shown(statistics)}; give those of one field, as statistics['proprio']")
    if name not in statistics:
        raise StatisticsError(f"statistics lack {name}; they have {', '.join(sorted(statistics))}")
    found, width = np.asarray(statistics[name]), np.shape(statistics["mean"])
    if found.ndim != 1 or found.shape != width or found.dtype.kind not in "fiu":
        raise StatisticsError(f"statistics: {name} is {found.dtype}{[*found.shape]}, mean has shape {[*width]}")
    found = found.astype(np.float32)
    if not np.isfinite(found).all() or (name == "std" and (found < 0).any()):
        raise StatisticsError(f"statistics: {name} is {found.tolist()}; these belong to no data")
    return found


def mask_of(statistics: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Which columns of `x` are normalised; raises StatisticsError if these are not statistics of such an array."""
    width = len(vector_of(statistics, "mean"))
    if not (shape := np.shape(x)):
        raise StatisticsError(f"array is {shown(x)}; give numbers [..., {width}]")
    if shape[-1] != width:
        raise StatisticsError(f"array is {shape[-1]} wide, statistics are {width} wide: they belong to other data")
    if _whole(x).dtype.kind not in "fiub":
        raise StatisticsError(f"array is {np.asarray(x).dtype}, not of numbers")
    mask = np.asarray(statistics.get("mask", np.ones(width, bool)))
    mask = mask if mask.dtype == bool else as_truths(mask)
    if mask.dtype != bool or mask.shape != (width,):
        raise StatisticsError(f"statistics: mask is {mask.dtype}{[*mask.shape]}; it must be bool[{width}]")
    return mask


def limits(statistics: Mapping[str, Any], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers of each dimension that a normalisation other than `normal` and `none` puts at -1 and 1."""
    choose(kind, NORMALIZATIONS, "normalization", StatisticsError)
    low, high = (vector_of(statistics, name) for name in _limit_names(statistics, kind))
    if (low > high).any():
        raise StatisticsError(
            f"statistics: {' is above '.join(_limit_names(statistics, kind))} in column {(low > high).argmax()}"
        )
    return low, high


def _limit_names(statistics: Mapping[str, Any], kind: str) -> tuple[str, str]:
    if kind == "min_max":
        return "min", "max"
    return ("p01", "p99") if "p01" in statistics else ("q01", "q99")
