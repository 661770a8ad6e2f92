"""ρ while the robot moves: one sample in, one probability out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gap_vla.phases.motion import Motion, MotionError

if TYPE_CHECKING:
    from gap_vla.phases.lstm import Weights


class PhaseStream:
    """State of one running recording; made by `PhaseEstimator.stream`."""

    def __init__(self, weights: Weights, columns: dict[str, int], width: int, lookahead: int) -> None:
        self._weights, self._columns, self._lookahead = weights, columns, lookahead
        self._state = np.zeros((4, len(weights.head)), np.float32)
        self._row, self._before = np.zeros(width), np.zeros(0)
        self._seen = 0

    def step(
        self,
        position: np.ndarray,
        quaternion: np.ndarray | None = None,
        gripper: np.ndarray | None = None,
        extra: np.ndarray | None = None,
    ) -> float | None:
        """Takes the next sample (m; unit wxyz; finger positions; other columns).

        Returns:
            ρ of the sample taken `lookahead` steps ago, or None while that many have not been seen; without
            lookahead the ρ of this sample.

        Raises:
            MotionError: bad values, or other columns than the estimator was trained on.
        """
        from gap_vla.phases.lstm import step_features

        rows = [None if v is None else np.atleast_1d(v)[None] for v in (position, quaternion, gripper, extra)]
        assert rows[0] is not None
        motion = Motion.of(rows[0], *rows[1:], where=f"stream, sample {self._seen}")
        parts = [p for p in (motion.position, motion.quaternion, motion.gripper, motion.extra) if p is not None]
        sample = np.concatenate(parts, axis=1)[0]
        c = self._columns
        expected = 3 * c["arms"] + 4 * c["arms"] * c["rotations"] + c["others"]
        if len(sample) != expected or (motion.quaternion is not None) != bool(c["rotations"]):
            raise MotionError(f"{motion.where}: {len(sample)} columns, but the estimator was trained with {c}")
        if self._seen:
            step_features(self._before, sample, c["arms"], bool(c["rotations"]), self._row)
        self._before = sample
        self._seen += 1
        rho = self._advance(self._row)
        return rho if self._seen > self._lookahead else None

    def finish(self) -> list[float]:
        """ρ of the samples still outstanding because of the lookahead, once no further sample will come."""
        outstanding = min(self._lookahead, self._seen)
        late = [self._advance(np.zeros_like(self._row)) for _ in range(self._lookahead)]
        self._seen = 0
        return late[self._lookahead - outstanding :]

    def _advance(self, row: np.ndarray) -> float:
        from gap_vla.phases.lstm import lstm_step

        return float(lstm_step(row.astype(np.float32), self._state, self._weights))
