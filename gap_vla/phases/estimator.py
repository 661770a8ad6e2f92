"""M5: the probability ρ_t that step t belongs to a motion transition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass

from gap_vla.core.config import STRICT, Steps, build
from gap_vla.core.errors import ConfigError, EpisodeError, message_of
from gap_vla.core.files import read_json, replacing, write_json
from gap_vla.phases.measures import calibration, marked_share, weighted_loss
from gap_vla.phases.motion import Amount, Motion
from gap_vla.phases.objective import SAMPLES_PER_PHASE, phase_length, time_scale
from gap_vla.phases.targets import change_targets, soft_targets, step_weights

if TYPE_CHECKING:
    from gap_vla.phases.lstm import Weights
    from gap_vla.phases.training import Example

UPDATES_PER_RECORDING, LEAST_UPDATES, MOST_UPDATES = 3, 200, 2_000

ENOUGH = 0.9
"""Share of the change points that were learnt which ρ should mark; the loss has a plateau at which it marks none."""

LEAST_UNIT = 0.5
"""Steps. The unit of d is a fourteenth of the median phase, and no less, or ρ of slow logs would be at one step."""

LEAST_SCALE = 1e-6
"""A feature whose standard deviation is below this (m, rad) does not move; it is left unscaled."""


@dataclass(frozen=True, config=STRICT)
class EstimatorSettings:
    """How the estimator is built and trained; saved with it."""

    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """Width of each of the two LSTM layers."""
    distance_weight: Annotated[float | int, Field(gt=0)] = 0.005
    """k of w(d) = k d², d in units of `scale`; the release has 0.005 (Meta-World) and 0.05 (MimicGen)."""
    greatest_weight: Annotated[float | int, Field(gt=0)] | None = 1.0
    """Bound on w(d); None, as in the release: no bound."""
    scale: Annotated[int, Field(ge=1)] | None = None
    """The LSTM looks at every `scale`-th sample, and d counts these; 1 is M5. None: a fourteenth of the median phase,
    which d counts without rounding."""
    one_sided: bool = False
    """d counts only the steps after a change point (the release, for MimicGen)."""
    spread: Amount = 0.0
    """Our addition, 0 is M5: if positive, targets are exp(-d² / 2 spread²), d in units of `scale`, and all steps count
    alike."""
    lookahead: Annotated[int, Field(ge=0)] = 0
    """ρ_t may depend on samples up to t + lookahead × scale."""
    updates: Steps | None = None
    """Updates of the weights; None: three for each recording that is learnt, at least 200 and at most 2,000, and twice
    and four times as many if ρ then marks less than nine tenths of the change points that it learnt."""
    epochs: Steps | None = None
    """Passes over the recordings that are learnt, in place of `updates`; 100 in the paper."""
    learning_rate: Annotated[float | int, Field(gt=0)] = 1e-2
    """Adam's, decayed to zero along a half cosine."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Recordings per update."""
    held_out: Annotated[float | int, Field(ge=0, le=0.9)] = 0.1
    """Share of the recordings that are not learnt, rounded down: loss and calibration are measured on them."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Of initialisation, order and split."""

    def __post_init__(self) -> None:
        if self.spread and (self.greatest_weight != 1 or self.distance_weight != 0.005):
            raise ConfigError("spread replaces the weights w(d): give spread, or distance_weight and greatest_weight")


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
        self.settings = build(EstimatorSettings, settings)
        self.report: dict[str, Any] = {}
        self.columns: dict[str, int] = {}
        self.scale = self.settings.scale or 1
        self._weights: Weights | None = None

    def fit(self, motions: Iterable[Motion], change_points: Iterable[np.ndarray]) -> PhaseEstimator:
        """Trains on recordings and their change points; `report` then holds losses and calibration.

        Args:
            motions: recordings with the same columns.
            change_points: int64[K] for each, as from `segment`.

        Raises:
            EpisodeError: no steps at all, or different columns.
            ConfigError: a `lookahead` of more than two samples that is as long as the longest recording.
        """
        from gap_vla.phases.lstm import Weights
        from gap_vla.phases.training import train

        motions, change_points = list(motions), [np.asarray(points, np.int64) for points in change_points]
        usable = [i for i, motion in enumerate(motions) if len(motion)]
        if not usable:
            raise EpisodeError("no recording has a step; there is nothing to learn ρ from")
        if (ahead := self.settings.lookahead) >= max(most := max(map(len, motions)), 3):
            raise ConfigError(f"lookahead is {ahead}, the longest recording has {most} steps; lower it")
        self.columns = motions[usable[0]].columns
        phase = phase_length(map(len, motions), change_points)
        self.scale = self.settings.scale or time_scale(phase)
        self.unit = float(self.settings.scale or max(phase / SAMPLES_PER_PHASE, LEAST_UNIT))
        kept, held = held_out_split(usable, self.settings)
        seen = {i: [self.features(motions[i], start) for start in self._starts(motions[i])] for i in kept}
        stacked = np.concatenate([features[1:] for features_of in seen.values() for features in features_of])
        spread = stacked.std(axis=0, dtype=np.float64) if len(stacked) else np.ones(self.width)
        spread = np.where(spread > LEAST_SCALE, spread, 1).astype(np.float32)
        examples = [
            [self._example(one / spread, change_points[i], len(motions[i]), k) for k, one in enumerate(seen[i])]
            for i in kept
        ]
        for updates in self._plans(len(examples)):
            parameters, loss = train(examples, self.settings, updates)
            self._weights = Weights(np.zeros(self.width, np.float32), spread, *parameters)
            marks = marked_share([self.predict(motions[i]) for i in kept], [change_points[i] for i in kept])
            if marks is None or marks >= ENOUGH:
                break
        self.report = {
            "recordings": len(usable),
            "held_out_recordings": len(held),
            "scale": self.scale,
            "updates": updates,
            "train_loss": loss,
            **self._measure(motions, change_points, held),
        }
        return self

    @property
    def width(self) -> int:
        each = self.columns.get("joints", 3)
        return self.columns["arms"] * each * (2 if self.columns["rotations"] else 1) + self.columns["others"]

    def features(self, motion: Motion, start: int = 0) -> Float[np.ndarray, "_ F"]:
        """Unscaled Δs of every `scale`-th sample from `start` on: each less the one before; row 0 is zero.

        Raises EpisodeError: other columns than the estimator was trained on.
        """
        from gap_vla.phases.lstm import all_features

        if motion.columns != self.columns:
            raise EpisodeError(f"{motion.where} has {motion.columns}; ρ was learnt from {self.columns}")
        samples = np.ascontiguousarray(motion.samples[start :: self.scale])
        poses = 0 if motion.joints else motion.arms
        return all_features(samples, poses, bool(self.columns["rotations"]), self.width)

    def _plans(self, recordings: int) -> list[int]:
        """Numbers of updates to try, until ρ marks enough of the change points that it has learnt."""
        s = self.settings
        if s.epochs is not None:
            return [s.epochs * -(-recordings // s.batch_size)]
        planned = min(max(UPDATES_PER_RECORDING * recordings, LEAST_UPDATES), MOST_UPDATES)
        return [s.updates] if s.updates else [planned, 2 * planned, 4 * planned]

    def _starts(self, motion: Motion) -> range:
        """Each sample of a recording is seen from one of these."""
        return range(min(self.scale, len(motion)))

    def predict(self, motion: Motion) -> Float[np.ndarray, " T"]:
        """ρ of a whole recording, float32 in [0, 1].

        Raises EpisodeError: other columns than the estimator was trained on.
        """
        from gap_vla.phases.lstm import lstm_run

        weights, ahead = self.weights, self.settings.lookahead
        rho = np.zeros(len(motion), np.float32)
        for start in self._starts(motion):
            features = self.features(motion, start)
            rho[start :: self.scale] = lstm_run(np.pad(features, ((0, ahead), (0, 0)))[:, None], weights)[ahead:, 0]
        return rho

    @property
    def weights(self) -> Weights:
        if self._weights is None:
            raise ConfigError("the estimator is not trained; call fit or load first")
        return self._weights

    def save(self, directory: str | Path) -> Path:
        """Writes estimator.safetensors and estimator.json."""
        from safetensors.numpy import save_file

        directory = Path(directory)
        with replacing(directory / "estimator.safetensors") as temporary:
            save_file(self.weights._asdict(), temporary)
        record = {"settings": dataclasses.asdict(self.settings), "columns": self.columns, "scale": self.scale}
        record["report"] = self.report
        write_json(directory / "estimator.json", {"format": 1, **record})
        return directory

    @classmethod
    def load(cls, directory: str | Path) -> PhaseEstimator:
        """Reads what `save` wrote; `predict` then gives the same bits. Raises ConfigError: of another version."""
        from safetensors.numpy import load_file

        from gap_vla.phases.lstm import Weights

        path = Path(directory) / "estimator.json"
        record = read_json(path)
        try:
            known = {field.name for field in dataclasses.fields(EstimatorSettings)}  # 0.3 had another plan of training
            estimator = cls(**{name: value for name, value in record["settings"].items() if name in known})
            estimator._weights = Weights(**load_file(path.with_suffix(".safetensors")))
        except (KeyError, TypeError, ValueError) as problem:
            raise ConfigError(f"{path}: another version wrote it ({message_of(problem)}); make it again") from None
        estimator.columns, estimator.report = record["columns"], record["report"]
        estimator.scale = record.get("scale", 1)
        return estimator

    def _example(self, scaled: np.ndarray, points: np.ndarray, length: int, start: int) -> Example:
        """What `train` takes of a recording; ρ of a step is asked for `lookahead` steps later."""
        ahead = self.settings.lookahead
        targets, weights = (array[start :: self.scale] for array in self._wanted(points, length))
        return np.pad(scaled, ((0, ahead), (0, 0))), np.pad(targets, (ahead, 0)), np.pad(weights, (ahead, 0))

    def _wanted(self, points: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """What ρ should be at every step, and how much the step counts."""
        s = self.settings
        if s.spread:
            width = s.spread * self.scale
            return soft_targets(points, length, width, one_sided=s.one_sided), np.ones(length, np.float32)
        most = np.inf if s.greatest_weight is None else s.greatest_weight
        weights = step_weights(
            points, length, k=s.distance_weight / self.unit**2, most=most, one_sided=s.one_sided, scale=self.scale
        )
        return change_targets(points, length, scale=self.scale), weights

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
    count = int(settings.held_out * len(usable))
    order = np.random.default_rng(settings.seed).permutation(len(usable))
    held = {usable[i] for i in order[:count]}
    return [i for i in usable if i not in held], sorted(held)
