"""A folder of `.npz` files, one demonstration each."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.demos import beside, fields
from gap_vla.demos.arrays import forms, read_arrays
from gap_vla.demos.source import OTHERS, NamedArrays


class NpzFolder(NamedArrays):
    """Each file holds arrays of equal length: state (T, S), action (T, A), pictures uint8 (T, h, w, 3), and optionally
    `phase` (T), `language_instruction` (text) and `success`.

    Args:
        path: the folder; files are taken in name order.
        **options: of `NamedArrays`.

    Raises:
        EpisodeError: no files, a damaged file, a missing array, or arrays that do not fit; names the file.
    """

    kind = "npz"
    STATE_KEY = "proprio"

    def _find(self) -> None:
        self.places = fields.files_in(self.path, ".npz")
        if not self.places:
            what = "no .npz files in this folder" if self.path.is_dir() else "a file; give the folder of the .npz files"
            raise EpisodeError(f"{self.path}: {what}")
        wanted = "language_instruction" if self.options["language_instruction"] else ""
        held = [read_arrays(file, wanted.__eq__) for file in self.places]
        self._names = sorted({name for names in held for name in names})
        self._times = {name: sum(name in names for names in held) for name in OTHERS}
        self._refuse_idle(self.options["language_instruction"], (arrays.get(wanted) for arrays in held))
        self._take_images()

    @property
    def files(self) -> Collection[Path]:
        return self.places

    def look(self) -> None:
        def sizes(file: Path) -> dict[str, tuple[int, int]]:
            found = forms(file, self._image_keys.__contains__)
            return {
                self._image_keys[key]: fields.picture_size(*form, f"{file}: {key!r}") for key, form in found.items()
            }

        fields.require_one_size((f"{file}", sizes(file)) for file in self.places)

    def read(self, index: int, *, images: bool = True) -> Episode:
        file = self.places[index]
        left = self.dropped() if images else {*self.dropped(), *self._image_keys}
        arrays = read_arrays(file, lambda name: name not in left)
        episode = self._episode(arrays, f"{file}", images, file=file, name=file.stem)
        unread = [name for name in arrays if beside.tells(name) and name in left]
        require_aligned(file, unread, len(episode))
        return episode


def require_aligned(file: Path, names: Iterable[str], steps: int) -> None:
    """Looks at arrays of which nothing is used, one after the other. Raises EpisodeError: as `beside.require_rows`."""
    for name in names:
        rows = None
        with contextlib.suppress(EpisodeError):  # no plain array: left out as any other
            rows = read_arrays(file, name.__eq__)[name]
        if rows is not None:
            beside.require_rows(name, rows, steps, f"{file}")
