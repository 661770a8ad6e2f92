"""What annotates later episodes as the first were, the labels it gives, and both on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import OPENING_UNIT, Episode, label_problems
from gap_vla.core.foreign import Section, refusing, shown, whole
from gap_vla.core.identity import digest as identity_digest
from gap_vla.core.identity import plain
from gap_vla.core.processes import worker_pool
from gap_vla.core.progress import PATIENCE, Progress, watched
from gap_vla.core.whole import write_json
from gap_vla.phases.estimator import PhaseEstimator
from gap_vla.phases.measures import label_report, notes
from gap_vla.phases.methods import LABELS_NAME, METHODS, POINTS, RHO, Options, method_parts
from gap_vla.phases.motion import Motion, MotionError, farthest, motion_of, require_columns
from gap_vla.phases.saving import read_arrays, write_arrays
from gap_vla.phases.segmentation import interruptible

PAIRS_WORTH_PROCESSES = 2e9
"""Below this many pairs of samples (about a minute of search on one core) new processes cost more than they save."""


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
    extra: tuple[str, ...] = ()
    """What the extra columns that it was fitted on are called, if they are of files; empty: not known, or none."""

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

    @np.errstate(under="ignore")
    def annotate(
        self,
        episodes: Sequence[Episode] | Iterable[Episode],
        *,
        workers: int | None = None,
        extra: Iterable[np.ndarray] | None = None,
    ) -> Annotation:
        """The labels of new episodes; nothing is fitted.

        Raises MotionError: what is no episode, bad signals, or other columns than the estimator was trained on.
        """
        episodes = list(as_episodes(episodes))
        motions = motions_of(episodes, extra)
        for episode, motion in zip(episodes, motions):
            if self.columns:
                require_columns(motion, self.columns)
            if self.unit:
                require_unit(episode, motion, self.unit)
        return self.annotation(episodes, motions, find_points(self.method, self.options, episodes, motions, workers))

    def save(self, directory: str | Path) -> Path:
        """Writes annotator.json and, with an LSTM, estimator.safetensors and estimator.json."""
        directory = Path(directory)
        if self.estimator is not None:
            self.estimator.save(directory)
        unit = {OPENING_UNIT: self.unit} if self.unit else {}
        beside = {"columns": dict(self.columns), **unit, **({"extra": list(self.extra)} if self.extra else {})}
        record = {"format": 1, **self.identity, **beside, "beside_hash": identity_digest(beside, 16)}
        write_json(directory / "annotator.json", record)
        return directory

    def annotation(
        self, episodes: Sequence[Episode], motions: Sequence[Motion], points: list[np.ndarray]
    ) -> Annotation:
        """ρ of episodes whose change points are found, with its report."""
        made_by = method_parts(self.method, self.options)[1]
        maker = RHO[made_by]
        if maker is None:
            assert self.estimator is not None
            rho = watched(map(self.estimator.predict, motions), "ρ", len(motions), "episode", PATIENCE)
        else:
            rho = [maker(p, len(motion), self.options) for motion, p in zip(motions, points)]
        report = label_report(rho, points)
        report["reach"] = max((farthest(motion) for motion in motions), default=0.0)
        if self.estimator is not None:
            report["estimator"] = self.estimator.report
        report["rho_by"] = made_by
        report["notes"] = notes(report)
        return Annotation(rho, points, report, self.identity, self, digests(episodes))


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
    """A digest of each episode's proprioception."""

    def labels(self, index: int) -> dict[str, np.ndarray]:
        """`rho` and `change_point` of one episode; these are bool[T], True where a segment but the first begins.

        Raises MotionError: there is no episode of this index.
        """
        index = whole("the index of an episode", index, -len(self.rho), len(self.rho) - 1, MotionError)
        flags = np.zeros(len(self.rho[index]), bool)
        flags[self.change_points[index]] = True
        return {"rho": self.rho[index], "change_point": flags}

    def apply(self, episodes: Iterable[Episode]) -> list[Episode]:
        """The episodes with `rho` and `change_point` filled in.

        Raises MotionError: these are not the episodes that were annotated (number, order or proprioception differ), or
        none.
        """
        episodes = list(as_episodes(episodes))
        if odd := [episode for episode in episodes if not isinstance(episode, Episode)]:
            raise MotionError(_no_episode(odd[0]))
        if self.labelled != digests(episodes):
            raise MotionError(
                "the episodes differ in number, order or proprioception from those that were annotated; keep them in "
                "order, and apply labels before you change them"
            )
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
        record = {"report": self.report, "identity": self.identity, "labelled": list(self.labelled)}
        record["labelled_hash"] = identity_digest({"labelled": record["labelled"]}, 16)
        return write_arrays(directory, "labels", arrays, record)

    @classmethod
    def load(cls, directory: str | Path) -> Annotation:
        """Reads what `save` wrote. Raises MotionError: they cannot be labels, or were changed."""
        arrays, record = read_arrays(Path(directory), "labels")
        with refusing(f"{directory}: no labels that can be", f"delete {directory}", MotionError):
            sizes = {"rho": "lengths", "change_points": "counts"}
            parts = {name: np.split(arrays[name], np.cumsum(arrays[size])[:-1]) for name, size in sizes.items()}
            rho, points = (parts[name][: len(arrays[size])] for name, size in sizes.items())  # none of no episode
            known = identity_digest({"labelled": record["labelled"]}, 16)
            if len(record["labelled"]) != len(rho) or record.get("labelled_hash", known) != known:
                raise MotionError(f"{directory}: labelled is not as it was written; delete {directory}")
            annotator = load_annotator(directory)
            if record["identity"] != json.loads(json.dumps(plain(annotator.identity, "identity", MotionError))):
                raise MotionError(f"{directory}: its labels are of another annotator; delete {directory}")
            annotation = cls(rho, points, record["report"], record["identity"], annotator, tuple(record["labelled"]))
            if wrong := [text for i in range(len(rho)) for text, _ in label_problems(annotation.labels(i))]:
                raise MotionError(f"{directory}: a {wrong[0]}; delete {directory}")
        return annotation


