"""What the run that made a checkpoint says about acting: task, execution, digests of what was rolled out."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.foreign import CheckpointError, Section, real_path
from gap_vla.core.locks import is_held
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.seals import DIGESTS, EXPORTED, require_sealed
from gap_vla.core.typed_config import STEPS
from gap_vla.rlds.statistics import NORMALIZATIONS
from gap_vla.rollouts.policy import PolicyError


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What the `config.json` of the run that made a checkpoint says about acting; the defaults if nobody knows."""

    task: str | None = None
    method: str | None = None
    execute: int = 1
    ensemble: bool = False
    normalization: str | None = None
    cameras: str | None = None
    threads: int = 1
    camera: str | None = None
    image_size: int | None = None
    steps: int | None = None
    pictures: int | None = None
    """Version of the simulator's pictures that it was trained on."""
    acted: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Digests of the weights and statistics that were rolled out when the run ended."""
    exported: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Digests of the checkpoint's files, by name."""

    @classmethod
    def read(cls, path: Path) -> TrainedRun:
        found = Section.read(path, CheckpointError)
        if "method" not in found or "task" not in found:
            return cls()  # somebody else's file
        evaluation, train, demos = (found.section(name, {}) for name in ("eval", "train", "demos"))
        acted: dict[str, Any] = {}
        exported: Mapping[str, Any] = {}
        ended_at = pictures = None
        if (file := path.with_name("dataset.json")).is_file():
            collected = Section.read(file, CheckpointError).section("demos", {})
            _require_task(found, collected)
            pictures = collected.whole("pictures_version", 1, 1_000_000, 1) if "task" in collected else None
        if os.path.lexists(file := path.with_name("summary.json")):
            ended = Section.read(file, CheckpointError)
            require_sealed(RunDirectory(path.parent), ended, moved=True)
            if DIGESTS not in ended:  # as of version 0.1
                print(f"note: {file} holds no digests: later edits of its run are not noticed", file=sys.stderr)
            ended_at = ended.whole("steps", 0, STEPS) if "steps" in ended else None
            _require_task(found, ended)
            exported = ended.section(EXPORTED, {}).values
            rollouts = ended.section("rollouts", {}) if ended.values.get("rollouts") else ended
            played = rollouts.section("policy", {}).values
            acted = {key: played[key] for key in ("parameters", "statistics") if key in played}
        elif not is_held(RunDirectory(path.parent).lock):  # nobody is training it
            print(f"note: {file} is missing: edits of its run are not noticed", file=sys.stderr)
        return cls(
            acted=acted,
            exported=exported,
            task=found.text("task"),
            method=found.text("method"),
            execute=evaluation.whole("execute", 1, 100_000, 1),
            ensemble=evaluation.flag("ensemble", False),
            normalization=found.section("data", {}).choice("normalization", NORMALIZATIONS, "normal"),
            cameras=" ".join(sorted(demos.list("cameras", Section.text))) if "cameras" in demos else None,
            threads=train.whole("threads", 1, 1024, 1),
            camera=demos.text("camera", "near"),
            image_size=demos.whole("image_size", 1, 4096) if evaluation.values.get("episodes") else None,
            steps=ended_at,
            pictures=pictures,
        )


def _require_task(found: Section, said: Section) -> None:
    """Raises CheckpointError: what lies beside a run's settings says another task than they do."""
    if "task" in said and (other := said.text("task")) != (task := found.text("task")):
        name = Path(found.where).name
        raise CheckpointError(f"{said.where} says task {other}, {name} {task}; copy the run again")


def locate(path: Path) -> tuple[str, TrainedRun]:
    """The checkpoint's directory, and what is known of the run that made it: whose `checkpoint/` it is.

    Raises:
        PolicyError: no such directory, a run that is not whole, or a policy beside a folder that would be taken for it.
    """
    if not path.is_dir():
        raise PolicyError(f"{path}: no such directory; give a run directory or a checkpoint directory")
    directory, run = (path / "checkpoint", path) if (path / "checkpoint").is_dir() else (path, real_path(path).parent)
    if directory == path and (path / "dataset.json").is_file():
        raise PolicyError(f"{path}: a run without its checkpoint/; finish it with --resume, or copy it whole")
    if directory != path and (own := policies_in(path)):
        raise PolicyError(f"{path} is {own[0]} and holds another checkpoint/; give {directory}, or move one away")
    if run != path and real_path(path).name != "checkpoint":  # somebody's, wherever it is kept
        return str(directory), TrainedRun()
    settings, left = run / "config.json", ("dataset.json", "metrics.jsonl", "summary.json")
    if not settings.exists() and any((run / n).exists() for n in left):
        raise PolicyError(f"{run} has lost its config.json: copy the run again")
    return str(directory), TrainedRun.read(settings) if settings.is_file() else TrainedRun()


def policies_in(folder: Path) -> list[str]:
    """What a folder is the checkpoint of, by its files: "a small policy (policy.json)", an Octo, or both."""
    kinds = {"a small policy": ["policy.json"], "an Octo": ["config.json", "example_batch.msgpack"]}
    there = {kind: names for kind, names in kinds.items() if all((folder / name).is_file() for name in names)}
    return [f"{kind} ({', '.join(names)})" for kind, names in there.items()]
