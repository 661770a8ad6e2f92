"""Which parts of a scene cannot be in a picture: those beside it, and those under a table that fills it.

Software OpenGL spends most of a picture's time on vertices, also on those that end up outside. What is left out here
contributes no fragment to the picture, so that the pixels stay the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Bool

from gap_vla.sim.cameras import CameraPose


class Culling:
    """Finds the geoms and sites of one model (mujoco.MjModel) that a camera cannot show.

    Args:
        groups: geom groups that are drawn; only a table that is drawn covers what is under it.
    """

    def __init__(self, model: Any, groups: Iterable[int]) -> None:
        self._planes = model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)
        self._box = model.geom_aabb.reshape(-1, 2, 3).copy()  # middle and half edges, in the geom's own frame
        self._geom_radius = np.where(self._planes, np.inf, model.geom_rbound)
        self._site_radius = model.site_size.sum(1)  # a bound for every shape
        self._table = _widest_table(model, groups)
        self._table_half = model.geom_size[self._table] if self._table is not None else np.zeros(3)

    def geoms(self, data: Any, camera: CameraPose) -> Bool[np.ndarray, " ngeom"]:
        """True where a geom cannot be in the picture of the state `data` (mujoco.MjData)."""
        rotations = data.geom_xmat.reshape(-1, 3, 3)
        middles = data.geom_xpos - camera.position + np.einsum("nij,nj->ni", rotations, self._box[:, 0])
        inwards = camera.inwards
        reach = np.abs(np.einsum("pi,nij->npj", inwards, rotations)) @ self._box[:, 1, :, None]
        unseen = ~self._planes & ((middles @ inwards.T + reach[..., 0]) < 0).any(1)
        top = self._covering_height(data, camera)
        if top is not None:
            upright = self._planes & (data.geom_xmat[:, 8] > 0.9999)
            highest = data.geom_xpos[:, 2] + np.where(upright, 0.0, self._geom_radius)
            unseen |= highest < top - 1e-6
        return unseen

    def sites(self, data: Any, camera: CameraPose) -> Bool[np.ndarray, " nsite"]:
        """True where a site cannot be in the picture of the state `data` (mujoco.MjData)."""
        inside = (data.site_xpos - camera.position) @ camera.inwards.T
        unseen = (inside < -self._site_radius[:, None]).any(1)
        top = self._covering_height(data, camera)
        return unseen if top is None else unseen | (data.site_xpos[:, 2] + self._site_radius < top - 1e-6)

    def _covering_height(self, data: Any, camera: CameraPose) -> float | None:
        """Height (m) of the table's surface, if every line of sight meets the surface (or something above it)."""
        if self._table is None:
            return None
        centre = data.geom_xpos[self._table]
        top = float(centre[2] + self._table_half[2])
        corners = camera.corners
        if camera.position[2] <= top or (corners[:, 2] > -1e-3).any():
            return None
        meets = camera.position + corners * ((top - camera.position[2]) / corners[:, 2:])
        # the table lies square to the world's axes, and the corners' quadrilateral is convex
        inside = np.abs(meets[:, :2] - centre[:2]) < self._table_half[:2]
        return top if inside.all() else None


def _widest_table(model: Any, groups: Iterable[int]) -> int | None:
    """Id of the widest opaque box with a level top that is fixed to the world, or None."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    rotations = data.geom_xmat.reshape(-1, 3, 3)
    material_alpha = model.mat_rgba[model.geom_matid, 3] if model.nmat else np.ones(model.ngeom)
    opaque = np.where(model.geom_matid >= 0, material_alpha, model.geom_rgba[:, 3]) == 1.0
    boxes = (
        (model.geom_type == int(mujoco.mjtGeom.mjGEOM_BOX))
        & (model.body_weldid[model.geom_bodyid] == 0)
        & (np.abs(rotations - np.eye(3)).max((1, 2)) < 1e-6)
        & np.isin(model.geom_group, list(groups))
        & opaque
    )
    if not boxes.any():
        return None
    area = np.where(boxes, model.geom_size[:, 0] * model.geom_size[:, 1], 0.0)
    return int(area.argmax())
