"""The few rotations that scripted experts need."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def about_z(angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a turn by `angle` (rad) about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def yaw_of(rotation: Float[np.ndarray, "3 3"]) -> float:
    """Direction (rad) of a rotated x axis, seen from above."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def nearest_angle(angle: float, reference: float, period: float = 2 * np.pi) -> float:
    """The angle equal to `angle` modulo `period` that is nearest to `reference` (rad)."""
    return reference + (angle - reference + period / 2) % period - period / 2


def as_rotation_vector(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """Axis times angle (rad) of a rotation matrix."""
    import mujoco

    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
