"""A folder of `.npz` files, one demonstration each."""

from __future__ import annotations

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.demos.arrays import read_arrays
from gap_vla.demos.fields import IMAGE_NAMES, files_in
from gap_vla.demos.source import NamedArrays


class NpzFolder(NamedArrays):
    """Each file holds arrays of equal length: state (T, S), action (T, A), pictures uint8 (T, h, w, 3), and optionally
    `phase` (T), `language_instruction` (text) and `success`.

    Args:
        path: the folder; files are taken in name order.
        **options: of `NamedArrays`; cameras by default are `image_primary` and `image_wrist` where they exist.

    Raises:
        EpisodeError: no files, a damaged file, a missing array, or arrays that do not fit; names the file.
    """

    kind = "npz"
    STATE_KEY = "proprio"

    def _find(self) -> None:
        self.places = files_in(self.path, ".npz")
        if not self.places:
            what = "no .npz files in this folder" if self.path.is_dir() else "a file; give the folder of the .npz files"
            raise EpisodeError(f"{self.path}: {what}")
        held = [read_arrays(file, lambda _: False) for file in self.places]
        self._names = sorted({name for names in held for name in names})
        self._refuse_idle(self.options["language_instruction"], ("language_instruction" in names for names in held))
        if self.options["image_keys"] is None:
            self._image_keys = {name: name for name in IMAGE_NAMES if name in self._names}

    def mapping(self) -> dict[str, str]:
        return super().mapping() | {"phase": "phase"}

    def dropped(self) -> dict[str, str]:
        return self._unused(self._names, "phase", "language_instruction", "success")

    def read(self, index: int, *, images: bool = True) -> Episode:
        file = self.places[index]
        left = self.dropped() if images else {*self.dropped(), *self._image_keys}
        arrays = read_arrays(file, lambda name: name not in left)
        return self._episode(arrays, f"{file}", images, file=file, name=file.stem)