def load_annotator(directory: str | Path) -> Annotator:
    """The annotator that `Annotator.save` or `Annotation.save` wrote.

    Raises FileNotFoundError: there is none in the directory. MotionError: its files do not belong together, or are of
    another version.

    >>> import tempfile
    >>> from gap_vla.phases import annotate
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
        beside = {key: record.values[key] for key in ("columns", OPENING_UNIT, "extra") if key in record}
        if record.values.get("beside_hash", known := identity_digest(beside, 16)) != known:
            keys = ", ".join(beside) or "columns"
            raise MotionError(f"{path}: {keys} are not as they were written; {advice}")
        own = record.section("columns", {})
        columns = {key: own.whole(key, 0, 2**31) for key in ("arms", "rotations", "others")} if own.values else {}
        unit = record.choice(OPENING_UNIT, ["m", "1"]) if OPENING_UNIT in record else ""
        extra = tuple(map(str, record.values.get("extra", ())))
        annotator = Annotator(method, options, record.whole("seed", 0, 2**64), estimator, columns, unit, extra)
        if method_parts(annotator.method, annotator.options)[1] == "lstm" and estimator is None:
            raise MotionError(f"{path}: method {annotator.method!r} without an estimator; make it again")
        version = record.choice("version", sorted({"0.1.0", LABELS_NAME}))
        if version == LABELS_NAME and annotator.identity["hash"] != record.text("hash"):
            raise MotionError(f"{path}: its hash does not fit the files beside it; annotate again")
    return annotator


def digests(episodes: Sequence[Episode]) -> tuple[str, ...]:
    """Of each episode's proprioception."""
    states = (np.ascontiguousarray(episode.proprio, np.float32) for episode in episodes)
    return tuple(hashlib.sha256(state.tobytes()).hexdigest()[:16] for state in states)


_UNITS = {"m": "in m", "1": "numbers without unit"}


def opening_unit(episode: Episode) -> str:
    """ "m", or "1" for a number without unit: of the episode's gripper columns.

    Raises MotionError: its metadata say another unit.
    """
    unit = episode.metadata.get(OPENING_UNIT, "m")
    unit = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)  # as h5py gives texts
    if unit not in _UNITS:
        raise MotionError(
            f'{episode.name}: {OPENING_UNIT} of the metadata is {shown(unit)}; it is "m", or "1" for a number without '
            "unit, as of an angle"
        )
    return unit


def require_unit(episode: Episode, motion: Motion, fitted: str) -> None:
    if (found := opening_unit(episode)) != fitted:
        raise MotionError(
            f"{motion.where}: gripper openings are {_UNITS[found]}, those that the annotator was fitted on "
            f"{_UNITS[fitted]}; fit another one, or say with the layout what the columns are"
        )


def as_episodes(given: Iterable[Episode]) -> Sequence[Episode]:
    """A sequence of them, which may read each when it is asked for; raises MotionError for a path or None."""
    if isinstance(given, str) or not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
        raise MotionError(_no_episode(given))
    return given if isinstance(given, Sequence) else [*given]


def _no_episode(found: Any) -> str:
    return f"{shown(found)} is no Episode; give those of gap_vla.demos.open_source(PATH, kind=…)"


def _numbered(index: int, episode: Episode) -> Episode:
    if not isinstance(episode, Episode):
        raise MotionError(_no_episode(episode))
    return dataclasses.replace(episode, metadata={"episode_id": index, **episode.metadata})


def motions_of(episodes: Sequence[Episode], extra: Iterable[np.ndarray] | None) -> list[Motion]:
    """Of episodes, with the extra columns of each in order: a table's column is numbered otherwise after a shuffle."""
    if isinstance(extra, Mapping):
        raise MotionError("extra is a dictionary; give a list of columns, in the order of the episodes")
    given = [None] * len(episodes) if extra is None else list(extra)
    if len(given) != len(episodes):
        raise MotionError(f"{len(episodes)} episodes but extra columns for {len(given)}")
    numbered = [_numbered(*each) for each in enumerate(episodes)]
    for episode in numbered:
        episode.require_rows()
    return [motion_of(e, columns) for e, columns in zip(numbered, given)]


def find_points(
    method: str, options: Options, episodes: Sequence[Episode], motions: Sequence[Motion], workers: int | None
) -> list[np.ndarray]:
    finder = POINTS[method_parts(method, options)[0]]
    workers = None if workers is None else whole("workers", workers, 1, 1024, MotionError)
    if workers is None:
        pairs = sum(len(m) * min(len(m), options.max_segment or len(m)) for m in motions)
        may = not current_process().daemon  # as a worker of multiprocessing.Pool is
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = cores if pairs > PAIRS_WORTH_PROCESSES and may else 1
    jobs = motions, [episode.phase for episode in episodes], itertools.repeat(options)
    if workers <= 1 or len(motions) < 2:
        return watched(map(finder, *jobs), "change points", len(motions), "episode", PATIENCE)
    found: list[np.ndarray] = []
    with worker_pool(min(workers, len(motions))) as pool:
        progress = Progress("change points", len(motions), "episode", after=PATIENCE, out=sys.stderr)
        coming = pool.map(finder, *jobs, chunksize=max(1, len(motions) // (8 * workers)))
        interruptible(lambda: found.extend(coming), lambda: progress.update(len(found)))
    return found
