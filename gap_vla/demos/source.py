"""Demonstrations on disk as a sequence of Episodes, whatever their format: `open_source(path)`.

A format is one subclass of `Source`, and one line in `READERS`.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from gap_vla.core.columns import Columns
from gap_vla.core.config import choose
from gap_vla.core.episode import HOW_TO_DESCRIBE, LABELS, Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.core.files import mark, replacing
from gap_vla.core.hub import dataset_directory
from gap_vla.demos.arrays import as_frames, as_instruction, as_names, as_rows, as_truth, reading, resized
from gap_vla.demos.fields import AS_DECLARED, Fields, explicit
from gap_vla.demos.kinematics import Robot, is_confirmed, robot_called, robot_for

READERS: dict[str, str] = {
    "robomimic_hdf5": "gap_vla.demos.robomimic_hdf5:RobomimicHDF5",
    "lerobot": "gap_vla.demos.lerobot:LeRobot",
    "npz": "gap_vla.demos.array_files:NpzFolder",
    "pickle": "gap_vla.demos.array_files:ArrayPickles",
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


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a demonstration is; a format may derive its own."""

    file: Path
    name: str  # the episode's `episode_id`

    def __str__(self) -> str:
        return f"{self.file}, episode {self.name}"


class Arrays(Mapping[str, Any]):
    """Arrays by name; each is read when it is asked for."""

    def __init__(self, names: Sequence[str], read: Callable[[str], Any]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> Any:
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclasses.dataclass(frozen=True)
class Recording:
    """One demonstration as its file has it.

    Attributes:
        arrays: by name, such as `Arrays`. Pictures are uint8[T, H, W, 3] (or channels first), or a list of T encoded
            ones (PNG or JPEG bytes). `rho`, `change_point` and `phase`, a value a step, are taken from arrays of these
            names.
        instruction: text, or a text a step.
        success: a truth value, or a word for one.
        metadata: what a dataset keeps of the episode.
    """

    arrays: Mapping[str, Any]
    instruction: Any = ""
    success: Any = True
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Source(Sequence[Episode], abc.ABC):
    """Demonstrations on disk, by index. It may be sent to another process: files are opened by each read.

    A format defines `find` and `recording` and, where its files declare something, `STATES`, `columns_of` and
    `cameras_of`.

    Attributes:
        path: file or folder.
        fields: what is taken for what, as far as the user or a preset said it.
        places: where each episode is.
        names: the arrays of the first episode.
        state, action: names of the arrays that stand side by side in `proprio` and in `action`.
        cameras: camera to name of its array.
        columns, action_columns: what the columns are; None if nobody said.
        robot: by which joints become poses; None if nobody said, or the state holds none.
        notes: what a user should know of the files.
    """

    kind: ClassVar[str]  # the format, a key of `READERS`
    STATES: ClassVar[tuple[str, ...]] = ()  # names of the state; the first one that is there counts
    ACTIONS: ClassVar[tuple[str, ...]] = ("action", "actions")
    INSIDE: ClassVar[tuple[str, ...]] = ()  # what may be left out before a name, as `obs/`
    HINT: ClassVar[str] = ""  # what else to do where there is no state
    output: str | None = "labelled_npz"  # kind of folder (`core.files.mark`) that a labelled copy is; None: a file
    robot_type: str = ""  # what the files call the robot

    def __init__(self, path: str | Path, fields: Fields = AS_DECLARED) -> None:
        self.path, self.fields = Path(path), fields
        self._resolved = resolved = fields.of(self.kind)  # completed by the preset
        self.notes: list[str] = []
        found, filters = self.find()
        self.places = chosen(found, fields.episodes, filters, self.path)
        with reading(self.places[0]), self.recording(self.places[0]) as first:
            self.names = list(first.arrays)
            self.state = self._named(fields.state) or self._if_there(resolved.state) or self.state_names()
            if not self.state:
                what = f"no state was recognised among {self._there()}; name it with --state{self.HINT}"
                raise EpisodeError(f"{self.path}: {what}")
            self.action = self._named(fields.action) or self._if_there(resolved.action) or self._first(self.ACTIONS)
            cameras = fields.images
            if cameras is None:  # of a preset's, those that are there
                of_preset = {camera: name for camera, name in (resolved.images or {}).items() if self._find_name(name)}
                cameras = of_preset or self.cameras_of(first)
            self.cameras = {camera: self._named(name)[0] for camera, name in cameras.items()}
            asked = "" if fields.text else fields.instruction
            self._instruction_name = (self._named(asked) or [self._find_name(resolved.instruction)])[0]
            self._first_instruction = self._instruction(first)
            self.columns = self._described(first, self.state, fields.columns, resolved.columns)
            self.action_columns = self._described(first, self.action, fields.action_columns, resolved.action_columns)
            self.robot = self._robot(self.column_names(self.state, _widths(first, self.state)))

    # What a format says

    @abc.abstractmethod
    def find(self) -> tuple[list[Any], Mapping[str, Sequence[str]]]:
        """The places of all demonstrations, and the filters of the file by name, as names of demonstrations."""

    @abc.abstractmethod
    def recording(self, place: Any) -> contextlib.AbstractContextManager[Recording]:
        """Opens one demonstration."""

    def state_names(self) -> list[str]:
        """The arrays that are the state where the user named none."""
        return self._first(self.STATES)

    def columns_of(self, names: Sequence[str], widths: Sequence[int]) -> Columns | None:
        """What the file itself declares of the columns of these arrays side by side."""
        return None

    def column_names(self, names: Sequence[str], widths: Sequence[int]) -> list[str]:
        """What the file calls the columns of these arrays side by side; nothing if it does not say."""
        return []

    def cameras_of(self, first: Recording) -> dict[str, str]:
        """Camera to array, where the user named none: arrays of pictures that are called as a camera of ours."""
        pictures = [name for name in self.names if name.startswith("image_")]
        return {name: name for name in pictures if np.ndim(first.arrays[name]) in (3, 4)}

    @property
    def about(self) -> dict[str, Any]:
        """How all of it was recorded, as far as the files say: `task`, `variant`, `camera` (the primary one's view)."""
        return {}

    @property
    def fps(self) -> float | None:
        """Steps a second, as far as the files say."""
        return None

    @property
    def sidecar(self) -> Path | None:
        """The file beside the demonstrations into which ρ goes where no copy is named; None: the format has none."""
        return None

    def output_at(self, out: Path) -> str | None:
        """The kind of folder that a labelled copy at `out` is; None: a file."""
        return self.output

    def write_labels(self, out: Path, labels: Sequence[Labels], annotator: Mapping[str, Any]) -> None:
        """Writes a copy with labels to `out`, whole or not at all; where a format does not say how, a folder of npz.

        Args:
            labels: of each episode, in order.
            annotator: what identifies the annotator; it is stored where the format has a place for it.
        """
        with replacing(out) as new:
            new.mkdir()
            for index, own in enumerate(labels):
                episode = self.read(index)
                about = {"language_instruction": episode.language_instruction, "success": episode.success}
                arrays: dict[str, Any] = {**episode.replace(**own).arrays, **about, **self.described}
                name = re.sub(r"[^\w.-]", "_", str(episode.metadata["episode_id"]))
                np.savez_compressed(new / f"{name}.npz", **arrays)
            mark(new, "labelled_npz")

    # Reading

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        wanted = range(len(self))[index]
        return self.read(wanted) if isinstance(wanted, int) else [self.read(i) for i in wanted]

    def read(self, index: int, *, images: bool = True, labels: bool = True) -> Episode:
        """Episode `index`, validated; `images=False`: without pictures; `labels=False`: without stored ρ."""
        try:
            episode = self._read(self.places[index], images, labels).validate(f"{self.places[index]}")
        except EpisodeError as error:
            raise EpisodeError(f"{error}; repair the episode, or leave it out with --episodes") from None
        return episode.replace(poses=self.robot.poses(episode.proprio)) if self.robot else episode

    def _read(self, place: Place, images: bool, labels: bool) -> Episode:
        with reading(place), self.recording(place) as recording:
            state, arrays = joined(recording, self.state, place), recording.arrays
            action = joined(recording, self.action, place) if self.action else state[:, :0]
            pictures = {}
            for camera, name in self.cameras.items() if images else ():
                frames = as_frames(array_at(recording, name, place), f"{place}, {camera}")
                pictures[camera] = resized(frames, self.fields.image_size)
            if len(state) == len(action) + 1:  # what was observed behind the last action is left out
                state, pictures = state[:-1], {camera: frames[: len(action)] for camera, frames in pictures.items()}
            wanted = (*LABELS, "phase") if labels else ("phase",)
            beside = {name: np.asarray(arrays[name]) for name in wanted if name in arrays}
            beside = {name: value for name, value in beside.items() if value.shape == (len(state),)}  # others are none
            stored: dict[str, Any] = {name: beside[name] for name in LABELS if {*LABELS} <= {*beside}}
            if stored and np.isnan(stored["rho"]).all():  # an episode that was not annotated with the others
                stored = {}
            return Episode(
                images=pictures,
                proprio=state,
                action=action,
                language_instruction=self._instruction(recording),
                success=as_truth(recording.success),
                phase=as_names(beside["phase"]) if "phase" in beside else None,
                metadata={"file_path": str(place.file), "episode_id": place.name, **recording.metadata},
                columns=self.columns,
                action_columns=self.action_columns,
                **stored,
            )

    def rows(self, index: int, names: str) -> Float[np.ndarray, "T width"]:
        """Further arrays of an episode by their names in the file; several joined by `+` stand side by side."""
        place = self.places[index]
        with reading(place), self.recording(place) as recording:
            return joined(recording, self._named(names), place)

    def _instruction(self, recording: Recording) -> str | tuple[str, ...]:
        if self.fields.text:
            return self.fields.text
        name = self._instruction_name
        return as_instruction(recording.arrays[name] if name else recording.instruction)

    # Names and columns

    def _named(self, text: str) -> list[str]:
        """The arrays that are named in a text "a+b". Raises EpisodeError: one is not there."""
        found = {name: self._find_name(name) for name in text.split("+") if name}
        if lacking := [name for name in found if not found[name]]:
            raise EpisodeError(f"{self.path}: no array {lacking[0]!r}; there are {self._there()}")
        return list(found.values())

    def _if_there(self, text: str) -> list[str]:
        """The same, or nothing if one is not there: a preset is of several kinds of files."""
        found = [self._find_name(name) for name in text.split("+")]
        return found if all(found) else []

    def _find_name(self, name: str) -> str:
        return next((inside + name for inside in ("", *self.INSIDE) if inside + name in self.names), "")

    def _first(self, names: Sequence[str]) -> list[str]:
        return [name for name in map(self._find_name, names) if name][:1]

    def _there(self) -> str:
        return f"{', '.join(self.names[:30]) or 'nothing'}{', …' if len(self.names) > 30 else ''}"

    def _described(self, first: Recording, names: list[str], text: str, preset: str) -> Columns | None:
        """What the columns are: as the user says, else as the preset says if it fits, else as the file says."""
        widths = _widths(first, names)
        if text and names:
            columns = Columns.parse(text)
            if columns.width != sum(widths):
                said = f"'{columns}' describes {columns.width} columns, {' + '.join(names)} has {sum(widths)}"
                raise EpisodeError(f"{self.path}: {said}")
            return columns
        if preset and Columns.parse(preset).width == sum(widths):
            return Columns.parse(preset)
        return self.columns_of(names, widths) if names else None

    def _robot(self, names: Sequence[str]) -> Robot | None:
        """The robot that the user names; else that of the preset, or of the file if the joints' names confirm it."""
        resolved, asked = self._resolved, self.fields.robot
        how = resolved.tool, resolved.joints, names
        if asked:
            return None if asked == "none" else robot_for(self.columns, asked, *how)
        proposed = resolved.robot or robot_called(self.robot_type)
        if not proposed or self.columns is None or self.columns.has_pose:
            return None
        try:
            robot = robot_for(self.columns, proposed, *how)
        except EpisodeError as error:
            self.notes.append(f"phases are found in joints, not in poses: {error}")
            return None
        if resolved.robot or is_confirmed(robot, names):
            return robot
        self.notes.append(
            f"phases are found in joints, not in poses: they are not called as those of {proposed}; if they are, "
            f"--robot {proposed}"
        )
        return None

    @property
    def described(self) -> dict[str, str]:
        """The description of state and action as text, by the attributes' names, as far as there is one."""
        described = {"columns": self.columns, "action_columns": self.action_columns}
        return {name: str(columns) for name, columns in described.items() if columns}

    # What is said

    def account(self) -> str:
        """What is read as what, a line each."""
        lines = [f"{self.path} ({self.kind}): {len(self)} episodes"]
        lines += [f"  {camera} <- {name}" for camera, name in self.cameras.items()]
        for field, names, key in (("proprio", self.state, "columns"), ("action", self.action, "action_columns")):
            what = f"{' + '.join(names)}: {getattr(self, key) or self._undescribed(names, key)}" if names else "nothing"
            lines.append(f"  {field} <- {what}")
        lines += [f"  pose <- {self.robot}"] if self.robot else []
        told = self._first_instruction
        texts = [told] if isinstance(told, str) else [*dict.fromkeys(told)]
        lines.append(f"  language_instruction <- {repr(' / '.join(texts)[:100]) if any(texts) else 'none'}")
        read = {*self.cameras.values(), *self.state, *self.action, *LABELS, "phase"}
        if others := [name for name in self.names if name not in read]:
            lines.append(f"  {len(others)} other arrays not read")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _undescribed(self, names: list[str], key: str) -> str:
        row = self.rows(0, "+".join(names))[0]
        shown = ", ".join(f"{value:.3g}" for value in row[:16]) + (", …" if len(row) > 16 else "")
        preset = getattr(self._resolved, key)
        unfit = f" (not '{preset}', as layout {self._resolved.layout} has)" if preset else ""
        option = HOW_TO_DESCRIBE if key == "columns" else "--action-columns describes them"
        return f"{len(row)} columns that nobody described{unfit}, [{shown}] at the first step; {option}"

    def identity(self) -> dict[str, Any]:
        """What the episodes are made from: the format, what the user said, and a digest of the files."""
        return {"kind": self.kind, "fields": explicit(self.fields), "content": content_digest(self.path)}


def _widths(first: Recording, names: Sequence[str]) -> list[int]:
    return [as_rows(first.arrays[name][:1], name).shape[1] for name in names]


def joined(recording: Recording, names: Sequence[str], place: Place) -> Float[np.ndarray, "T width"]:
    """Rows of numbers of several arrays side by side, float32."""
    parts = [as_rows(array_at(recording, name, place), f"{place}: {name!r}") for name in names]
    return np.concatenate(parts, axis=1)


def array_at(recording: Recording, name: str, place: Place) -> Any:
    """An array of a recording. Raises EpisodeError: it is not there."""
    if name not in recording.arrays:
        raise EpisodeError(f"{place}: no array {name!r}, which the first episode has")
    return recording.arrays[name]


def chosen(places: list[Any], selection: str, filters: Mapping[str, Sequence[str]], path: Path) -> list[Any]:
    """The places that a selection names: numbers and ranges ("0:10,12"), names of filters, or names of episodes.

    A place may have a `number` of its own; otherwise its number is its position. Raises EpisodeError: nothing is left.
    """
    parts = [part.strip() for part in selection.split(",") if part.strip()]

    def is_wanted(part: str, number: int, name: str) -> bool:
        if span := re.fullmatch(r"(\d*):(\d*)", part):
            return int(span[1] or 0) <= number < float(span[2] or "inf")
        return number == int(part) if part.isdigit() else name in filters.get(part, [part])

    numbered = [(place, getattr(place, "number", position)) for position, place in enumerate(places)]
    found = [place for place, number in numbered if any(is_wanted(part, number, place.name) for part in parts)]
    found = found if selection else places
    if not found:
        known = f"give numbers as 0:10,12, or a filter ({', '.join(filters) or 'there is none'})"
        what = f"none of its {len(places)} episodes is in {selection!r}; {known}" if places else "no demonstrations"
        raise EpisodeError(f"{path}: {what}")
    return found


def open_source(path: str | Path, fields: Fields = AS_DECLARED, kind: str | None = None) -> Source:
    """Opens demonstrations.

    Args:
        path: file or folder; or a LeRobot dataset of the Hugging Face hub, as "lerobot/pusht", which is downloaded if
            no such folder is here.
        fields: what is taken for what; default: what the files declare.
        kind: a name in `READERS`; default: what the path looks like.

    Raises:
        EpisodeError: nothing is there, or nothing that is known.
    """
    path = local_path(path, choose(kind, list(READERS), "kind") if kind else None)
    kind = kind or kind_of(path)
    source: Source = pkgutil.resolve_name(READERS[kind])(Path(path), fields)
    return source


def local_path(path: str | Path, kind: str | None = None) -> Path:
    """The path itself; where nothing is there and it may be the name of a LeRobot dataset on the hub, `OWNER/NAME`, the
    folder into which that is downloaded."""
    known = itertools.chain(*SUFFIXES.values())
    is_name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)) and Path(path).suffix.lower() not in known
    if kind in (None, "lerobot") and is_name and not Path(path).exists():
        return dataset_directory(str(path))
    return Path(path)


