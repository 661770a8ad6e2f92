"""Demonstrations on disk as a sequence of Episodes, whatever their format: `open_source(path)`.

A format is one class in one file, and one line in `READERS`. Most formats are recordings of arrays by name: they derive
from `ArraySource`, and say where the recordings are and what their files declare.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from gap_vla.core.columns import Columns
from gap_vla.core.config import choose, to_dict
from gap_vla.core.episode import HOW_TO_DESCRIBE, LABELS, Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, replacing
from gap_vla.demos.arrays import as_frames, as_instruction, as_names, as_rows, as_truth, resized
from gap_vla.demos.fields import AS_DECLARED, Fields, explicit

READERS: dict[str, str] = {
    "robomimic_hdf5": "gap_vla.demos.robomimic_hdf5:RobomimicHDF5",
    "lerobot": "gap_vla.demos.lerobot:LeRobot",
    "npz": "gap_vla.demos.npz_folder:NpzFolder",
    "pickle": "gap_vla.demos.array_pickles:ArrayPickles",
    "rlds": "gap_vla.rlds.source:RLDS",
}
"""Format to `module:class`."""

HDF5 = (".hdf5", ".h5", ".hdf")
PICKLES = (".pkl", ".pickle")
SUFFIXES = {"robomimic_hdf5": HDF5, "npz": (".npz",), "pickle": PICKLES}
"""Formats that are known by the suffix of a file, or of the files in a folder."""
FILMS = (".mp4", ".mkv", ".webm", ".avi", ".mov")

Labels = Mapping[str, np.ndarray]
"""`rho` (float32[T]) and `change_point` (bool[T]) of one episode."""


class Source(Sequence[Episode], abc.ABC):
    """Demonstrations on disk, by index. It may be sent to another process: files are opened by each read.

    Attributes:
        kind: name of the format, a key of `READERS`.
        path: file or folder.
        fields: what is taken for what, as far as the user or a preset said it.
    """

    kind: str
    path: Path
    fields: Fields = AS_DECLARED
    OUTPUT: str | None = None
    """The mark of the folder that `write_labels` makes (`gap_vla.core.files.mark`); None: it makes a file."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, index: int, *, images: bool = True) -> Episode:
        """Episode `index`, validated; without its pictures if `images` is False."""

    @property
    def about(self) -> dict[str, Any]:
        """How all of it was recorded, as far as the files say: `task`, `variant`, `camera` (the primary one's view)."""
        return {}

    def account(self) -> str:
        """What is read as what, a line each."""
        return f"{self.path} ({self.kind}): {len(self)} episodes"

    def identity(self) -> dict[str, Any]:
        """What the episodes are made from: the format, what the user said, and a digest of the files."""
        said = {key: value for key, value in to_dict(self.fields).items() if key in explicit(self.fields)}
        return {"kind": self.kind, "fields": said, "content": content_digest(self.path)}

    def rows(self, index: int, names: str) -> Float[np.ndarray, "T width"]:
        """Further arrays of an episode by their names in the file; several joined by `+` stand side by side."""
        raise NotImplementedError

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Writes a copy with labels to `out`, whole or not at all.

        Args:
            labels: of each episode, in order.
            annotator: what identifies the annotator; it is stored where the format has a place for it.
        """
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.read(index % len(self))

    def __iter__(self) -> Iterator[Episode]:
        return map(self.read, range(len(self)))

    def without_images(self) -> list[Episode]:
        """All episodes, without their pictures."""
        return [self.read(i, images=False) for i in range(len(self))]


@dataclasses.dataclass(frozen=True)
class Recording:
    """One demonstration as its file has it.

    Attributes:
        arrays: by name; an array is read when it is asked for.
        instruction: text, or a text a step.
        success: a truth value, or a word for one.
        metadata: what a dataset keeps of the episode.
    """

    arrays: Mapping[str, Any]
    instruction: Any = ""
    success: Any = True
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a demonstration is; a format may derive its own."""

    file: Path
    name: str  # the episode's `episode_id`


