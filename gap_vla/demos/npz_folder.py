"""A folder of `.npz` files, one demonstration each."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.columns import Columns
from gap_vla.core.errors import EpisodeError, UserError
from gap_vla.core.files import mark, replacing
from gap_vla.demos.arrays import as_text
from gap_vla.demos.source import ArraySource, Labels, Place, Recording, files_in

PARTS = ("position", "quaternion", "gripper")
"""Arrays of which a state may be made: position (m), quaternion wxyz, and an opening or two fingers (m)."""


class NpzFolder(ArraySource):
    """Each file holds arrays of equal length: a state, actions, pictures, `phase`; and texts or numbers.

    `columns` and `action_columns`, texts, may describe the state and the actions.
    """

    kind = "npz"
    STATES = ("proprio", "state", "observation/state", "observation.state")

    def find(self) -> tuple[list[Place], dict[str, list[str]]]:
        return [Place(file, file.stem) for file in files_in(self.path, (".npz",))], {}

    @contextlib.contextmanager
    def recording(self, place: Place) -> Iterator[Recording]:
        try:
            with np.load(place.file, allow_pickle=False) as arrays:
                success = arrays["success"] if "success" in arrays else True
                text = arrays["language_instruction"] if "language_instruction" in arrays else ""
                yield Recording(arrays, text, success)
        except UserError:
            raise
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise EpisodeError(f"{place.file} cannot be read as arrays ({error}); write it again") from None

    def state_names(self) -> list[str]:
        parts = [name for name in PARTS if name in self.names]
        return self._first(self.STATES) or (parts if "position" in parts else [])

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        field = "columns" if names == self.state else "action_columns"
        if field in self.names:
            with self.recording(self.places[0]) as first:
                return Columns.parse(as_text(first.arrays[field]))
        if {*names} <= {*PARTS}:
            words = {"position": "position", "quaternion": "quat_wxyz", "gripper": "gripper:2"}
            return Columns.parse(" ".join("gripper_01" if w == 1 else words[n] for n, w in zip(names, widths)))
        return None

    OUTPUT = "labelled_npz"

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Copies each file with all that it holds, and adds `rho`, `change_point` and what the columns are."""
        described = {"columns": self.columns, "action_columns": self.action_columns}
        texts = {name: np.array(str(columns)) for name, columns in described.items() if columns}
        with replacing(out) as new:
            new.mkdir()
            for place, own in zip(self.places, labels):
                own = {**own, **texts}
                added = {f"{name}.npy" for name in own}
                with zipfile.ZipFile(place.file) as old, zipfile.ZipFile(new / place.file.name, "w") as copy:
                    for member in old.infolist():
                        if member.filename not in added:
                            with old.open(member) as source, copy.open(member, "w", force_zip64=True) as target:
                                shutil.copyfileobj(source, target, 1 << 20)
                    for name, value in own.items():
                        buffer = io.BytesIO()
                        np.lib.format.write_array(buffer, value, allow_pickle=False)
                        copy.writestr(f"{name}.npy", buffer.getvalue())
            (new / "annotated.json").write_text(json.dumps({"annotator": dict(annotator)}, indent=2) + "\n")
            mark(new, "labelled_npz")
