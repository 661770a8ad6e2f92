"""The entry of this room: episodes in, labels (ρ and change points) out, and an annotator for later episodes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import OPENING_UNIT, Episode, label_problems
from gap_vla.core.foreign import Section, refusing, whole
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import PATIENCE, watched
from gap_vla.core.whole import write_json
from gap_vla.phases.estimator import EstimatorSettings, PhaseEstimator
from gap_vla.phases.measures import label_report, notes
from gap_vla.phases.methods import LABELS_NAME, METHODS, OPTIONS, POINTS, RHO, USED, Options, method_parts, resolved
from gap_vla.phases.motion import Motion, MotionError, motion_of, require_columns
from gap_vla.phases.saving import read_arrays, write_arrays

PAIRS_WORTH_PROCESSES = 2e9
"""Below this many pairs of samples (about a minute of search on one core) new processes cost more than they save."""

LABEL_LOOKAHEAD = 2
"""Labels are made after the fact, so the LSTM may see this many samples more than a robot could; `lookahead=0` is
causal. What it gains is in docs/PHASES.md."""


def annotate(
    episodes: Sequence[Episode],
    *,
    method: str = "lstm",
    seed: int = 0,
    workers: int | None = None,
    extra: Sequence[np.ndarray] | None = None,
    fit: Sequence[int] | None = None,
    **options: Any,
) -> Annotation:
    """Gives every step of every episode its ρ, and finds the change points (M1-M5).

    Dead-bands and penalty are resolved once for the data set, the LSTM is trained once on it; both are kept in the
    annotator. The same episodes, options and seed give the same bits, on any number of processes.

    Where the data have a split, everything is fitted on the training episodes alone (`fit`), so that the labels of
    the others are predictions.

    Args:
        episodes: demonstrations with the 9-per-arm proprioception of `gap_vla.core.episode.Episode`.
        method: "lstm" (default), "fixed", "change_points", "gaussian", "hdbscan", "cotpc" or "column".
        seed: of the LSTM; labels without one do not depend on it.
        workers: processes; None decides by the amount of work. Scripts that use several need the usual
            `if __name__ == "__main__":`.
        extra: T×E per episode, further joints or hand channels whose motion counts too (`segment`).
        fit: which episodes the annotator is fitted on; default: all.
        **options: fields of `methods.Options` (segmentation, bumps, …) and, where ρ comes from the LSTM, of
            `EstimatorSettings`.

    Returns:
        Annotation.

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
    if not episodes:
        raise MotionError("there is no episode to annotate")
    own, of_lstm = checked_options(method, options)
    if extra is None and "extra_weight" in options:
        raise MotionError("extra_weight: no effect without extra columns; leave it out")
    motions = _motions(episodes, extra)
    last = len(episodes) - 1
    chosen = [whole("an episode of fit", i, 0, last, MotionError) for i in (range(last + 1) if fit is None else fit)]
    if not chosen:
        raise MotionError("there is no episode to fit the annotator on")
    if len({*chosen}) < len(chosen):
        raise MotionError("fit names an episode twice; the LSTM would be measured on what it has learnt")
    unit = opening_unit(episodes[chosen[0]])
    for episode, motion in zip(episodes, motions):
        require_columns(motion, motions[chosen[0]].columns)
        _require_unit(episode, motion, unit)
    if own.arms == "each" and motions[chosen[0]].arms == 1:
        raise MotionError('arms="each": no effect with one arm; leave it out')
    if method_parts(method, own)[0] != "column":
        own = resolved(own, [motions[i] for i in chosen])
    points = _find_points(method, own, episodes, motions, workers)
    estimator = None
    if method_parts(method, own)[1] == "lstm":
        estimator = PhaseEstimator(**of_lstm, seed=seed).fit([motions[i] for i in chosen], [points[i] for i in chosen])
    annotation = Annotator(method, own, seed, estimator, motions[chosen[0]].columns, unit)._annotation(motions, points)
    return dataclasses.replace(annotation, report={"fitted_episodes": len(chosen), **annotation.report})


