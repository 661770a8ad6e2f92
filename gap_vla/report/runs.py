"""Finished runs as a report reads them, whichever command made them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section
from gap_vla.core.identity import differences
from gap_vla.core.measurements import hole, read_metrics, require_losses, require_measurements
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.seals import require_sealed
from gap_vla.core.typed_config import SEED, STEPS
from gap_vla.report.comparison import (
    Rollouts,
    evaluations_of,
    read_rollouts,
    require_asked,
    require_comparable,
    require_settings,
)
from gap_vla.report.contradictions import require_between, require_own_data, require_same_setting
from gap_vla.report.evaluation_page import VARIANTS_FILE
from gap_vla.rollouts.film_notes import film_contradicts, film_of, unlike_note
from gap_vla.rollouts.record import (
    EPISODES_FILE,
    IDENTITY_FILE,
    SUMMARY_FILE,
    read_episodes,
    whose,
)
from gap_vla.rollouts.summary import odd_parts


class ReportError(UserError, ValueError):
    """Something that cannot be reported; the message says what to give instead."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory of `train_small.py` or `finetune.py`: its configuration, its summary (empty while it is not
    complete), and variant to what `evaluate` returned and to outcomes.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Any]]
    rollouts: Mapping[str, Rollouts]

    @classmethod
    def read(cls, path: Path | str) -> Run:
        """
        Raises:
            ReportError: no run directory, a configuration or a summary that is none, or figures that do not agree.
        """
        run = RunDirectory(path if Path(path).name else Path(path).absolute())  # a page names it, also where it is `.`
        if not run.config.exists():
            raise ReportError(f"{path} is no run directory (no config.json); give one that lies in runs/TASK/")
        config = Section(run.read_config(ReportError), str(run.config), ReportError)
        if "task" not in config and "model" in config:
            raise ReportError(f"{path} is no run directory (its config.json is an Octo's); give one of runs/TASK/")
        own: dict[str, Any] = {"task": config.text("task"), "method": config.text("method")}
        config.section("model", {})
        own["seed"] = config.section("train").whole("seed", 0, int(SEED.most))
        complete = run.complete  # asked once: it may end meanwhile
        found = Section.read(run.summary, ReportError) if complete else Section(own, str(run.summary), ReportError)
        if complete:
            found.require("seconds", "rollouts")
            train = config.section("train")
            asked = None if train.values.get("epochs") else train.whole("steps", 0, STEPS)
            found.whole("steps", asked or 0, asked or STEPS)
            found.section("validation").require("val/action_mse", "val/mean_action_mse")
        if others := [key for key in own if found.values.get(key, own[key]) != own[key]]:
            raise ReportError(f"{run.summary} is of another {others[0]} than {run.config}; copy the run again")
        for section, key in (("dataset", "store"), ("dataset", "path"), ("machine", "commit")):
            found.section(section, {}).text(key, "")
        found.section("seconds", {}).require_numbers(0, 1e9)
        found.section("origin", {})
        for part in ("validation", "training"):
            require_measurements(found.section(part, {}))
        if run.dataset.exists():
            dataset = Section.read(run.dataset, ReportError)
            require_own_data(dataset, config, "copy the run again")
            now = dataset.values if complete else {}
            made = found.section("dataset", {}).section("identity", {}).values
            if other := [key for key, value in now.items() if key != "rlds" and made.get(key, value) != value]:
                raise ReportError(f"{run.dataset} is of another {other[0]} than {run.summary}; copy the run again")
        rollouts = read_rollouts(found)
        evaluations: dict[str, Mapping[str, Any]] = {}
        for variant, one in evaluations_of(found).items():
            evaluations[variant] = one.values
            _require_films(one)
        for variant in evaluations:
            for folder in (run.rollouts / variant, run.rollouts):
                beside = any((folder / name).exists() for name in (IDENTITY_FILE, SUMMARY_FILE))
                for kept in (folder / IDENTITY_FILE, folder / SUMMARY_FILE):
                    written = dict(Section.read(kept, ReportError).values) if kept.exists() else {}
                    written.pop("wall_seconds_of_last_run", None)
                    now = {key: evaluations[variant].get(key, value) for key, value in written.items()}
                    if other := [*differences(now, written)]:
                        raise ReportError(f"{kept} is of another {other[0]} than {run.summary}; copy the run again")
                played = folder / EPISODES_FILE
                if beside and not played.exists():
                    raise ReportError(f"{played} is missing; copy the run again")
                records = read_episodes(played)[0].values() if played.exists() else ()
                if beside and {r.layout_seed for r in records} != {*evaluations[variant]["layout_seeds"]}:
                    counts = f"{len(records)} episodes, {run.summary} {len(evaluations[variant]['layout_seeds'])}"
                    raise ReportError(f"{played} holds {counts}; copy the run again, or finish it with --resume")
                for film in _films(folder / "videos") if beside and (folder / IDENTITY_FILE).exists() else ():
                    identity = Section.read(folder / IDENTITY_FILE, ReportError).values
                    number = film_of(film.name)
                    layout = next((r.layout_seed for r in records if r.episode == number), None)
                    if number is not None and (told := unlike_note(film, whose(identity, number, layout))):
                        raise ReportError(f"{film} {told}; copy the run again")
                if odd := odd_parts(evaluations[variant], records):
                    raise ReportError(f"{played}: {odd[0]} is other than {run.summary} says; copy the run again")
        if complete and "eval" in config:
            require_asked(found, rollouts, config.section("eval"))
            require_settings(found, config)
        first: Mapping[str, Any] = next(iter(evaluations.values()), {})
        said = {"rollouts": first, "success": first.get("success_rate"), "interval": first.get("interval")}
        for key, right in said.items():
            if found.values.get(key, right) != right:
                raise found.refuse(key, "that of its first evaluation; copy the run again")
        require_sealed(run, found)
        return cls(run.path, config.values, found.values if complete else {}, evaluations, rollouts)

    @property
    def task(self) -> str:
        return self.config["task"]

    @property
    def method(self) -> str:
        return self.config["method"]

    @property
    def seed(self) -> int:
        return int(self.config["train"]["seed"])

    @property
    def label(self) -> str:
        return f"{self.method}, seed {self.seed}"

    @property
    def lost(self) -> Path | None:
        """The file without which its policy cannot be rolled out, if it is not there."""
        kept = RunDirectory(self.path).checkpoint / ("policy.json" if self.small else "config.json")
        return None if kept.is_file() else kept

    @property
    def not_looked_at(self) -> list[str]:
        """Folders in it that hold evaluations which its summary does not name."""
        rollouts = RunDirectory(self.path).rollouts
        read = {folder for variant in self.evaluations for folder in (rollouts / variant, rollouts)}
        marks = (f"*/{name}" for name in (IDENTITY_FILE, VARIANTS_FILE))
        found = {path.parent for mark in marks for at in (self.path, rollouts) for path in at.glob(mark)}
        return sorted(str(folder.relative_to(self.path)) for folder in found - read)

    @property
    def small(self) -> bool:
        """Whether it is a small torch policy, whose features can be probed."""
        return "encoder" in self.config.get("model", {})

    @property
    def store(self) -> Path | None:
        """The episode store that it was trained on: as its summary says, or below the `data.root` that was corrected
        since; seen from here or from beside its `runs`. None: it is not there, or no summary names it."""
        dataset = self.summary.get("dataset", {})
        if not (named := dataset.get("store") or dataset.get("path")):
            return None
        recorded = Path(named)
        if not (self.small or "store" in dataset) and len(recorded.parents) > 3:
            # root/rlds/NAME/TASK/VERSION, with the store in root/store/NAME
            recorded = recorded.parents[3] / "store" / recorded.parents[1].name
        beside = [*self.path.absolute().parents][:3][-1]
        data = self.config.get("data")
        root = data.get("root") if isinstance(data, dict) else None
        stores = recorded, *([Path(root) / "store" / recorded.name] if isinstance(root, str) else [])
        places = (place for store in stores for place in (store, beside / store))
        return next((place for place in places if (place / "store.json").exists()), None)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        path, key = RunDirectory(self.path).metrics, "val/action_mse"
        if not self.path.exists():
            raise ReportError(f"{self.path} was moved or removed while it was read; give its new place")
        rows = read_metrics(path, finished=bool(self.summary)) if path.exists() else []
        named = [Section(row, f"{path}: step {row['step']}", ReportError) for row in rows]
        for one in named:
            require_losses(one, self.config, "loss", "copy the run again")
            require_between(one, "copy the run again")
        config = Section(self.config, str(RunDirectory(self.path).config), ReportError)
        require_same_setting(named, config, "copy the run again")
        train = config.section("train")
        most = STEPS if train.values.get("epochs") else train.whole("steps", 0, STEPS, STEPS)
        if not self.summary and rows and rows[-1]["step"] > most:
            raise ReportError(f"{path} goes on to step {rows[-1]['step']}, its settings to {most}; copy the run again")
        if self.summary:
            last, steps = rows[-1] if rows else {}, self.summary["steps"]
            if last.get("step") != steps or key not in last:
                raise ReportError(f"{path} does not end with {key} of step {steps}, where the run ended; copy it again")
            for name, own in self.summary["validation"].items():
                if abs(last.get(name, own) - own) > 1e-5 * abs(last.get(name, own)):
                    said = f"{name} {last[name]:g}, summary.json has {own:g}"
                    raise ReportError(f"{path} ends with {said}; copy the run again")
        return rows

    @property
    def hole(self) -> str:
        """What the measurements lack, in words; empty if nothing. Of a run that is not finished, those of its last
        step may still come."""
        steps = self.summary["steps"] if self.summary else STEPS
        done = steps if self.summary else self.metrics[-1]["step"] - 1 if self.metrics else -1
        if done < 0:
            return ""
        return hole(self.metrics, Section.read(RunDirectory(self.path).config, ReportError), done, steps)

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one measurement; empty where it was not taken."""
        rows = [(row["step"], row[name]) for row in self.metrics if name in row]
        steps, values = zip(*rows) if rows else ((), ())
        return np.array(steps), np.array(values, float)

    def videos(self, variant: str) -> list[Path]:
        """Where they are, or were: in the variant's folder, or, of the only variant of older runs, in that of all."""
        folder = RunDirectory(self.path).rollouts
        found = self.evaluations.get(variant, {}).get("videos", [])
        places = [[base / name for base in (folder / variant, folder)] for name in found]
        return [next((place for place in both if place.is_file()), both[0]) for both in places]


