"""What is shown of one episode: frames, signals in everyday units, ρ, change points and, where known, the truth."""

from __future__ import annotations

import dataclasses

import numpy as np

from gap_vla.core.episode import OPENING_UNIT, Episode, EpisodeError
from gap_vla.phases.motion import motion_of, steps_of
from gap_vla.phases.targets import label_changes


@dataclasses.dataclass(frozen=True)
class Signal:
    """One plot.

    Attributes:
        name: what is plotted, with its unit.
        lines: label to f64[T].
    """

    name: str
    lines: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class EpisodeView:
    """Attributes:
    title: heading.
    frames: uint8[T, h, w, 3], or None.
    rho: f32[T], or None.
    change_points: int64[K].
    phases: name per step, or None; its switches are the true change points.
    signals: plots, in order.
    facts: further lines under the heading.
    """

    title: str
    frames: np.ndarray | None
    rho: np.ndarray | None
    change_points: np.ndarray
    phases: np.ndarray | None
    signals: tuple[Signal, ...]
    facts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.signals[0].lines.values())))

    @property
    def switches(self) -> np.ndarray:
        """int64[L]: where the true phase changes."""
        return np.zeros(0, np.int64) if self.phases is None else label_changes(self.phases)


def view_of(episode: Episode, *, camera: str | None = None, facts: tuple[str, ...] = ()) -> EpisodeView:
    """The view of a labelled or unlabelled episode.

    Args:
        camera: image to show; default the first, in name order; there may be none.

    Raises:
        ValueError: the episode has no such camera.
    """
    if camera is not None and camera not in episode.images:
        raise EpisodeError(f"{episode.name}: no camera {camera!r} (cameras: {', '.join(episode.images) or 'none'})")
    cameras = sorted(episode.images)
    frames = episode.images[camera or cameras[0]] if cameras else None
    points = np.zeros(0, np.int64) if episode.change_point is None else np.flatnonzero(episode.change_point)
    return EpisodeView(
        title=episode.name,
        frames=frames,
        rho=episode.rho,
        change_points=points,
        phases=episode.phase,
        signals=_signals(episode),
        facts=((episode.language_instruction,) if episode.language_instruction else ()) + facts,
    )


def _signals(episode: Episode) -> tuple[Signal, ...]:
    motion = motion_of(episode)
    in_metres = episode.metadata.get(OPENING_UNIT, "m") == "m"
    steps = steps_of(motion)
    place, speed, turn, opening = {}, {}, {}, {}
    for arm in range(motion.arms):
        suffix = f" {arm}" if motion.arms > 1 else ""
        block = motion.position[:, 3 * arm : 3 * arm + 3]
        for axis, name in enumerate("xyz"):
            place[name + suffix] = 1000 * (block[:, axis] - block[0, axis])
        speed[f"translation{suffix}"] = _padded(1000 * np.linalg.norm(steps.position[:, arm], axis=1))
        if steps.rotation is not None:
            turn[f"rotation{suffix}"] = _padded(np.rad2deg(np.linalg.norm(steps.rotation[:, arm], axis=1)))
    if motion.gripper is not None:
        fingers = motion.gripper.shape[1] // motion.arms
        for column in range(motion.gripper.shape[1]):
            arm, finger = divmod(column, fingers)
            name = f"finger {finger}" + (f", arm {arm}" if motion.arms > 1 else "")
            opening[name] = motion.gripper[:, column] * (1000 if in_metres else 1)
    signals = [Signal("displacement (mm)", place), Signal("translation (mm / step)", speed)]
    if turn:
        signals.append(Signal("rotation (° / step)", turn))
    if opening:
        signals.append(Signal("fingers (mm)" if in_metres else "opening (no unit)", opening))
    return tuple(signals)


def _padded(values: np.ndarray) -> np.ndarray:
    """The last sample has no step of its own."""
    return np.append(values, 0.0)