def checked_options(method: str, options: Mapping[str, Any], seed: int = 0) -> tuple[Options, dict[str, Any]]:
    """The options of `annotate`: those of change points and bumps, and those of the LSTM.

    Raises:
        MotionError: an unknown option, one that the method does not use, or an impossible value; or a seed, other than
            0, of a method that draws nothing.
    """
    estimator_fields = {f.name for f in dataclasses.fields(EstimatorSettings)} - {"seed"}
    if unknown := set(options) - set(OPTIONS) - estimator_fields:
        raise MotionError(
            f"unknown option {', '.join(sorted(unknown))}; known are "
            f"{', '.join(sorted(OPTIONS))}; for the LSTM {', '.join(sorted(estimator_fields))}"
        )
    own = Options.of({k: v for k, v in options.items() if k in OPTIONS})
    of_lstm = {k: v for k, v in options.items() if k in estimator_fields}
    parts = method_parts(method, own)
    used = {name for part in parts for name in USED.get(part, ())}
    used |= set() if METHODS[method][1] else {"rho"}
    if parts[1] == "lstm":
        used |= {"seed", *estimator_fields}
        of_lstm.setdefault("lookahead", LABEL_LOOKAHEAD)
    if own.n_change_points is not None:
        used -= {"penalty", "stroke"}  # so many change points, whatever they cost
    if idle := sorted({*options, *(["seed"] if seed else [])} - used):
        counted = "" if own.n_change_points is None else " and n_change_points"
        raise MotionError(f"{', '.join(idle)}: no effect with method {method!r}{counted}; leave it out")
    EstimatorSettings(**of_lstm)
    return own, of_lstm


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
    """Of the openings that it was fitted on, "m" or "1"; empty: not known."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able; equal identities give equal labels. `hash` covers the weights too."""
        record: dict[str, Any] = {
            "method": self.method,
            "options": self.options.record(),
            "seed": self.seed,
            "version": LABELS_NAME,
        }
        if self.estimator is not None:
            record["estimator"] = self.estimator.settings.record()
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
        if self.estimator is not None:
            for name, value in self.estimator.weights._asdict().items():
                digest.update(name.encode() + value.tobytes())
        return {**record, "hash": digest.hexdigest()[:16]}

    def annotate(
        self,
        episodes: Sequence[Episode],
        *,
        workers: int | None = None,
        extra: Sequence[np.ndarray] | None = None,
    ) -> Annotation:
        """The labels of new episodes; nothing is fitted.

        Raises:
            MotionError: bad signals, or other columns than the estimator was trained on.
        """
        motions = _motions(episodes, extra)
        for episode, motion in zip(episodes, motions):
            if self.columns:
                require_columns(motion, self.columns)
            if self.unit:
                _require_unit(episode, motion, self.unit)
        return self._annotation(motions, _find_points(self.method, self.options, episodes, motions, workers))

    def save(self, directory: str | Path) -> Path:
        """Writes annotator.json and, with an LSTM, estimator.safetensors and estimator.json."""
        directory = Path(directory)
        if self.estimator is not None:
            self.estimator.save(directory)
        unit = {OPENING_UNIT: self.unit} if self.unit else {}
        write_json(directory / "annotator.json", {"format": 1, **self.identity, "columns": dict(self.columns), **unit})
        return directory

    def _annotation(self, motions: Sequence[Motion], points: list[np.ndarray]) -> Annotation:
        maker = RHO[method_parts(self.method, self.options)[1]]
        if maker is None:
            assert self.estimator is not None
            rho = watched(map(self.estimator.predict, motions), "ρ", len(motions), "episode", PATIENCE)
        else:
            rho = [maker(p, len(motion), self.options) for motion, p in zip(motions, points)]
        report = label_report(rho, points)
        if self.estimator is not None:
            report["estimator"] = self.estimator.report
        report["notes"] = notes(report)
        return Annotation(rho, points, report, self.identity, self)


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Labels of a sequence of episodes.

    Attributes:
        rho: f32[T] per episode, in [0, 1].
        change_points: int64[K] per episode.
        report: JSON-able figures: rate of change points, mean ρ, ρ by distance, held-out loss, calibration, and
            `notes`, what a user should know before using the labels.
        identity: JSON-able identity of the annotator.
        annotator: annotates further episodes in the same way.
    """

    rho: list[np.ndarray]
    change_points: list[np.ndarray]
    report: dict[str, Any]
    identity: dict[str, Any]
    annotator: Annotator

    def labels(self, index: int) -> dict[str, np.ndarray]:
        """`rho` and `change_point` of one episode; these are bool[T], True at the first steps of its segments but the
        first."""
        flags = np.zeros(len(self.rho[index]), bool)
        flags[self.change_points[index]] = True
        return {"rho": self.rho[index], "change_point": flags}

    def apply(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The episodes with `rho` and `change_point` filled in.

        Raises:
            MotionError: these are not the episodes that were annotated (number or lengths differ).
        """
        if [len(e) for e in episodes] != [len(r) for r in self.rho]:
            raise MotionError("the episodes differ in number or length from those that were annotated")
        return [episode.replace(**self.labels(i)) for i, episode in enumerate(episodes)]

    def save(self, directory: str | Path) -> Path:
        """Writes the annotator, labels.safetensors and labels.json into the directory."""
        directory = self.annotator.save(directory)
        arrays = {
            "rho": np.concatenate([np.zeros(0, np.float32), *self.rho]),
            "lengths": np.array([len(r) for r in self.rho], np.int64),
            "change_points": np.concatenate([np.zeros(0, np.int64), *self.change_points]),
            "counts": np.array([len(p) for p in self.change_points], np.int64),
        }
        return write_arrays(directory, "labels", arrays, {"report": self.report, "identity": self.identity})

    @classmethod
    def load(cls, directory: str | Path) -> Annotation:
        """Reads what `save` wrote. Raises MotionError: they cannot be labels, or were changed."""
        arrays, record = read_arrays(Path(directory), "labels")
        with refusing(f"{directory}: no labels that can be", f"delete {directory}", MotionError):
            sizes = {"rho": "lengths", "change_points": "counts"}
            rho, points = (np.split(arrays[name], np.cumsum(arrays[size])[:-1]) for name, size in sizes.items())
            annotator = load_annotator(directory)
            if record["identity"] != json.loads(json.dumps(annotator.identity, default=str)):
                raise MotionError(f"{directory}: its labels are of another annotator; delete {directory}")
            annotation = cls(rho, points, record["report"], record["identity"], annotator)
            if wrong := [text for i in range(len(rho)) for text, _ in label_problems(annotation.labels(i))]:
                raise MotionError(f"{directory}: a {wrong[0]}; delete {directory}")
        return annotation


