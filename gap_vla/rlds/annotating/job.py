"""What is to be done to a set of files, and what came of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gap_vla.core.episode import LABELS, LARGEST_STATE, PROPRIO_PER_ARM, Episode, EpisodeError, require_measured
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, parsed, real_path, refusing
from gap_vla.core.marks import FOLDER_MARK, file_mark, made_by
from gap_vla.demos.beside import PER_STEP
from gap_vla.demos.layout import StateLayout
from gap_vla.phases import Annotation, Annotator, annotate, load_annotator
from gap_vla.phases.annotation import checked_options
from gap_vla.rlds.reader import column_names
from gap_vla.rlds.schema import Schema


class AnnotationError(UserError, ValueError):
    """Files that cannot be annotated as asked; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class AnnotationJob:
    """How to annotate.

    Attributes:
        method, seed, options: of `gap_vla.phases.annotate`.
        annotator: folder of a saved annotator: annotate with it, fit nothing.
        layout: of foreign states, see `gap_vla.demos.layout.StateLayout`; a name or its fields. None: as the kind of
            file names them, of RLDS and npz `gap`.
        state: RLDS: the state's feature below `steps/`, or several joined by `+`.
        extra: further joints or hand channels whose motion counts too: RLDS features below `steps/`, HDF5 observations
            below `obs/`, arrays of an npz; several joined by `+`; empty: none.
        workers: processes.
        overwrite: replace what exists, once the new files are complete.
    """

    method: str = "lstm"
    seed: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    annotator: Path | None = None
    layout: str | Mapping[str, Any] | None = None
    state: str = "observation/proprio"
    extra: str = ""
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.annotator is None:
            checked_options(self.method, self.options, self.seed)
        else:
            fitted = load_annotator(self.annotator)
            if self.method not in ("lstm", fitted.method) or self.options or self.seed:
                raise AnnotationError("method, options, seed: no effect with an annotator; leave them out")
            self._require_extra(fitted)
            require_of_labels(Path(self.annotator))
        if self.extra and self.annotator is None and self.method == "column" and self.options.get("rho") != "lstm":
            raise AnnotationError("extra has no effect with method column, which reads change points; leave it out")
        column_names("state", self.state, AnnotationError)
        if self.extra:
            column_names("extra", self.extra, AnnotationError)
        if odd := [name for name in self.extra_names if name.rpartition("/")[2].lower() in PER_STEP]:
            raise AnnotationError(f"extra: {odd[0]!r} is no joint and no channel of a hand; leave it out")

    @property
    def columns(self) -> StateLayout:
        """Of states that have no names of their own."""
        return StateLayout.of(self.layout or "gap")

    @functools.cached_property
    def fitted_unit(self) -> Literal["m", "1"] | None:
        """Of openings, as the annotator was fitted on them; None: there is none, or it does not say."""
        unit = "" if self.annotator is None else load_annotator(self.annotator).unit
        return "m" if unit == "m" else "1" if unit else None

    @property
    def extra_names(self) -> list[str]:
        return self.extra.split("+") if self.extra else []

    def extra_said(self) -> dict[str, str]:
        """For the account of what is read."""
        return {"extra": " + ".join(self.extra_names)} if self.extra else {}

    def _require_extra(self, annotator: Annotator) -> None:
        """Raises AnnotationError: as many extra columns were called otherwise when it was fitted. What is `joint_pos`
        in one kind of file may be `robot0_joint_pos` in another."""
        asked, fitted = ([name.rpartition("/")[2] for name in names] for names in (self.extra_names, annotator.extra))
        if len(asked) == len(fitted) and not all(a.endswith(b) or b.endswith(a) for a, b in zip(asked, fitted)):
            raise AnnotationError(
                f"{self.annotator} was fitted with extra {'+'.join(annotator.extra)}, not {self.extra}; name the same, "
                "or fit another"
            )

    def require_apart(self, state: Sequence[str], where: str) -> None:
        """Raises AnnotationError: what `extra` names is already in the state."""
        if twice := [name for name in self.extra_names if name in state]:
            raise AnnotationError(f"{where}: extra names {twice[0]!r}, which is the state itself; leave it out")

    def run(
        self, episodes: Sequence[Episode], extra: Sequence[np.ndarray] | None = None, fit: Sequence[int] | None = None
    ) -> Annotation:
        """Labels the episodes; the annotator is fitted on those named by `fit` (a training split), else on all. Raises
        EpisodeError: they have not one layout."""
        if len(episodes) > 1:  # a copy may have phases of some; where points are theirs, all need them
            Schema.of(episodes[0].replace(phase=None)).check(*(one.replace(phase=None) for one in episodes))
        for first in episodes[:1]:
            arms, columns = first.proprio.shape[1] // PROPRIO_PER_ARM, first.action.shape[1]
            if arms > 1 and columns % arms:
                said = f"the state of {first.name} is taken for that of {arms} arms, its actions have {columns} columns"
                print(f"note: {said}; if it is one arm, give a layout whose width is that of the state", flush=True)
        for episode, columns in zip(episodes, extra or ()):
            if np.abs(columns).max(initial=0) <= LARGEST_STATE:  # encoders may count further
                require_measured(columns, f"{episode.name}: {self.extra}")
            if columns.shape[1:] != extra[0].shape[1:]:  # type: ignore[index]
                widths = f"{columns.shape[1]} columns, the first episode's {extra[0].shape[1]}"  # type: ignore[index]
                raise EpisodeError(f"{episode.name}: {self.extra} has {widths}; drop the episode, or name others")
        if self.annotator is not None:
            return load_annotator(self.annotator).annotate(episodes, workers=self.workers, extra=extra)
        annotation = annotate(
            episodes, method=self.method, seed=self.seed, workers=self.workers, extra=extra, fit=fit, **self.options
        )
        named = dataclasses.replace(annotation.annotator, extra=tuple(self.extra_names))
        return dataclasses.replace(annotation, annotator=named)