def _films(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.mp4") if film_of(path.name) is not None and path.is_file())


def _require_films(evaluation: Section) -> None:
    """Raises the section's error for what is no name of a film, or that of an episode that ended otherwise."""
    outcomes = dict(enumerate(evaluation.values["outcomes"]))
    for name in evaluation.list("videos", Section.text):
        film = name.removeprefix("videos/")
        if film == name or film_of(film) is None:
            raise evaluation.refuse("videos", f"names of films in its folder, not {name!a}")
        if film_of(film) not in outcomes:
            raise evaluation.refuse("videos", f"films of its episodes, and there is no episode {film_of(film)}")
        if film_contradicts(film, outcomes):
            ended = Path(film).stem.rpartition("_")[2]
            raise evaluation.refuse("videos", f"films of its episodes, and episode {film_of(film)} was no {ended}")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs of a page. Raises ReportError: none, runs of several tasks, two of a method and seed, or what
    `require_comparable` refuses.
    """
    found = [Run.read(path) for path in paths]
    tasks = sorted({run.task for run in found})
    if len(tasks) != 1:
        raise ReportError(f"a report needs runs of one task; these are of {', '.join(tasks) or 'none'}")
    for one, other in itertools.combinations(found, 2):
        if one.label == other.label:
            raise ReportError(f"{one.path} and {other.path} are both {one.label}; give one of them")
    measured = [(str(run.path), run.seed, run.summary.get("validation", {}), run.evaluations) for run in found]
    require_comparable(measured, ReportError)
    return found


def by_method(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of each method, in the order in which the methods were given."""
    return {method: [r for r in runs if r.method == method] for method in dict.fromkeys(run.method for run in runs)}
