"""The arrays of an npz: what is declared is compared with what is there before memory is asked for."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import refuse_too_large, refusing
from gap_vla.demos.raw_arrays import array_of


def array_names(file: Path, error: type[UserError] = EpisodeError) -> list[str]:
    """Names of the arrays in an npz.

    Raises:
        error: no whole npz.
    """
    with _reading(file, error), zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(
    file: Path, wanted: Callable[[str], bool] = lambda name: True, error: type[UserError] = EpisodeError
) -> dict[str, np.ndarray]:
    """The arrays of an npz whose names are wanted.

    Raises:
        error: no whole npz, an array of objects, or one of another size than it declares; names file and array.
    """
    with _reading(file, error), zipfile.ZipFile(file) as archive:
        return {
            name: _array(archive, member, f"{file}: {name!r}", error)
            for member in archive.infolist()
            if wanted(name := member.filename.removesuffix(".npy"))
        }


def _reading(file: Path, error: type[UserError]) -> AbstractContextManager[None]:
    return refusing(f"{file}: not a readable .npz of plain arrays", "write it again", error)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, error: type[UserError]) -> np.ndarray:
    refuse_too_large(where, member.file_size, member.compress_size, error)
    with archive.open(member) as stream:
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        header = headers[np.lib.format.read_magic(stream)]
        shape, by_columns, dtype = header(stream)
        with refusing(where, "store plain numbers or text, and write it again", error):
            return array_of(stream.read(), dtype, shape, "F" if by_columns else "C")