def labelled_by(file: Path) -> str | None:
    """The hash of the annotator that an HDF5 file names. Raises AnnotationError: what stands in its place is none."""
    from gap_vla.demos.hdf5_members import attributes_of_data

    said = attributes_of_data(file).get("annotator")
    advice = "annotate again, or rename it if it is yours"
    with refusing(f"{file}: its attribute 'annotator' is none of ours", advice, AnnotationError, own=AnnotationError):
        return None if said is None else Section(parsed(said), "it", EpisodeError).text("hash")


def require_of_labels(annotator: Path) -> None:
    """Raises AnnotationError: the HDF5 file beside it has the labels of another annotator, or the folder of ours that
    it is in was written with another."""
    if annotator.name == "annotator" and made_by(annotator.parent):
        written = Section.read(annotator.parent / FOLDER_MARK, AnnotationError).section("files", {}).values
        marks = {name: mark for name, mark in written.items() if name.startswith("annotator/")}
        if any(file_mark(real_path(annotator.parent / name)) != mark for name, mark in marks.items()):
            raise AnnotationError(
                f"{annotator} is not what was written with {annotator.parent}; copy it again, or use your own from "
                "another place"
            )
    file = Path(str(annotator).removesuffix(".annotator"))
    if (made := labelled_by(file)) and made != Section.read(annotator / "annotator.json", AnnotationError).text("hash"):
        raise AnnotationError(
            f"{annotator} is not what made the labels of {file}; another annotate was killed, or both were written at "
            "once: annotate again, or give the annotator another name"
        )


@dataclasses.dataclass(frozen=True)
class AnnotatedFiles:
    """Where the annotated copy is, and the labels in its order of episodes.

    Attributes:
        path: the annotated copy.
        annotator: folder of its annotator.
        annotation: the labels.
        episodes: as they were read, without images and labels.
        read: gives an episode of the copy with its images, by its place in `episodes`.
    """

    path: Path
    annotator: Path
    annotation: Annotation
    episodes: Sequence[Episode]
    read: Callable[[int], Episode]


def require_replaceable(name: str, found: np.ndarray, where: object) -> None:
    """Raises AnnotationError: what stands in the place of a label is not one number from 0 to 1 per step (or NaN, as of
    a damaged label), so somebody else's."""
    require_numbers(name, found.shape, found.dtype, where)
    if (beyond := (found < 0) | (found > 1)).any():
        value, step = found[beyond.argmax()].item(), beyond.argmax()
        raise AnnotationError(f"{where}: {name!r} is {value!r} at step {step}, no label of ours; rename it first")


def require_numbers(name: str, shape: Sequence[int | None], dtype: np.dtype, where: object) -> None:
    """The same by its type alone, as it is declared."""
    if len(shape) != 1 or dtype.kind not in "fiub":
        raise AnnotationError(f"{where}: {name!r} is {dtype}{[*shape]}, no label of ours; rename it first")


def require_pair(found: Iterable[str], where: object) -> None:
    """Raises AnnotationError: of the two labels all episodes together have one, and annotate writes both."""
    if len(lone := {*found} & {*LABELS}) == 1:
        raise AnnotationError(
            f"{where}: {min(lone)!r} without {min({*LABELS} - lone)!r}, no label of ours; rename it first"
        )


def labels_of(stored: Sequence[set[str]], index: int, where: str) -> set[str]:
    """Which labels an episode has, of those that are `stored` of each; raises AnnotationError if others have more."""
    if lost := set().union(*stored) - stored[index]:
        raise AnnotationError(f"{where}: no {min(lost)}, which other episodes have; annotate again")
    return stored[index]


def joined(names: Sequence[str], column: Callable[[str], np.ndarray], where: str) -> np.ndarray:
    """Columns side by side, f64[T, E]; `column` gives each by its name. Raises AnnotationError: they are not numbers of
    equally many steps; EpisodeError: NaN or infinity."""
    parts = []
    for name in names:
        value = column(name)
        if value.dtype.kind not in "fiub" or value.ndim not in (1, 2) or 0 in value.shape[1:]:
            raise AnnotationError(f"{where}: '{name}' is {value.dtype}{list(value.shape)}, not T×E numbers")
        parts.append(value.reshape(len(value), -1).astype(np.float64))
        if len(odd := np.argwhere(~np.isfinite(parts[-1]))):
            raise EpisodeError(
                f"{where}: '{name}' is NaN or infinite at step {odd[0, 0]}, column {odd[0, 1]}; repair or drop it"
            )
    if len({len(part) for part in parts}) > 1:
        raise AnnotationError(f"{where}: {', '.join(names)} have {[len(part) for part in parts]} steps")
    return np.concatenate(parts, axis=1)
