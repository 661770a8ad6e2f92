"""The entry of this room: episodes in, labels (ρ and change points) out, and an annotator for later episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.core.foreign import whole
from gap_vla.phases.annotator import (
    Annotation,
    Annotator,
    as_episodes,
    find_points,
    motions_of,
    opening_unit,
    require_unit,
)
from gap_vla.phases.estimator import EstimatorSettings, PhaseEstimator
from gap_vla.phases.methods import METHODS, OPTIONS, USED, Options, method_parts, resolved
from gap_vla.phases.motion import MotionError, require_columns
from gap_vla.phases.noise import FLOOR, require_extra_band

LABEL_LOOKAHEAD = 2
"""Labels are made after the fact, so the LSTM may see this many samples more than a robot could."""


@np.errstate(under="ignore")  # a bump far from its point is 0, also where a program lets NumPy raise
def annotate(
    episodes: Sequence[Episode] | Iterable[Episode],
    *,
    method: str = "lstm",
    seed: int = 0,
    workers: int | None = None,
    extra: Iterable[np.ndarray] | None = None,
    fit: Sequence[int] | None = None,
    **options: Any,
) -> Annotation:
    """Gives every step of every episode its ρ, and finds the change points (M1-M5).

    Dead-bands and penalty are resolved once for the data set, the LSTM is trained once on it; both are kept in the
    annotator. The same episodes, options and seed give the same bits, on any number of processes.

    Args:
        episodes: demonstrations with the 9-per-arm proprioception of `gap_vla.core.episode.Episode`.
        method: "lstm" (default), "fixed", "change_points", "gaussian", "hdbscan", "cotpc" or "column".
        seed: of the LSTM; labels without one do not depend on it.
        workers: processes; None decides by the amount of work. Scripts that use several need the usual
            `if __name__ == "__main__":`.
        extra: T×E per episode, in their order: further joints or hand channels whose motion counts too (`segment`).
        fit: which episodes everything is fitted on, such as those of the training split; default: all.
        **options: fields of `methods.Options` (segmentation, bumps, …) and, where ρ comes from the LSTM, of
            `EstimatorSettings`.

    Raises:
        MotionError: unknown method or option, no episode, or bad signals (file, episode, step and field are named).
        EpisodeError: proprioception that is not 9 per arm.

    >>> walk = np.zeros((40, 9), np.float32)
    >>> walk[:, 3], walk[:, 0] = 1, np.abs(np.arange(40) - 20) * 0.01
    >>> demo = Episode(images={}, proprio=walk, action=np.zeros((40, 7), np.float32))
    >>> annotation = annotate([demo], method="gaussian")
    >>> annotation.change_points[0], annotation.rho[0].shape
    (array([20]), (40,))
    """
    episodes = as_episodes(episodes)
    if not episodes:
        raise MotionError("there is no episode to annotate")
    seed = whole("seed", seed, 0, 2**64, MotionError)
    own, of_lstm = checked_options(method, options)
    if extra is None and "extra_weight" in options:
        raise MotionError("extra_weight: no effect without extra columns; leave it out")
    if extra is not None and options.get("dead_band") is not None:
        require_extra_band(options["dead_band"])
    if extra is None and own.dead_band is not None and own.dead_band[3] > FLOOR[3]:  # identities say it
        raise MotionError("dead_band has a fourth number: no effect without extra columns; leave it out")
    motions = motions_of(episodes, extra)
    last = len(episodes) - 1
    chosen = [whole("an episode of fit", i, 0, last, MotionError) for i in (range(last + 1) if fit is None else fit)]
    if not chosen:
        raise MotionError("there is no episode to fit the annotator on")
    if len({*chosen}) < len(chosen):
        raise MotionError("fit names an episode twice; the LSTM would be measured on what it has learnt")
    unit = opening_unit(episodes[chosen[0]])
    for episode, motion in zip(episodes, motions):
        require_columns(motion, motions[chosen[0]].columns)
        require_unit(episode, motion, unit)
    if own.arms == "each" and motions[chosen[0]].arms == 1:
        raise MotionError('arms="each": no effect with one arm; leave it out')
    if method_parts(method, own)[0] != "column":
        own = resolved(own, [motions[i] for i in chosen])
    points = find_points(method, own, episodes, motions, workers)
    estimator = None
    if method_parts(method, own)[1] == "lstm":
        estimator = PhaseEstimator(**of_lstm, seed=seed).fit([motions[i] for i in chosen], [points[i] for i in chosen])
    annotator = Annotator(method, own, seed, estimator, motions[chosen[0]].columns, unit)
    annotation = annotator.annotation(episodes, motions, points)
    return dataclasses.replace(annotation, report={"fitted_episodes": len(chosen), **annotation.report})


def checked_options(method: str, options: Mapping[str, Any], seed: int = 0) -> tuple[Options, dict[str, Any]]:
    """The options of `annotate`: those of change points and bumps, and those of the LSTM.

    Raises MotionError: an unknown option, one that the method does not use, or an impossible value; or a seed, other
    than 0, of a method that draws nothing.
    """
    estimator_fields = {f.name for f in dataclasses.fields(EstimatorSettings)} - {"seed"}
    if unknown := set(options) - set(OPTIONS) - estimator_fields:
        raise MotionError(
            f"unknown option {', '.join(sorted(unknown))}; known are "
            f"{', '.join(sorted(OPTIONS))}; for the LSTM {', '.join(sorted(estimator_fields))}"
        )
    own = Options.of({k: v for k, v in options.items() if k in OPTIONS})
    of_lstm = {k: v for k, v in options.items() if k in estimator_fields}
    used = _used(method, own)
    if "seed" in used:
        of_lstm.setdefault("lookahead", LABEL_LOOKAHEAD)
    if idle := sorted({*options, *(["seed"] if seed else [])} - used):
        deciding = [f"rho {options['rho']!r}"] if "rho" in options and "rho" not in idle else []
        deciding += ["n_change_points"] if own.n_change_points is not None else []
        told = " and ".join([f"method {method!r}", *deciding])
        raise MotionError(f"{', '.join(idle)}: no effect with {told}; leave it out")
    EstimatorSettings(**of_lstm)
    return own, of_lstm


def options_of(method: str, options: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], int]:
    """Of checked options and a seed that were given for another method, what this one uses; a seed of 0 else.

    >>> options_of("gaussian", {"penalty": 2.0, "lookahead": 0}, 7)
    ({'penalty': 2.0}, 0)
    """
    used = _used(method, Options.of({k: v for k, v in options.items() if k in OPTIONS}))
    return {k: v for k, v in options.items() if k in used}, seed if "seed" in used else 0


def _used(method: str, own: Options) -> set[str]:
    """The options that a method looks at; "seed" among them where the LSTM makes ρ."""
    parts = method_parts(method, own)
    used = {name for part in parts for name in USED.get(part, ())}
    used |= set() if METHODS[method][1] else {"rho"}
    if parts[1] == "lstm":
        used |= {field.name for field in dataclasses.fields(EstimatorSettings)}
    return used - ({"penalty", "stroke"} if own.n_change_points is not None else set())  # so many, whatever they cost
