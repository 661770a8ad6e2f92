"""The entry of this room: episodes in, labels (ρ and change points) out, and an annotator for later episodes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import current_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gap_vla.core.config import build, choose
from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError, EpisodeError
from gap_vla.core.files import read_json, write_json
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import PATIENCE, watched
from gap_vla.phases.estimator import EstimatorSettings, PhaseEstimator
from gap_vla.phases.measures import label_report, notes, require_marks
from gap_vla.phases.methods import LABELS_NAME, METHODS, POINTS, RHO, USED, Options, method_parts, resolved
from gap_vla.phases.motion import Motion, distinct_rows, motion_of

LABEL_LOOKAHEAD = 2
"""Labels are made after the fact, so the LSTM may see this many samples more than a robot could."""

PAIRS_WORTH_PROCESSES = 2e9
"""Below this many pairs of samples (about a minute of search on one core) new processes cost more than they save."""


def annotate(
    episodes: Iterable[Episode],
    *,
    method: str = "lstm",
    seed: int = 0,
    workers: int | None = None,
    extra: Iterable[np.ndarray] | None = None,
    fit: Sequence[int] | None = None,
    check: bool = True,
    **options: Any,
) -> Annotation:
    """Gives every step of every episode its ρ, and finds the change points (M1-M5).

    Dead-bands and penalty are resolved once for the data set, the LSTM is trained once on it; both are kept in the
    annotator. The same episodes, options and seed give the same bits, on any number of processes.

    Args:
        episodes: demonstrations whose columns hold a position or joints (`Episode.columns`), which "fixed" and
            "column" do not need; each is read once.
        method: "lstm" (default), "fixed", "change_points", "gaussian", "hdbscan", "cotpc" or "column".
        seed: of the LSTM; labels without one do not depend on it.
        workers: processes; None decides by the amount of work. Scripts that use several need the usual
            `if __name__ == "__main__":`.
        extra: T×E per episode, in their order: further joints or hand channels whose motion counts too (`segment`).
        fit: which episodes everything is fitted on, such as those of the training split; default: all.
        check: False: a ρ that marks few of its own change points stands in the notes of the report, and is no error.
        **options: fields of `methods.Options` (segmentation, bumps, …) and, where ρ comes from the LSTM, of
            `EstimatorSettings`.

    Raises:
        ConfigError: unknown method or option.
        EpisodeError: no episode, columns without position and joints, or bad signals (the episode and step are named).
        WeakRho: the LSTM's ρ is above one half at fewer than half of the change points.

    >>> from gap_vla.core.columns import POSE
    >>> walk = np.zeros((40, 9), np.float32)
    >>> walk[:, 3], walk[:, 0] = 1, np.abs(np.arange(40) - 20) * 0.01
    >>> demo = Episode(images={}, proprio=walk, action=np.zeros((40, 7), np.float32), columns=POSE)
    >>> annotation = annotate([demo], method="gaussian")
    >>> annotation.change_points[0], annotation.rho[0].shape
    (array([20]), (40,))
    """
    own, of_lstm = checked_options(method, options)
    recordings = _read(episodes, extra, looks_at_motion(method, own))
    fitted = recordings if fit is None else [recordings[i] for i in fit]
    if not fitted:
        raise EpisodeError("there is no episode to fit the annotator on")
    for recording in recordings:
        _require_like(recording, fitted[0].motion.columns, fitted[0].unit)
    motions = [recording.motion for recording in fitted]
    points_by, rho_by = method_parts(method, own)
    scale = own.scale  # else the LSTM measures the phases that were found
    if points_by != "column":
        own = resolved(own, motions)
    points = _find_points(method, own, recordings, workers)
    estimator = None
    if rho_by == "lstm":
        chosen = points if fit is None else [points[i] for i in fit]
        estimator = PhaseEstimator(**of_lstm, scale=scale, seed=seed).fit(motions, chosen)
    annotator = Annotator(method, own, seed, estimator, fitted[0].motion.columns, fitted[0].unit)
    annotation = annotator._annotation(recordings, points)
    if check:
        require_marks(annotation.report)
    return dataclasses.replace(annotation, report={"fitted_episodes": len(fitted), **annotation.report})


def checked_options(method: str, options: Mapping[str, Any], seed: int = 0) -> tuple[Options, dict[str, Any]]:
    """The options of `annotate`: those of change points and bumps, and those of the LSTM.

    Raises ConfigError: an unknown option, one that the method does not use, or an impossible value; or a seed, other
    than 0, of a method that draws nothing.
    """
    for name in options:
        choose(name, sorted(OPTIONS | OF_LSTM), "option")
    own = build(Options, {k: v for k, v in options.items() if k in OPTIONS})
    of_lstm = {k: v for k, v in options.items() if k in OF_LSTM}
    used = _used(method, own)
    if idle := sorted({*options, *(["seed"] if seed else [])} - used):
        raise ConfigError(f"{', '.join(idle)}: no effect with method {method!r} and its other options; leave it out")
    if "seed" in used:
        of_lstm = {"lookahead": LABEL_LOOKAHEAD, **of_lstm}
        build(EstimatorSettings, of_lstm)
    return own, of_lstm


def options_of(method: str, options: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], int]:
    """Of checked options and a seed that were given for another method, what this one uses; a seed of 0 else.

    >>> options_of("gaussian", {"penalty": 2.0, "lookahead": 0}, 7)
    ({'penalty': 2.0}, 0)
    """
    used = _used(method, build(Options, {k: v for k, v in options.items() if k in OPTIONS}))
    return {k: v for k, v in options.items() if k in used}, seed if "seed" in used else 0


IDENTITY = ("method", "options", "seed", "version", "estimator", "hash")
OPTIONS = {field.name for field in dataclasses.fields(Options)}
OF_LSTM = {field.name for field in dataclasses.fields(EstimatorSettings)} - {"seed", "scale"}


def _used(method: str, own: Options) -> set[str]:
    """The options that a method looks at; "seed" among them where the LSTM makes ρ."""
    parts = method_parts(method, own)
    used = {name for part in parts for name in USED.get(part, ())}
    used |= set() if METHODS[method][1] else {"rho"}
    used |= {*OF_LSTM, "scale", "seed"} if parts[1] == "lstm" else set()
    return used - ({"penalty", "stroke"} if own.n_change_points is not None else set())  # so many, whatever they cost


@dataclasses.dataclass(frozen=True)
class Annotator:
    """All that annotates an episode: method, resolved options, seed and, where there is one, the trained LSTM."""

    method: str
    options: Options
    seed: int
    estimator: PhaseEstimator | None
    columns: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Of what it was fitted on, as `Motion.columns` counts them; empty: not known (annotators before 0.2)."""
    unit: str = ""
    """Of what it was fitted on, as `opening_unit` says it; empty: not known."""
    extra: tuple[str, ...] = ()
    """What the extra columns that it was fitted on are called, if they are of files; empty: not known, or none."""
    stored: Mapping[str, Any] | None = None
    """The identity that stands in its file, if it was loaded."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able; equal identities give equal labels. `hash` covers the weights too."""
        if self.stored is not None:
            return dict(self.stored)
        record: dict[str, Any] = {
            "method": self.method,
            "options": self.options.record(),
            "seed": self.seed,
            "version": LABELS_NAME,
        }
        if self.estimator is not None:
            record["estimator"] = dataclasses.asdict(self.estimator.settings)
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
        if self.estimator is not None:
            for name, value in self.estimator.weights._asdict().items():
                digest.update(name.encode() + value.tobytes())
        return {**record, "hash": digest.hexdigest()[:16]}

    def annotate(
        self,
        episodes: Iterable[Episode],
        *,
        workers: int | None = None,
        extra: Iterable[np.ndarray] | None = None,
    ) -> Annotation:
        """The labels of new episodes; nothing is fitted.

        Raises EpisodeError: bad signals, or other columns than the annotator was fitted on.
        """
        recordings = _read(episodes, extra, looks_at_motion(self.method, self.options))
        for recording in recordings:
            _require_like(recording, self.columns, self.unit)
        return self._annotation(recordings, _find_points(self.method, self.options, recordings, workers))

    def save(self, directory: str | Path) -> Path:
        """Writes annotator.json and, with an LSTM, estimator.safetensors and estimator.json."""
        directory = Path(directory)
        if self.estimator is not None:
            self.estimator.save(directory)
        fitted_on = {"columns": dict(self.columns), "opening_unit": self.unit, "extra": list(self.extra)}
        write_json(directory / "annotator.json", {"format": 1, **self.identity, **fitted_on})
        return directory

    def _annotation(self, recordings: Sequence[Recording], points: list[np.ndarray]) -> Annotation:
        """ρ of recordings whose change points are found, with its report."""
        motions = [recording.motion for recording in recordings]
        made_by = method_parts(self.method, self.options)[1]
        if self.estimator is not None:
            rho = list(watched(map(self.estimator.predict, motions), "ρ", len(motions), "episode", PATIENCE))
        else:
            rho = [RHO[made_by](p, len(motion), self.options) for motion, p in zip(motions, points)]
        rho = [recording.over_steps(values) for recording, values in zip(recordings, rho)]
        points = [recording.rows[found] for recording, found in zip(recordings, points)]
        report = label_report(rho, points)
        if self.estimator is not None:
            report["estimator"] = self.estimator.report
        report["rho_by"] = made_by
        report["notes"] = notes(report)
        labelled = tuple(recording.digest for recording in recordings)
        return Annotation(rho, points, report, self.identity, self, labelled)


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Labels of a sequence of episodes."""

    rho: list[np.ndarray]  # f32[T] per episode, in [0, 1]
    change_points: list[np.ndarray]  # int64[K] per episode
    report: dict[str, Any]
    """JSON-able: `label_report`, the estimator's losses and calibration, `rho_by` (what made ρ, of `methods.RHO`)
    and `notes`, what a user should know before using the labels."""
    identity: dict[str, Any]  # JSON-able, of the annotator
    annotator: Annotator  # annotates further episodes in the same way
    labelled: tuple[str, ...]
    """A digest of each episode's proprioception (`digest_of`)."""

    def labels(self, index: int) -> dict[str, np.ndarray]:
        """`rho` and `change_point` of one episode; these are bool[T], True where a segment but the first begins."""
        flags = np.zeros(len(self.rho[index]), bool)
        flags[self.change_points[index]] = True
        return {"rho": self.rho[index], "change_point": flags}

    def apply(self, episodes: Iterable[Episode]) -> list[Episode]:
        """The episodes with `rho` and `change_point` filled in.

        Raises EpisodeError: these are not the episodes that were annotated (number, order or proprioception differ).
        """
        episodes = list(episodes)
        if self.labelled != tuple(map(digest_of, episodes)):
            raise EpisodeError("the episodes differ in number, order or proprioception from those that were annotated")
        return [episode.replace(**self.labels(i)) for i, episode in enumerate(episodes)]