def load_annotator(directory: str | Path) -> Annotator:
    """The annotator that `Annotator.save` or `Annotation.save` wrote.

    Raises:
        FileNotFoundError: there is none in the directory.
        MotionError: its files do not belong together, or this version does not know them.

    >>> import tempfile
    >>> demo = Episode({}, np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 0, 0]), (9, 1)), np.zeros((9, 7), np.float32))
    >>> annotation = annotate([demo], method="fixed", value=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     later = load_annotator(annotation.save(folder)).annotate([demo])
    >>> later.rho[0][:2], later.identity == annotation.identity
    (array([0.25, 0.25], dtype=float32), True)
    """
    path = Path(directory) / "annotator.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no annotator.json; was an annotation saved there?")
    advice = "make it again: gap-vla annotate SOURCE --out COPY"
    with refusing(f"{path}: not an annotator that this version reads", advice, MotionError):
        record = Section.read(path, MotionError)
        record.whole("format", 1, 1)
        estimator = PhaseEstimator.load(directory) if "estimator" in record else None
        try:
            options = Options.of(record.section("options").values)
        except MotionError as problem:
            raise MotionError(f"{path}: {problem}; {advice}") from None
        method = record.choice("method", list(METHODS))
        own = record.section("columns", {})
        columns = {key: own.whole(key, 0, 2**31) for key in ("arms", "rotations", "others")} if own.values else {}
        unit = record.choice(OPENING_UNIT, ["m", "1"]) if OPENING_UNIT in record else ""
        annotator = Annotator(method, options, record.whole("seed", 0, 2**64), estimator, columns, unit)
        if method_parts(annotator.method, annotator.options)[1] == "lstm" and estimator is None:
            raise MotionError(f"{path}: method {annotator.method!r} without an estimator; make it again")
        version = record.choice("version", sorted({"0.1.0", LABELS_NAME}))
        if version == LABELS_NAME and annotator.identity["hash"] != record.text("hash"):
            raise MotionError(f"{path}: its hash does not fit the files beside it; annotate again")
    return annotator


def opening_unit(episode: Episode) -> str:
    """ "m", or "1" for a number without unit: of the episode's gripper columns."""
    return str(episode.metadata.get(OPENING_UNIT, "m"))


def _require_unit(episode: Episode, motion: Motion, fitted: str) -> None:
    if (found := opening_unit(episode)) != fitted:
        units = {"m": "in m", "1": "numbers without unit"}
        raise MotionError(
            f"{motion.where}: gripper openings are {units.get(found, found)}, those that the annotator was fitted on "
            f"{units[fitted]}; fit another one, or say with the layout what the columns are"
        )


def _motions(episodes: Sequence[Episode], extra: Sequence[np.ndarray] | None) -> list[Motion]:
    if extra is not None and len(extra) != len(episodes):
        raise MotionError(f"{len(episodes)} episodes but extra columns for {len(extra)}")
    numbered = [dataclasses.replace(e, metadata={"episode_id": i, **e.metadata}) for i, e in enumerate(episodes)]
    return [motion_of(e, None if extra is None else extra[i]) for i, e in enumerate(numbered)]


def _find_points(
    method: str, options: Options, episodes: Sequence[Episode], motions: Sequence[Motion], workers: int | None
) -> list[np.ndarray]:
    finder = POINTS[method_parts(method, options)[0]]
    workers = None if workers is None else whole("workers", workers, 1, 1024, MotionError)
    if workers is None:
        pairs = sum(len(m) * min(len(m), options.max_segment or len(m)) for m in motions)
        workers = (os.cpu_count() or 1) if pairs > PAIRS_WORTH_PROCESSES else 1
    jobs = motions, [episode.phase for episode in episodes], itertools.repeat(options)
    progress = "change points", len(motions), "episode", PATIENCE
    if workers <= 1 or len(motions) < 2:
        return watched(map(finder, *jobs), *progress)
    with worker_pool(min(workers, len(motions))) as pool:
        return watched(pool.map(finder, *jobs, chunksize=max(1, len(motions) // (8 * workers))), *progress)
