"""Out-of-distribution looks: lights, table textures, colours and distractors, redrawn for every episode."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gap_vla.sim.cameras import CameraPose
from gap_vla.sim.variants import Variant

_DISTRACTOR = "distractor"
_COLORS = ("0.95 0.75 0.10 1", "0.10 0.65 0.30 1", "0.75 0.20 0.65 1", "0.15 0.55 0.85 1")


def distractors_mjcf(n: int, position: str) -> str:
    """MJCF of `n` bodies that are seen but never touched: they have no joints and no contacts."""
    shapes = ('type="box" size="0.022 0.016 0.02"', 'type="cylinder" size="0.018 0.025"', 'type="sphere" size="0.022"')
    return "".join(
        f'<body name="{_DISTRACTOR}{i}" pos="{position}"><geom name="{_DISTRACTOR}{i}" {shapes[i % 3]} '
        f'rgba="{_COLORS[i % 4]}" contype="0" conaffinity="0" group="1" mass="0"/></body>'
        for i in range(n)
    )


class Appearance:
    """Changes how a model looks, within a variant; physics and geometry stay.

    Args:
        model: mujoco.MjModel, before any picture of it was drawn.
        objects, table: geom ids whose colour, or texture, may change.
    """

    def __init__(self, model: Any, variant: Variant, objects: Sequence[int], table: Sequence[int]) -> None:
        self._model, self._variant = model, variant
        self._objects, self._table = list(objects), list(table)
        self._kept = {
            name: getattr(model, name).copy()
            for name in ("geom_rgba", "geom_matid", "mat_rgba", "light_diffuse", "light_ambient", "light_dir")
        }
        if variant.table:
            paint(model)
        self._headlight = model.vis.headlight.diffuse.copy(), model.vis.headlight.ambient.copy()

    def redraw(
        self, rng: np.random.Generator, middle: Sequence[float], taken: Iterable[np.ndarray], camera: CameraPose
    ) -> None:
        """Draws the looks of one episode.

        Args:
            middle: point on the table's surface about which the distractors lie (m).
            taken: positions (m) of things from which they keep away.
            camera: in whose picture they lie.
        """
        model, variant = self._model, self._variant
        for name, value in self._kept.items():
            getattr(model, name)[:] = value
        if variant.light:
            tint = rng.uniform(0.45, 1.25) * rng.uniform(0.85, 1.15, 3)
            model.light_diffuse[:] *= tint
            model.light_dir[:] += rng.uniform(-0.4, 0.4, model.light_dir.shape)
            model.vis.headlight.diffuse[:] = self._headlight[0] * tint
            model.vis.headlight.ambient[:] = self._headlight[1] * tint
        if variant.table:
            material = model.mat(pattern_name(int(rng.integers(COUNT)))).id
            model.geom_matid[self._table] = material
            model.mat_rgba[material, :3] = rng.uniform(0.7, 1.0, 3)
        if variant.color:
            colors: dict[int, np.ndarray] = {}
            for geom in self._objects:
                body = int(model.geom_bodyid[geom])
                if body not in colors:
                    colors[body] = rng.uniform(0.1, 0.95, 3)
                model.geom_matid[geom] = -1
                model.geom_rgba[geom, :3] = colors[body]
        occupied = [np.asarray(point)[:2] for point in taken]
        for i in range(variant.distractors):
            place = _free_place(rng, np.array(middle), occupied, camera)
            occupied.append(place)
            model.body_pos[model.body(f"{_DISTRACTOR}{i}").id] = [*place, middle[2] + 0.02]


def _free_place(
    rng: np.random.Generator, middle: np.ndarray, occupied: Sequence[np.ndarray], camera: CameraPose
) -> np.ndarray:
    """A point (x, y) in the picture, within 20 cm of the middle along either axis, 6 cm from everything, or the
    emptiest of many.
    """
    candidates = middle[:2] + rng.uniform(-0.2, 0.2, (200, 2))
    pixels = camera.project(np.column_stack([candidates, np.full(len(candidates), middle[2] + 0.02)]), 1)
    candidates = candidates[((pixels > 0.08) & (pixels < 0.92)).all(1)]
    room = [min((float(np.linalg.norm(c - other)) for other in occupied), default=1.0) for c in candidates]
    return candidates[next((i for i, r in enumerate(room) if r > 0.06), int(np.argmax(room)))]


COUNT = 12
"""Number of patterns; pattern i is the same on every machine."""
SIZE = 256
"""Height and width (pixels); one copy covers REPEAT_LENGTH of the table."""
REPEAT_LENGTH = 0.25
"""Metres after which a pattern repeats."""


def pattern_name(index: int) -> str:
    """Name of the pattern's texture and of its material."""
    return f"table_pattern{index}"


