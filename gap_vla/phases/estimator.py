"""M5: the probability ρ_t that step t belongs to a motion transition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.foreign import Section
from gap_vla.core.typed_config import SEED, Bounds, check_numbers
from gap_vla.phases.measures import calibration, weighted_loss
from gap_vla.phases.motion import Motion, MotionError, require_columns
from gap_vla.phases.saving import read_arrays, write_arrays
from gap_vla.phases.segmentation import as_motion
from gap_vla.phases.targets import change_targets, soft_targets, step_numbers, step_weights

if TYPE_CHECKING:
    from gap_vla.phases.lstm import Weights

_UNTRAINED = "the estimator is not trained; call fit or load first"

LEAST_SCALE = 1e-6
"""A feature whose standard deviation is below this (m, rad) does not move; it is left unscaled."""


@dataclasses.dataclass(frozen=True)
class EstimatorSettings:
    """How the estimator is built and trained; saved with it.

    Attributes:
        hidden: width of each of the two LSTM layers.
        distance_weight: k of w(d) = k d²; the release has 0.005 (Meta-World) and 0.05 (MimicGen).
        greatest_weight: bound on w(d), or None.
        one_sided: d counts only the steps after a change point (the release, for MimicGen).
        spread: our addition, 0 is M5: if positive, targets are exp(-d² / 2 spread²), d in steps (seconds × rate), and
            all steps count alike.
        lookahead: ρ_t may depend on samples up to t + lookahead.
        epochs: passes over the recordings that are learnt; None: an epoch for every 50 time steps of them (each
            recording counted with its `lookahead` steps), at most 100 epochs and at least 100 updates.
        learning_rate: Adam's, decayed to zero along a half cosine.
        batch_size: recordings per update.
        held_out: share of the recordings that are not learnt: they choose the epoch whose weights are kept (least
            loss), and loss and calibration are measured on them; none of a single recording.
        max_steps: bound on the time steps seen in training; epochs are cut to it, but not below one, and recordings
            are then learnt in pieces of 100 steps, so that updates do not become few.
        seed: of initialisation, order and split.
    """

    hidden: Annotated[int, Bounds(1, 4096, "numbers of the LSTM's state")] = 64
    distance_weight: Annotated[float | int, Bounds(1e-12, 1e6, "weight of a step one step away")] = 0.005
    greatest_weight: Annotated[float | int | None, Bounds(1e-3, 1e12, "weight of a step; with none ρ is 1")] = None
    one_sided: bool = False
    spread: Annotated[float | int, Bounds(0, 1e6, "steps; 0 is M5")] = 0.0
    lookahead: Annotated[int, Bounds(0, 100_000, "steps that ρ sees ahead")] = 0
    epochs: Annotated[int | None, Bounds(1, 1_000_000, "passes over the recordings")] = None
    learning_rate: Annotated[float | int, Bounds(1e-10, 1, "about how far Adam moves a parameter in a step")] = 1e-2
    batch_size: Annotated[int, Bounds(1, 65_536, "recordings computed at once")] = 8
    held_out: Annotated[float | int, Bounds(0, 0.9, "some must be learnt from")] = 0.1
    max_steps: Annotated[int, Bounds(1, 10**12, "days of computing")] = 2_000_000
    seed: Annotated[int, SEED] = 0

    def __post_init__(self) -> None:
        check_numbers(self, "", MotionError)
        if self.spread and (self.greatest_weight is not None or self.distance_weight != 0.005):
            raise MotionError("spread replaces the weights w(d): give spread, or distance_weight and greatest_weight")

    def record(self) -> dict[str, Any]:
        """JSON-able; `spread` only where it is used, so that labels made before there was one keep their identity."""
        record = dataclasses.asdict(self)
        return record if self.spread else {k: v for k, v in record.items() if k != "spread"}


class PhaseEstimator:
    """An LSTM (2 × 64) that reads Δs_t and gives ρ_t in [0, 1] (M5).

    Δs holds displacement (m), rotation vector (rad) and the differences of the other columns between neighbouring
    samples, scaled by statistics that are saved with the weights; the first step is zero.

    Args:
        **settings: fields of `EstimatorSettings`.

    >>> rng = np.random.default_rng(0)
    >>> recordings = [Motion.of(np.cumsum(rng.normal(size=(30, 3)), axis=0)) for _ in range(3)]
    >>> estimator = PhaseEstimator(epochs=2, seed=1).fit(recordings, [np.array([10, 20])] * 3)
    >>> estimator.predict(recordings[0]).shape
    (30,)
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = EstimatorSettings(**settings)
        self.report: dict[str, Any] = {}
        self.columns: dict[str, int] = {}
        self._weights: Weights | None = None

    def fit(
        self,
        motions: Iterable[Motion],
        change_points: Iterable[np.ndarray],
    ) -> PhaseEstimator:
        """Trains on recordings and their change points; `report` then holds losses and calibration.

        Args:
            motions: recordings with the same columns.
            change_points: int64[K] for each, as from `segment`.

        Raises:
            MotionError: no steps at all, different columns, change points that are none of these recordings, or a
                `lookahead` of more than two samples that is as long as the longest recording. It stays as it was.
        """
        motions, change_points = list(motions), list(change_points)
        if len(motions) != len(change_points):
            raise MotionError(f"{len(motions)} recordings but change points for {len(change_points)}")
        change_points = [
            step_numbers(points, len(motion), f"{motion.where}: change points")
            for points, motion in zip(change_points, motions, strict=True)
        ]
        usable = [i for i, motion in enumerate(motions) if len(motion)]
        if not usable:
            raise MotionError("no recording has a step; there is nothing to learn ρ from")
        if (ahead := self.settings.lookahead) >= max(most := max(map(len, motions)), 3):
            raise MotionError(f"lookahead is {ahead}, the longest recording has {most} steps; lower it")
        before = self.columns, self._weights, self.report
        try:
            return self._fit(motions, change_points, usable)
        except BaseException:
            self.columns, self._weights, self.report = before
            raise

    def _fit(self, motions: Sequence[Motion], change_points: Sequence[np.ndarray], usable: list[int]) -> PhaseEstimator:
        from gap_vla.phases.lstm import Weights
        from gap_vla.phases.training import train

        self.columns = motions[usable[0]].columns
        features = {i: self.features(motions[i]) for i in usable}
        kept, held = held_out_split(usable, self.settings)
        stacked = np.concatenate([features[i][1:] for i in kept])
        scale = stacked.std(axis=0, dtype=np.float64) if len(stacked) else np.ones(self.width)
        scale = np.where(scale > LEAST_SCALE, scale, 1).astype(np.float32)
        examples = {i: self._example(features[i] / scale, change_points[i]) for i in usable}
        trained = train([examples[i] for i in kept], [examples[i] for i in held], self.settings)
        self._weights = Weights(mean=np.zeros(self.width, np.float32), scale=scale, **trained.arrays)
        learnt = {features[i].tobytes() for i in kept if features[i].any()}
        copies = sum(features[i].tobytes() in learnt for i in held)
        self.report = {
            "recordings": len(usable),
            "held_out_recordings": len(held),
            **({"held_out_copies": copies} if copies else {}),
            "epochs": len(trained.losses),
            "kept_epoch": trained.kept + 1,
            "train_loss": trained.losses[trained.kept],
            **self._measure(motions, change_points, held),
        }
        return self

    @property
    def width(self) -> int:
        return 3 * self.columns["arms"] * (2 if self.columns["rotations"] else 1) + self.columns["others"]

    def features(self, motion: Motion) -> Float[np.ndarray, "T F"]:
        """Unscaled Δs: row t is the difference between samples t - 1 and t, row 0 is zero.

        Raises MotionError: other columns than the estimator was trained on, or an untrained estimator.
        """
        from gap_vla.phases.lstm import all_features

        if not self.columns:
            raise MotionError(_UNTRAINED)
        require_columns(motion, self.columns)
        return all_features(motion.samples, self.columns["arms"], bool(self.columns["rotations"]), self.width)

    def predict(
        self,
        position: np.ndarray | Motion,
        quaternion: np.ndarray | None = None,
        gripper: np.ndarray | None = None,
        extra: np.ndarray | None = None,
    ) -> Float[np.ndarray, " T"]:
        """ρ of a whole recording, float32 in [0, 1]; arguments as for `segment`.

        Raises MotionError: bad signals, other columns than the estimator was trained on, or an untrained estimator.
        """
        from gap_vla.phases.lstm import lstm_run

        weights, ahead = self.weights, self.settings.lookahead
        features = self.features(as_motion(position, quaternion, gripper, extra))
        return lstm_run(np.pad(features, ((0, ahead), (0, 0))), weights)[ahead:]

    @property
    def weights(self) -> Weights:
        if self._weights is None:
            raise MotionError(_UNTRAINED)
        return self._weights

    def save(self, directory: str | Path) -> Path:
        """Writes estimator.safetensors and estimator.json; existing files are replaced whole or not at all."""
        settings = self.settings.record()
        record = {"format": 1, "settings": settings, "columns": self.columns, "report": self.report}
        return write_arrays(Path(directory), "estimator", self.weights._asdict(), record)

    @classmethod
    def load(cls, directory: str | Path) -> PhaseEstimator:
        """Reads what `save` wrote; `predict` then gives the same bits.

        Raises FileNotFoundError: there is none. MotionError: damaged files, or of another version.
        """
        arrays, stored = read_arrays(Path(directory), "estimator")
        record = Section(stored, f"{Path(directory) / 'estimator.json'}", MotionError)
        record.whole("format", 1, 1)
        columns, settings = record.section("columns"), record.section("settings").values
        if unknown := sorted({*settings} - {field.name for field in dataclasses.fields(EstimatorSettings)}):
            raise MotionError(f"{record.where}: this version knows no setting {', '.join(unknown)}; make it again")
        estimator = cls(**settings)
        most = {"arms": (1, 64), "rotations": (0, 1), "others": (0, 100_000)}
        estimator.columns = {name: columns.whole(name, *bounds) for name, bounds in most.items()}
        report = record.section("report")
        if report.values and report.whole("held_out_recordings", 0, 2**40):
            calibrated = report.section("held_out_calibration")
            calibrated.finite("error", 0, 1)
            for row in calibrated.list("bins", Section.section):
                row.require("rho", "observed", "weight")
                row.require_numbers(0, 1 + 1e-6)
        estimator.report = dict(report.values)
        estimator._weights = estimator._checked(arrays, f"{Path(directory) / 'estimator.safetensors'}")
        return estimator

    def _checked(self, arrays: Mapping[str, np.ndarray], where: str) -> Weights:
        """The weights; the compiled LSTM itself does not look at their shapes."""
        from gap_vla.phases.lstm import Weights

        f, h = self.width, self.settings.hidden
        recurrent = {"hidden": (h, 4 * h), "bias": (4 * h,)}
        shapes = {"mean": (f,), "scale": (f,), "head": (h,), "head_bias": (1,), "first_in": (f, 4 * h)}
        shapes |= {"second_in": (h, 4 * h)} | {f"{a}_{b}": s for a in ("first", "second") for b, s in recurrent.items()}
        for name, shape in shapes.items():
            if name not in arrays or arrays[name].shape != shape or arrays[name].dtype != np.float32:
                raise MotionError(f"{where}: {name} is not float32{list(shape)}, as its settings say; make it again")
            if not np.isfinite(arrays[name]).all() or (name == "scale" and arrays[name].min(initial=1) <= 0):
                raise MotionError(f"{where}: {name} is NaN, infinite or not positive; make it again")
        return Weights(**{name: np.ascontiguousarray(arrays[name]) for name in shapes})

    def _example(self, scaled: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `train` takes of a recording; ρ of a step is asked for `lookahead` steps later."""
        ahead = self.settings.lookahead
        targets, weights = self._wanted(points, len(scaled))
        return np.pad(scaled, ((0, ahead), (0, 0))), np.pad(targets, (ahead, 0)), np.pad(weights, (ahead, 0))

    def _wanted(self, points: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """What ρ should be at every step, and how much the step counts."""
        s = self.settings
        if s.spread:
            return soft_targets(points, length, s.spread, one_sided=s.one_sided), np.ones(length, np.float32)
        most = np.inf if s.greatest_weight is None else s.greatest_weight
        weights = step_weights(points, length, k=s.distance_weight, most=most, one_sided=s.one_sided)
        return change_targets(points, length), weights

    def _measure(self, motions, change_points, indices: Sequence[int]) -> dict[str, Any]:
        if not indices:
            return {"held_out_loss": None, "held_out_calibration": None}
        rho = np.concatenate([self.predict(motions[i]) for i in indices])
        wanted = [self._wanted(change_points[i], len(motions[i])) for i in indices]
        targets, weights = (np.concatenate(part) for part in zip(*wanted))
        return {
            "held_out_loss": weighted_loss(rho, targets, weights),
            "held_out_calibration": calibration(rho, targets, weights),
        }


def held_out_split(usable: list[int], settings: EstimatorSettings) -> tuple[list[int], list[int]]:
    """The recordings to learn, and those held out; drawn by the seed, both ascending."""
    count = min(max(round(settings.held_out * len(usable)), 1), len(usable) - 1) if settings.held_out else 0
    order = np.random.default_rng(settings.seed).permutation(len(usable))
    held = {usable[i] for i in order[:count]}
    return [i for i in usable if i not in held], sorted(held)