def load_annotator(directory: str | Path) -> Annotator:
    """The annotator that `Annotator.save` wrote.

    Raises FileNotFoundError: there is none in the directory. ConfigError: another version wrote it.

    >>> import tempfile
    >>> from gap_vla.core.columns import POSE
    >>> rows = np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 0, 0]), (9, 1))
    >>> demo = Episode({}, rows, np.zeros((9, 7), np.float32), columns=POSE)
    >>> annotation = annotate([demo], method="fixed", value=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     later = load_annotator(annotation.annotator.save(folder)).annotate([demo])
    >>> later.rho[0][:2], later.identity == annotation.identity
    (array([0.25, 0.25], dtype=float32), True)
    """
    path = Path(directory) / "annotator.json"
    record = read_json(path)
    if record.get("version") not in ("0.1.0", LABELS_NAME):
        raise ConfigError(f"{path}: another version wrote it; make it again: gap-vla annotate SOURCE --out COPY")
    return Annotator(
        record["method"],
        build(Options, record["options"]),
        record["seed"],
        PhaseEstimator.load(directory) if "estimator" in record else None,
        record.get("columns", {}),
        record.get("opening_unit", ""),
        tuple(record.get("extra", ())),
        {key: record[key] for key in IDENTITY if key in record},
    )


