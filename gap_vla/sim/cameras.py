"""Where a picture is taken from: a pose and an opening angle, and the projection that goes with them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float

_CORNERS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])


@dataclasses.dataclass(frozen=True)
class CameraPose:
    """A camera at one instant, world frame. `forward` and `up` are unit vectors, `fovy` the vertical opening (deg)."""

    position: Float[np.ndarray, " 3"]
    forward: Float[np.ndarray, " 3"]
    up: Float[np.ndarray, " 3"]
    fovy: float

    @functools.cached_property
    def right(self) -> Float[np.ndarray, " 3"]:
        """Unit vector to the right in the picture."""
        return np.cross(self.forward, self.up)

    @functools.cached_property
    def inwards(self) -> Float[np.ndarray, "5 3"]:
        """Unit normals, pointing inwards, of the planes through the camera that bound its picture, and `forward`."""
        half = np.radians(self.fovy) / 2
        sides = (self.right, -self.right, self.up, -self.up)
        return np.array([*(np.sin(half) * self.forward + np.cos(half) * side for side in sides), self.forward])

    @functools.cached_property
    def corners(self) -> Float[np.ndarray, "4 3"]:
        """Lines of sight of the picture's corners."""
        across = _CORNERS[:, :1] * self.right + _CORNERS[:, 1:] * self.up
        return self.forward + np.tan(np.radians(self.fovy) / 2) * across

    def project(self, points: Float[np.ndarray, "n 3"], size: int) -> Float[np.ndarray, "n 2"]:
        """World points (m) to pixels (column, row) of a square picture; (0, 0) is its top left corner.

        Points behind the camera come out as NaN.
        """
        offset = np.atleast_2d(points) - self.position
        depth = offset @ self.forward
        depth = np.where(depth > 1e-6, depth, np.nan)
        scale = size / 2 / np.tan(np.radians(self.fovy) / 2) / depth
        return np.stack([size / 2 + scale * (offset @ self.right), size / 2 - scale * (offset @ self.up)], 1)


@dataclasses.dataclass(frozen=True)
class View:
    """A camera given by two points, in the world or in a body's frame (m), so that it moves with the body.

    `up` is the direction that points upwards in the picture; it need not be perpendicular to the line of sight.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    fovy: float
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    body: str | None = None

    def pose(self, data: Any) -> CameraPose:
        """The camera's pose in the state `data` (mujoco.MjData)."""
        position, target, up = (np.array(v, float) for v in (self.position, self.target, self.up))
        if self.body is not None:
            body = data.body(self.body)
            rotation = body.xmat.reshape(3, 3)
            position, target, up = body.xpos + rotation @ position, body.xpos + rotation @ target, rotation @ up
        forward = (target - position) / np.linalg.norm(target - position)
        up = up - (up @ forward) * forward
        return CameraPose(position, forward, up / np.linalg.norm(up), self.fovy)

    def shifted(self, rng: np.random.Generator, distance: float = 0.04, angle: float = 3.0) -> View:
        """The same view with its position moved by up to `distance` m along each axis (uniform), and its target by as
        much as `angle` degrees turn it, likewise."""
        position = np.array(self.position) + rng.uniform(-distance, distance, 3)
        reach = np.linalg.norm(np.array(self.target) - self.position) * np.radians(angle)
        target = np.array(self.target) + rng.uniform(-reach, reach, 3)
        return dataclasses.replace(self, position=tuple(position), target=tuple(target))


@dataclasses.dataclass(frozen=True)
class StockView:
    """A camera of the simulator's own model, by its name; kept for comparison with other people's results."""

    name: str

    def pose(self, data: Any) -> CameraPose:
        """The camera's pose in the state `data` (mujoco.MjData)."""
        camera = data.camera(self.name)
        axes = camera.xmat.reshape(3, 3)  # columns: right, up, backward
        fovy = float(data.model.cam_fovy[camera.id])
        return CameraPose(camera.xpos.copy(), -axes[:, 2], axes[:, 1].copy(), fovy)
