"""Fewer triangles in what is only looked at: an arm of 40,000 triangles fills a picture of 84 pixels no better than one
of 4,000, and software OpenGL spends a picture's time on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import fast_simplification
import mujoco
import numpy as np
import scipy.spatial
from jaxtyping import Float, Int

CREASE = np.cos(np.radians(40.0))
"""An old normal that is turned further away from a new face than this lies beyond an edge."""
NEIGHBOURS = 8
"""Old corners that a new one takes its normal from."""


def simplify_meshes(model: Any, geoms: Iterable[int], keep: float, least: int) -> dict[str, tuple[int, int]]:
    """Thins out the meshes of a compiled model in place, before its first picture; nothing else changes.

    Only meshes that no geom collides with and that carry no texture are touched, so that contacts, masses and inertia
    stay bit for bit as they were. Edges are collapsed in the order of least quadric error (Garland and Heckbert, 1997).

    Args:
        model: mujoco.MjModel.
        geoms: whose meshes may be thinned out.
        keep: share of a mesh's triangles that stay.
        least: no mesh gets fewer triangles than this.

    Returns:
        Name of each mesh that was thinned out, and its number of triangles before and after.
    """
    changed = {}
    for mesh in _only_looked_at(model, list(geoms)):
        start, before = model.mesh_faceadr[mesh], int(model.mesh_facenum[mesh])
        rows = slice(start, start + before)
        corners = model.mesh_vert[model.mesh_vertadr[mesh] + model.mesh_face[rows]]
        normals = model.mesh_normal[model.mesh_normaladr[mesh] + model.mesh_facenormal[rows]]
        vertices, faces = _welded(corners)
        target = max(int(keep * len(faces)), least)
        if 2 * target > len(faces):
            continue
        vertices, faces = fast_simplification.simplify(vertices, faces, target_reduction=1 - target / len(faces))
        shading, which = np.unique(_shading(vertices, faces, corners, normals), axis=0, return_inverse=True)
        if len(vertices) <= model.mesh_vertnum[mesh] and len(shading) <= model.mesh_normalnum[mesh]:
            _replace(model, mesh, vertices, faces, shading, which.reshape(-1, 3))
            changed[model.mesh(mesh).name] = before, len(faces)
    return changed


def _only_looked_at(model: Any, geoms: Sequence[int]) -> list[int]:
    """Meshes of which every geom is one of these, without contacts and without texture."""
    of_mesh = model.geom_type == int(mujoco.mjtGeom.mjGEOM_MESH)
    textured = np.zeros(model.ngeom, bool)
    with_material = model.geom_matid >= 0
    if model.nmat:
        textured[with_material] = (model.mat_texid[model.geom_matid[with_material]] >= 0).any(-1)
    refused = ~np.isin(np.arange(model.ngeom), geoms)
    refused |= (model.geom_contype != 0) | (model.geom_conaffinity != 0) | textured
    return sorted(set(model.geom_dataid[of_mesh & ~refused]) - set(model.geom_dataid[of_mesh & refused]))


def _welded(corners: Float[np.ndarray, "f 3 3"]) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Vertices and faces with equal vertices made one: files repeat a vertex for each of its normals."""
    _, kept, place = np.unique(np.round(corners.reshape(-1, 3), 6), axis=0, return_index=True, return_inverse=True)
    faces = place.reshape(-1, 3)
    real = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return corners.reshape(-1, 3)[kept].astype(np.float64), faces[real]


def _shading(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    corners: Float[np.ndarray, "g 3 3"],
    normals: Float[np.ndarray, "g 3 3"],
) -> Float[np.ndarray, "c 3"]:
    """Unit normal at each corner of the new faces, to three digits: the mean of those old ones near it that point the
    same way."""
    new = vertices[faces]
    facing = np.cross(new[:, 1] - new[:, 0], new[:, 2] - new[:, 0])
    facing = np.repeat(facing / np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-20), 3, axis=0)
    _, near = scipy.spatial.cKDTree(corners.reshape(-1, 3)).query(new.reshape(-1, 3), k=NEIGHBOURS)
    around = normals.reshape(-1, 3)[near]
    same_side = np.einsum("cki,ci->ck", around, facing) > CREASE
    mean = np.einsum("cki,ck->ci", around, same_side.astype(np.float64))
    mean = np.where(same_side.any(1)[:, None], mean, facing)
    return np.round(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-20), 3)


def _replace(
    model: Any, mesh: int, vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, which: np.ndarray
) -> None:
    first = model.mesh_faceadr[mesh]
    model.mesh_facenormal[first : first + len(faces)] = which
    for part, values in (("vert", vertices), ("face", faces), ("normal", normals)):
        first = getattr(model, f"mesh_{part}adr")[mesh]
        getattr(model, f"mesh_{part}")[first : first + len(values)] = values
        getattr(model, f"mesh_{part}num")[mesh] = len(values)
    model.mesh_texcoordadr[mesh] = -1
