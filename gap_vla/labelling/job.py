"""What is to be done to a set of files, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.episode import Episode
from gap_vla.phases import Annotation, annotate, load_annotator


class LabellingError(ValueError):
    """Files that cannot be labelled as asked; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class LabelJob:
    """How to label.

    Attributes:
        method, seed, options: of `gap_vla.phases.annotate`.
        annotator: folder of a saved annotator: label with it, fit nothing.
        layout: of foreign states, see `gap_vla.demos.layout.StateLayout`; a name or its fields.
        state: RLDS: the state's feature below `steps/`.
        workers: processes.
        overwrite: replace what exists, once the new files are complete.
    """

    method: str = "lstm"
    seed: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    annotator: Path | None = None
    layout: str | Mapping[str, Any] = "gap"
    state: str = "observation/proprio"
    workers: int | None = None
    overwrite: bool = False

    def run(self, episodes: Sequence[Episode], fit: Sequence[int] | None = None) -> Annotation:
        """Labels the episodes; the annotator is fitted on those named by `fit`, by default on all."""
        if self.annotator is not None:
            return load_annotator(self.annotator).label(episodes, workers=self.workers)
        chosen = episodes if fit is None else [episodes[i] for i in fit]
        fitted = annotate(chosen, method=self.method, seed=self.seed, workers=self.workers, **self.options)
        if len(chosen) == len(episodes):
            return fitted
        everything = fitted.annotator.label(episodes, workers=self.workers)
        report = {**everything.report, "estimator": fitted.report.get("estimator")}
        return dataclasses.replace(everything, report=report)


@dataclasses.dataclass(frozen=True)
class LabelledFiles:
    """Where the labelled copy is, and the labels in its order of episodes."""

    path: Path
    annotator: Path
    annotation: Annotation
    episodes: Sequence[Episode]


def change_flags(annotation: Annotation, index: int) -> np.ndarray:
    """bool[T] of one episode."""
    flags = np.zeros(len(annotation.rho[index]), bool)
    flags[annotation.change_points[index]] = True
    return flags


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it takes its place, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