class Recording(NamedTuple):
    """What is kept of an episode while it is labelled."""

    motion: Motion
    phase: np.ndarray | None
    unit: str  # `opening_unit`
    digest: str
    rows: np.ndarray  # int64[R], the samples of the episode that `motion` and `phase` hold (`distinct_rows`)
    steps: int  # of the episode

    def over_steps(self, rho: np.ndarray) -> np.ndarray:
        """f32[T] of f32[R]: a sample that was left out has the ρ of the one before."""
        return rho[np.searchsorted(self.rows, np.arange(self.steps), side="right") - 1] if self.steps else rho


def digest_of(episode: Episode) -> str:
    """A digest of an episode's proprioception, by which labels know the episode that they belong to."""
    return hashlib.sha256(np.ascontiguousarray(episode.proprio, np.float32).tobytes()).hexdigest()[:16]


def opening_unit(episode: Episode) -> str:
    """ "m", or "1" for openings without unit; where phases are found in joints, the words of these before it."""
    words = [block.word for arm in episode.columns.arms for block in arm] if episode.columns else []
    of_joints = sorted({word for word in words if word.startswith("joints")}) if episode.moves_by_joints else []
    return ", ".join([*of_joints, "1" if "gripper_01" in words else "m"])


def looks_at_motion(method: str, options: Options) -> bool:
    """Whether ρ follows from what moves; if not, episodes need no pose, and those without one have no change points of
    their motion."""
    points, rho = method_parts(method, options)
    return rho == "lstm" or (points != "column" and rho != "fixed")


