"""Patterns for table tops: planks, tiles, marble and cloth, made from a seed and tileable."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from jaxtyping import UInt8

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


def add_patterns(spec: Any) -> None:
    """The same as `patterns_mjcf`, for a model that is being edited (mujoco.MjSpec)."""
    import mujoco

    for name in map(pattern_name, range(COUNT)):
        spec.add_texture(
            name=name,
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
            rgb1=[0.5] * 3,
            width=SIZE,
            height=SIZE,
        )
        material = spec.add_material(name=name, texrepeat=[1 / REPEAT_LENGTH] * 2, texuniform=True)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


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
