"""Demonstrations of simulated experts with their true switches, and the same under noise and at other rates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from gap_vla.phases.motion import Motion
from gap_vla.phases.targets import label_changes

SHORT_PHASE = 4
"""Steps. A phase shorter than this is passed through, not done: it belongs to the one before."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One demonstration.

    Attributes:
        motion: its signals.
        switches: int64[L], first steps of the expert's phases, the first phase and short ones left out.
        hz: sampling rate.
    """

    motion: Motion
    switches: np.ndarray
    hz: float | int


def load_recordings(path: Path, most: int | None = None) -> list[Recording]:
    """Reads demonstrations that `gap_vla.sim.collect_demos` wrote."""
    from gap_vla.demos import open_source
    from gap_vla.demos.hdf5_members import attributes_of_data
    from gap_vla.phases.motion import motion_of

    source = open_source(path)
    hz = float(attributes_of_data(path)["control_hz"])
    episodes = [source.read(i, images=False) for i in range(min(len(source), most or len(source)))]
    out = []
    for episode in episodes:
        assert episode.phase is not None
        out.append(Recording(motion_of(episode), true_switches(episode.phase), hz))
    return out


def true_switches(phase: np.ndarray) -> np.ndarray:
    """Where the expert's phase changes; a boundary within `SHORT_PHASE` steps after another is dropped.

    >>> true_switches(np.array(["a"] * 9 + ["b"] * 2 + ["c"] * 9))
    array([9])
    """
    kept: list[int] = []
    for point in label_changes(phase):
        if 1 < point < len(phase) - 1 and (not kept or point - kept[-1] >= SHORT_PHASE):
            kept.append(int(point))
    return np.array(kept, np.int64)


def with_noise(recording: Recording, sigma: float | int, rng: np.random.Generator) -> Recording:
    """White noise of `sigma` mm on every position coordinate and of `sigma` degrees on every rotation axis."""
    motion = recording.motion
    position = motion.position + rng.normal(0, sigma / 1000, motion.position.shape)
    quaternion = motion.quaternion
    if quaternion is not None:
        q = quaternion.reshape(len(motion), motion.arms, 4)
        half = np.deg2rad(rng.normal(0, sigma, (len(motion), motion.arms, 3))) / 2
        w1, v1 = np.sqrt(np.maximum(1 - (half**2).sum(-1, keepdims=True), 0)), half
        w2, v2 = q[..., :1], q[..., 1:]
        w = w1 * w2 - (v1 * v2).sum(-1, keepdims=True)
        turned = np.concatenate([w, w1 * v2 + w2 * v1 + np.cross(v1, v2)], axis=-1)
        turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
        quaternion = turned.reshape(len(motion), -1)
    return dataclasses.replace(recording, motion=dataclasses.replace(motion, position=position, quaternion=quaternion))


def at_rate(recording: Recording, hz: float | int) -> Recording:
    """The recording sampled at another rate, by linear interpolation (rotations: normalised)."""
    motion, ratio = recording.motion, recording.hz / hz
    times = np.arange(0, len(motion) - 1 + 1e-9, ratio)
    low = np.minimum(times.astype(int), max(len(motion) - 2, 0))
    share = (times - low)[:, None]

    def sample(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[low] * (1 - share) + values[low + 1] * share

    quaternion = motion.quaternion
    if quaternion is not None:
        q = quaternion.reshape(len(motion), motion.arms, 4)
        signs = np.where((q[1:] * q[:-1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
        q = q * np.concatenate([np.ones((1, motion.arms, 1)), np.cumprod(signs, axis=0)])
        sampled = sample(q.reshape(len(motion), -1))
        assert sampled is not None
        blocks = sampled.reshape(len(times), motion.arms, 4)
        quaternion = (blocks / np.linalg.norm(blocks, axis=-1, keepdims=True)).reshape(len(times), -1)
    position = sample(motion.position)
    assert position is not None
    moved = Motion(position, quaternion, sample(motion.gripper), sample(motion.extra), motion.where)
    switches = np.unique(np.round(recording.switches / ratio).astype(np.int64))
    return Recording(moved, switches[(switches > 0) & (switches < len(times))], hz)