def _read(episodes: Iterable[Episode], extra: Iterable[np.ndarray] | None, moves: bool) -> list[Recording]:
    episodes = episodes if isinstance(episodes, Sequence) else list(episodes)
    given = [None] * len(episodes) if extra is None else list(extra)
    recordings = []
    for index, (episode, columns) in enumerate(zip(episodes, given, strict=True)):
        named = episode.replace(metadata={"episode_id": index, **episode.metadata})
        if moves or episode.has_pose or episode.moves_by_joints:
            motion = motion_of(named, columns)
        else:
            motion = Motion.of(np.zeros((len(episode), 3)), where=named.name)
        rows = distinct_rows(motion) if moves else np.arange(len(episode))
        phase = episode.phase if len(rows) == len(episode) else _at(episode.phase, rows)
        unit, digest = opening_unit(episode), digest_of(episode)
        recordings.append(Recording(motion.at(rows), phase, unit, digest, rows, len(episode)))
    return recordings


def _at(phase: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if phase is None else np.asarray(phase)[rows]


def _require_like(recording: Recording, columns: Mapping[str, int], unit: str) -> None:
    found, fitted = {**recording.motion.columns, "unit": recording.unit}, {**columns, "unit": unit}
    if any(fitted[key] not in (found.get(key), "") for key in fitted):
        raise EpisodeError(
            f"{recording.motion.where} has {found}; the annotator was fitted on {fitted}: fit another one, or give "
            "data of the same robot, with the same extra columns"
        )


def _find_points(
    method: str, options: Options, recordings: Sequence[Recording], workers: int | None
) -> list[np.ndarray]:
    finder = POINTS[method_parts(method, options)[0]]
    motions = [recording.motion for recording in recordings]
    if workers is None:
        pairs = sum(len(m) * min(len(m), options.max_segment or len(m)) for m in motions)
        may = not current_process().daemon  # as a worker of multiprocessing.Pool is
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = cores if pairs > PAIRS_WORTH_PROCESSES and may else 1
    jobs = motions, [recording.phase for recording in recordings], itertools.repeat(options)
    if workers <= 1 or len(motions) < 2:
        return list(watched(map(finder, *jobs), "change points", len(motions), "episode", PATIENCE))
    with worker_pool(min(workers, len(motions))) as pool:
        coming = pool.map(finder, *jobs, chunksize=max(1, len(motions) // (8 * workers)))
        return list(watched(coming, "change points", len(motions), "episode", PATIENCE))