def kind_of(path: str | Path) -> str:
    """The format of a file or folder. Raises EpisodeError: it is none of those in `READERS`."""
    path = Path(path)
    for file, kind in (("meta/info.json", "lerobot"), ("features.json", "rlds")):
        if (path / file).exists():
            return kind
    there = path.iterdir() if path.is_dir() else [path] if path.exists() else []
    suffixes = {file.suffix.lower() for file in there}
    for kind, known in SUFFIXES.items():
        if suffixes & {*known}:
            return kind
    formats = f"no file or folder of {', '.join(known[0] for known in SUFFIXES.values())}"
    what = f"{formats}, no LeRobot dataset (meta/info.json) and no RLDS dataset (features.json)"
    if versions := sorted(file.parent for file in path.glob("*/features.json")):
        what = f"a folder of datasets; give one of them, as {versions[-1]}"
    raise EpisodeError(f"{path}: {what if path.exists() else 'no such file or folder'}")


def files_in(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """A file itself, or the files of a folder with one of these suffixes, by name; episode_10 behind episode_2."""
    if not path.is_dir():
        return [path]
    found = [file for file in path.iterdir() if file.suffix.lower() in suffixes and file.name[0] != "."]
    return sorted(found, key=lambda file: natural(file.name))


def natural(name: str) -> list[Any]:
    """A key by which demo_10 comes behind demo_2."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def content_digest(path: str | Path) -> str:
    """SHA-256 over a file, or over the files of a folder and their names; of films only names and sizes."""
    path, total = Path(path), hashlib.sha256()
    for file in sorted(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()):
        own = file.relative_to(path)
        if any(part.startswith(".") for part in own.parts):
            continue
        total.update(str(own).encode() + b"\0")
        if file.suffix.lower() in FILMS:
            total.update(str(file.stat().st_size).encode())
        else:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