class ArraySource(Source):
    """Recordings of arrays by name.

    A format defines `find`, `recording` and, where its files declare something, `state_names`, `columns_of` and
    `cameras_of`.
    """

    STATES: ClassVar[tuple[str, ...]] = ()  # names of the state; the first one that is there counts
    ACTIONS: ClassVar[tuple[str, ...]] = ("action", "actions")
    INSIDE: ClassVar[tuple[str, ...]] = ()  # what may be left out before a name, as `obs/`
    HINT: ClassVar[str] = ""  # what else to do where there is no state

    def __init__(self, path: str | Path, fields: Fields = AS_DECLARED) -> None:
        self.path, self.fields = Path(path), fields
        self.notes: list[str] = []
        self._said = said = fields.of(self.kind)
        found, filters = self.find()
        self.places = chosen(found, fields.episodes, filters, self.path)
        with self.recording(self.places[0]) as first:
            self.names = list(first.arrays)
            self.state = self._named(fields.state) or self._of_preset(said.state) or self.state_names()
            self.action = self._named(fields.action) or self._of_preset(said.action) or self._first(self.ACTIONS)
            cameras = fields.images
            if cameras is None:  # of a preset's, those that are there
                of_preset = {camera: name for camera, name in (said.images or {}).items() if self._find_name(name)}
                cameras = of_preset or self.cameras_of(first)
            self.cameras = {camera: self._named(name)[0] for camera, name in cameras.items()}
            asked = "" if fields.text else fields.instruction
            self._text = (self._named(asked) or [self._find_name(said.instruction)])[0]
            if not self.state:
                what = f"no state was recognised among {self._there()}; name it with --state{self.HINT}"
                raise EpisodeError(f"{self.path}: {what}")
            self._told = self._instruction(first)
            self.widths = self._widths(first, self.state)
            self.columns = self._described(self.state, self.widths, fields.columns, said.columns, "columns")
            self.action_columns = self._described(
                self.action,
                self._widths(first, self.action),
                fields.action_columns,
                said.action_columns,
                "action-columns",
            )

    # What a format says

    @abc.abstractmethod
    def find(self) -> tuple[list[Any], Mapping[str, Sequence[str]]]:
        """The places of all demonstrations, and the filters of the file by name, as names of demonstrations."""

    @abc.abstractmethod
    def recording(self, place: Any) -> contextlib.AbstractContextManager[Recording]:
        """Opens one demonstration; what is damaged in it becomes an EpisodeError."""

    def state_names(self) -> list[str]:
        """The arrays that are the state where the user named none."""
        return self._first(self.STATES)

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        """What the file itself declares of the columns of these arrays side by side."""
        return None

    def cameras_of(self, first: Recording) -> dict[str, str]:
        """Camera to array, where the user named none: arrays of pictures that are called as a camera of ours."""
        pictures = [name for name in self.names if name.startswith("image_")]
        return {name: name for name in pictures if np.ndim(first.arrays[name]) in (3, 4)}

    def converted(self, state: np.ndarray) -> np.ndarray:
        """The state as an Episode has it: as the file has it."""
        return state

    # Reading

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int, *, images: bool = True) -> Episode:
        place = self.places[index]
        where = f"{place.file}, episode {place.name}"
        with self.recording(place) as recording:
            arrays = recording.arrays
            state = self.converted(joined(arrays, self.state, where))
            action = joined(arrays, self.action, where) if self.action else state[:, :0]
            pictures = {
                camera: resized(as_frames(array_at(arrays, name, where)), self.fields.image_size)
                for camera, name in (self.cameras if images else {}).items()
            }
            if len(state) == len(action) + 1:  # what was observed behind the last action is left out
                state, pictures = state[:-1], {camera: frames[: len(action)] for camera, frames in pictures.items()}
            steps = (len(state),)
            beside = {name: np.asarray(arrays[name]) for name in (*LABELS, "phase") if name in arrays}
            beside = {name: value for name, value in beside.items() if value.shape == steps}  # others are no labels
            labels = {name: beside[name] for name in LABELS if {*LABELS} <= {*beside}}
            if labels and np.isnan(labels["rho"]).all():  # an episode that was not annotated with the others
                labels = {}
            episode = Episode(
                images=pictures,
                proprio=state,
                action=action,
                language_instruction=self._instruction(recording),
                success=as_truth(recording.success, where),
                phase=as_names(beside["phase"]) if "phase" in beside else None,
                metadata={"file_path": str(place.file), "episode_id": place.name, **recording.metadata},
                columns=self.columns,
                action_columns=self.action_columns,
                **labels,
            )
        try:
            return episode.validate(where)
        except EpisodeError as error:
            raise EpisodeError(f"{error}; repair the episode, or leave it out with --episodes") from None

    def rows(self, index: int, names: str) -> np.ndarray:
        place = self.places[index]
        with self.recording(place) as recording:
            return joined(recording.arrays, self._named(names), f"{place.file}, episode {place.name}")

    def _instruction(self, recording: Recording) -> str | tuple[str, ...]:
        if self.fields.text:
            return self.fields.text
        return as_instruction(recording.arrays[self._text] if self._text else recording.instruction)

    # Names and columns

    def _named(self, text: str) -> list[str]:
        """The arrays that are named in a text "a+b". Raises EpisodeError: one is not there."""
        found = []
        for name in filter(None, text.split("+")):
            found.append(self._find_name(name))
            if not found[-1]:
                raise EpisodeError(f"{self.path}: no array {name!r}; there are {self._there()}")
        return found

    def _of_preset(self, text: str) -> list[str]:
        """The same, or nothing if one is not there: a preset is of several kinds of files."""
        found = [self._find_name(name) for name in text.split("+")]
        return found if all(found) else []

    def _find_name(self, name: str) -> str:
        return next((inside + name for inside in ("", *self.INSIDE) if inside + name in self.names), "")

    def _first(self, names: Sequence[str]) -> list[str]:
        return [name for name in map(self._find_name, names) if name][:1]

    def _there(self) -> str:
        return f"{', '.join(self.names[:30]) or 'nothing'}{', …' if len(self.names) > 30 else ''}"

    def _widths(self, first: Recording, names: Sequence[str]) -> list[int]:
        return [as_rows(first.arrays[name][:1], f"{self.path}: {name}").shape[1] for name in names]

    def _described(self, names: list[str], widths: list[int], text: str, preset: str, option: str) -> Columns | None:
        """What the columns are: as the user says, else as the preset says if it fits, else as the file says."""
        width, columns = sum(widths), Columns.parse(text or preset) if text or preset else None
        if columns is None or not names:
            return self.columns_of(names, widths) if names else None
        if text and columns.width == width:
            return columns
        if not text and width % columns.width == 0:  # presets describe one arm
            return columns.times(width // columns.width)
        declared = None if text else self.columns_of(names, widths)
        if declared is None and (text or option == "columns"):
            said = f"'{columns}' describes {columns.width} columns, {' + '.join(names)} has {width}"
            raise EpisodeError(f"{self.path}: {said}; correct --{option}")
        return declared

    # What is said and written

    def account(self) -> str:
        lines = [super().account(), *(f"  {camera} <- {name}" for camera, name in self.cameras.items())]
        for field, names, columns in (
            ("proprio", self.state, self.columns),
            ("action", self.action, self.action_columns),
        ):
            if not names:
                lines.append(f"  {field} <- nothing")
                continue
            said = f"{columns}" if columns else self._undescribed(names, field)
            lines.append(f"  {field} <- {' + '.join(names)}: {said}")
        texts = [self._told] if isinstance(self._told, str) else [*dict.fromkeys(self._told)]
        text = repr(" / ".join(texts)[:100]) if any(texts) else "none"
        lines.append(f"  language_instruction <- {text}")
        read = {*self.cameras.values(), *self.state, *self.action, *LABELS, "phase"}
        if others := [name for name in self.names if name not in read]:
            lines.append(f"  {len(others)} other arrays not read")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _undescribed(self, names: list[str], field: str) -> str:
        row = self.rows(0, "+".join(names))[0]
        shown = ", ".join(f"{value:.3g}" for value in row[:16]) + (", …" if len(row) > 16 else "")
        option = HOW_TO_DESCRIBE if field == "proprio" else "--action-columns describes them"
        return f"{len(row)} columns that nobody described, [{shown}] at the first step; {option}"

    OUTPUT: str | None = "labelled_npz"

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Writes a folder of npz with all of each episode, for formats that have no place for labels."""
        with replacing(out) as new:
            new.mkdir()
            for index, own in enumerate(labels):
                episode = self.read(index)
                described = {"columns": self.columns, "action_columns": self.action_columns}
                texts = {name: str(columns) for name, columns in described.items() if columns}
                phase = {} if episode.phase is None else {"phase": episode.phase}
                name = re.sub(r"[^\w.-]", "_", str(episode.metadata["episode_id"]))
                arrays: dict[str, Any] = {"proprio": episode.proprio, "action": episode.action, **episode.images}
                arrays |= {"language_instruction": episode.language_instruction, "success": episode.success}
                np.savez_compressed(new / f"{name}.npz", **arrays | phase | texts | dict(own))
            mark(new, "labelled_npz")


def joined(arrays: Mapping[str, Any], names: Sequence[str], where: str) -> np.ndarray:
    """Rows of numbers of several arrays side by side, float32[T, width]."""
    parts = [as_rows(array_at(arrays, name, where), f"{where}: {name!r}") for name in names]
    if len({len(part) for part in parts}) > 1:
        raise EpisodeError(f"{where}: {' + '.join(names)} have {', '.join(str(len(part)) for part in parts)} steps")
    return np.concatenate(parts, axis=1)


def array_at(arrays: Mapping[str, Any], name: str, where: str) -> Any:
    """An array of a recording. Raises EpisodeError: it is not there."""
    if name not in arrays:
        raise EpisodeError(f"{where}: no array {name!r}, which the first episode has")
    return arrays[name]


def chosen(places: list[Any], selection: str, filters: Mapping[str, Sequence[str]], path: Path) -> list[Any]:
    """The places that a selection names: numbers and ranges ("0:10,12"), names of filters, or names of episodes.

    A place may have a `number` of its own; otherwise its number is its position. Raises EpisodeError: nothing is left.
    """
    if not places:
        raise EpisodeError(f"{path}: no demonstrations in it")
    numbered = [(getattr(place, "number", position), place) for position, place in enumerate(places)]
    taken: list[Any] = []
    for part in filter(None, (part.strip() for part in selection.split(","))):
        first, colon, last = part.partition(":")
        if colon and all(not end or end.isdigit() for end in (first, last)):
            low, high = int(first or 0), int(last) if last else np.inf
            taken += [place for number, place in numbered if low <= number < high]
        elif part.isdigit():
            taken += [place for number, place in numbered if number == int(part)]
        else:
            names = {*filters.get(part, [part])}
            taken += [place for place in places if place.name in names]
            if not taken:
                known = f"filters: {', '.join(filters) or 'none'}"
                raise EpisodeError(
                    f"{path}: no filter and no episode {part!r} ({known}); give one, or numbers as 0:10,12"
                )
    if selection and not taken:
        raise EpisodeError(f"{path}: none of its {len(places)} episodes is in {selection!r}")
    wanted = {id(place) for place in taken}
    return [place for place in places if id(place) in wanted] if selection else places


def open_source(path: str | Path, fields: Fields = AS_DECLARED, kind: str | None = None) -> Source:
    """Opens demonstrations.

    Args:
        path: file or folder.
        fields: what is taken for what; default: what the files declare.
        kind: a name in `READERS`; default: what the path looks like.

    Raises:
        EpisodeError: nothing is there, or nothing that is known.
    """
    kind = choose(kind, list(READERS), "kind") if kind else kind_of(path)
    source: Source = pkgutil.resolve_name(READERS[kind])(Path(path), fields)
    return source


def kind_of(path: str | Path) -> str:
    """The format of a file or folder. Raises EpisodeError: it is none of those in `READERS`."""
    path = Path(path)
    if not path.exists():
        raise EpisodeError(f"{path}: no such file or folder")
    if path.is_dir() and (path / "meta" / "info.json").exists():
        return "lerobot"
    if path.is_dir() and (path / "features.json").exists():
        return "rlds"
    suffixes = {file.suffix.lower() for file in (path.iterdir() if path.is_dir() else [path])}
    for kind, known in SUFFIXES.items():
        if suffixes & {*known}:
            return kind
    if versions := sorted(file.parent for file in path.glob("*/features.json")):
        raise EpisodeError(f"{path} holds datasets; give one of them, as {versions[-1]}")
    raise EpisodeError(
        f"{path} is no file or folder of {', '.join(known[0] for known in SUFFIXES.values())}, no LeRobot dataset "
        "(meta/info.json) and no RLDS dataset (features.json)"
    )


def files_in(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """A file itself, or the files of a folder with one of these suffixes, by name."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.name[0] != ".")


def natural(name: str) -> list[Any]:
    """A key by which demo_10 comes behind demo_2."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def content_digest(path: str | Path) -> str:
    """SHA-256 over a file, or over the files of a folder and their names; of films only names and sizes."""
    path, total = Path(path), hashlib.sha256()
    files = sorted(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    for file in files:
        own = file.relative_to(path)
        if any(part.startswith(".") for part in own.parts):
            continue
        total.update(str(own).encode() + b"\0")
        if file.suffix.lower() in FILMS:
            total.update(str(file.stat().st_size).encode())
            continue
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