def patterns_mjcf() -> str:
    """MJCF of one texture and one material per pattern, for `<asset>`; `paint` fills them after compilation."""
    repeat = f"{1 / REPEAT_LENGTH} {1 / REPEAT_LENGTH}"
    return "".join(
        f'<texture name="{name}" type="2d" builtin="flat" rgb1="0.5 0.5 0.5" width="{SIZE}" height="{SIZE}"/>'
        f'<material name="{name}" texture="{name}" texrepeat="{repeat}" texuniform="true"/>'
        for name in map(pattern_name, range(COUNT))
    )


def paint(model: Any) -> None:
    """Fills the model's pattern textures (mujoco.MjModel); before the first picture, which uploads them."""
    for index in range(COUNT):
        texture = model.tex(pattern_name(index)).id
        start = model.tex_adr[texture]
        model.tex_data[start : start + SIZE * SIZE * 3] = pattern(index).ravel()


def pattern(index: int) -> UInt8[np.ndarray, "s s 3"]:
    """One pattern, of the four kinds in turn; its right edge continues at its left edge, its bottom at its top.

    >>> pattern(0).shape
    (256, 256, 3)
    """
    rng = np.random.default_rng((7, index))
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.15, 0.7), rng.uniform(0.45, 0.85)
    base = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    other = np.array(colorsys.hsv_to_rgb((hue + rng.uniform(-0.15, 0.15)) % 1, saturation * 0.6, value * 0.55))
    mixture = (_planks, _tiles, _marble, _cloth)[index % 4](rng)[..., None]
    return (255 * ((1 - mixture) * base + mixture * other)).clip(0, 255).astype(np.uint8)


def _waves(rng: np.random.Generator, frequencies: tuple[int, int], n: int = 24) -> np.ndarray:
    """float64[s, s] in [0, 1]: plane waves with at most `frequencies` periods (along rows, along columns)."""
    rows, columns = np.mgrid[:SIZE, :SIZE] * (2 * np.pi / SIZE)
    total = np.zeros((SIZE, SIZE))
    for _ in range(n):
        k, m = (int(rng.integers(-f, f + 1)) for f in frequencies)
        total += np.cos(k * rows + m * columns + rng.uniform(0, 2 * np.pi)) / np.sqrt(1 + k * k + m * m)
    return (total - total.min()) / np.ptp(total)


def _planks(rng: np.random.Generator) -> np.ndarray:
    """Boards with a grain along the columns and dark joints."""
    n = int(rng.integers(3, 6))
    board = np.minimum((np.arange(SIZE) * n) // SIZE, n - 1)
    shade = rng.uniform(0.0, 0.5, n)[board][:, None]
    joint = (np.diff(board, prepend=board[-1]) != 0)[:, None]
    return np.where(joint, 1.0, np.clip(shade + 0.5 * _waves(rng, (40, 2)), 0, 1))


def _tiles(rng: np.random.Generator) -> np.ndarray:
    """Square tiles of different shades with joints between them."""
    n = int(rng.integers(3, 7))
    cell = np.minimum((np.arange(SIZE) * n) // SIZE, n - 1)
    shade = rng.uniform(0.0, 0.7, (n, n))[cell[:, None], cell[None]]
    joint = (np.arange(SIZE) * n) % SIZE < 5 * n
    return np.where(joint[:, None] | joint[None], 1.0, shade)


def _marble(rng: np.random.Generator) -> np.ndarray:
    """Cloudy veins."""
    return np.abs(2 * (_waves(rng, (3, 3)) + 0.25 * _waves(rng, (12, 12))) % 1.0 - 0.5) * 2


def _cloth(rng: np.random.Generator) -> np.ndarray:
    """Crossing bands of different widths, as of a tartan."""
    k, m = (int(rng.integers(2, 5)) for _ in range(2))
    along = np.arange(SIZE) * (2 * np.pi / SIZE)
    bands = [0.5 * (np.sin(f * along + rng.uniform(0, 6)) > rng.uniform(-0.3, 0.5)) for f in (k, m)]
    return np.clip(bands[0][:, None] + bands[1][None], 0, 1)
