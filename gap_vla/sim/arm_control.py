"""Operational-space control of a Panda: robosuite's OSC_POSE law, compiled, at a fifth of its cost.

The law (Khatib 1987, with robosuite's gains): the goal is the achieved pose plus the commanded offset; force and
torque at the grip site are critically damped springs towards it, decoupled by the task-space inertias Λ; what
joint freedom is left is pulled towards the arm's rest configuration.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float
from numba import njit

STIFFNESS, REST_STIFFNESS = 150.0, 10.0
GRIPPER_SPEED = 0.2
"""Share of half the finger stroke by which a gripper command moves the fingers' target per step."""


class ArmController:
    """One arm with its gripper; `aim` once per action, `apply` in every physics step between mj_step1 and mj_step2.

    Args:
        robot: robosuite's; scale: metres and radians of a command of 1.
    """

    def __init__(self, model: Any, data: Any, robot: Any, scale: tuple[float, float]) -> None:
        self._model, self._data, self._scale = model, data, scale
        self._site, self._qpos = robot.eef_site_id["right"], np.array(robot._ref_joint_pos_indexes)
        self._dofs = slice(robot._ref_joint_vel_indexes[0], robot._ref_joint_vel_indexes[-1] + 1)
        self._actuators = np.array(robot._ref_arm_joint_actuator_indexes)
        self._fingers = np.array(robot._ref_joint_gripper_actuator_indexes["right"])
        low, high = model.actuator_ctrlrange[self._fingers].T
        self._finger_middle, self._finger_half = (low + high) / 2, (high - low) / 2
        self._limits = model.actuator_ctrlrange[self._actuators].T.copy()
        self._jacobian = np.zeros((6, model.nv))
        self.reset(np.zeros(7))

    def reset(self, rest: Float[np.ndarray, " 7"]) -> None:
        """Starts an episode; `rest` is the configuration (rad) towards which free motion is pulled."""
        self._rest = np.array(rest)
        self._opening = np.zeros(2)

    def aim(self, command: Float[np.ndarray, " 7"]) -> None:
        """Sets the goal: the present pose plus the command (translation, rotation vector, gripper), world frame."""
        turn = np.empty(4)
        vector = command[3:6] * self._scale[1]
        angle = float(np.linalg.norm(vector))
        mujoco.mju_axisAngle2Quat(turn, vector / max(angle, 1e-12), angle)
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, turn)
        self._goal_position = self._data.site_xpos[self._site] + command[:3] * self._scale[0]
        self._goal_rotation = rotation.reshape(3, 3) @ self._data.site_xmat[self._site].reshape(3, 3)
        step = GRIPPER_SPEED * np.sign(command[6])
        self._opening = np.clip(self._opening + np.array([-step, step]), -1.0, 1.0)
        self._data.ctrl[self._fingers] = self._finger_middle + self._finger_half * self._opening

    def apply(self, inertia: Float[np.ndarray, "nv nv"]) -> None:
        """Writes the motors' torques for the present state."""
        data = self._data
        mujoco.mj_jacSite(self._model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        torque = _torque(
            np.ascontiguousarray(self._jacobian[:, self._dofs]),
            np.ascontiguousarray(inertia[self._dofs, self._dofs]),
            data.qpos[self._qpos],
            data.qvel[self._dofs],
            self._rest,
            data.site_xpos[self._site],
            data.site_xmat[self._site].reshape(3, 3),
            self._goal_position,
            self._goal_rotation,
        )
        data.ctrl[self._actuators] = np.clip(torque + data.qfrc_bias[self._dofs], *self._limits)


@njit(cache=True)
def _torque(
    jacobian: np.ndarray,
    inertia: np.ndarray,
    qpos: np.ndarray,
    qvel: np.ndarray,
    rest: np.ndarray,
    position: np.ndarray,
    rotation: np.ndarray,
    goal_position: np.ndarray,
    goal_rotation: np.ndarray,
) -> np.ndarray:
    """float64[7]: joint torques without gravity compensation."""
    error = np.empty(6)
    error[:3] = goal_position - position
    error[3:] = 0.0
    for axis in range(3):
        now, goal = rotation[:, axis], goal_rotation[:, axis]
        error[3] += 0.5 * (now[1] * goal[2] - now[2] * goal[1])
        error[4] += 0.5 * (now[2] * goal[0] - now[0] * goal[2])
        error[5] += 0.5 * (now[0] * goal[1] - now[1] * goal[0])
    wanted = STIFFNESS * error - 2.0 * np.sqrt(STIFFNESS) * (jacobian @ qvel)
    inertia_inverse = np.linalg.inv(inertia)
    mobility = jacobian @ inertia_inverse @ jacobian.T
    wrench = np.empty(6)
    wrench[:3] = np.linalg.solve(np.ascontiguousarray(mobility[:3, :3]), wanted[:3])
    wrench[3:] = np.linalg.solve(np.ascontiguousarray(mobility[3:, 3:]), wanted[3:])
    pull = inertia @ (REST_STIFFNESS * (rest - qpos) - 2.0 * np.sqrt(REST_STIFFNESS) * qvel)
    free = pull - jacobian.T @ np.linalg.solve(mobility, jacobian @ (inertia_inverse @ pull))
    return jacobian.T @ wrench + free
