"""The ledger: one JSON file per finished or failed cell, `results/<table>/<profile>/<cell>.json`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.tables.cells import Cell, config_hash
from gap_vla.cli.arguments import MANY
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, regular
from gap_vla.core.identity import flat
from gap_vla.core.measurements import require_losses, require_measurements
from gap_vla.core.typed_config import EPISODES, SEED, STEPS
from gap_vla.core.whole import write_json
from gap_vla.report.comparison import Rollouts
from gap_vla.sim.specs import TASK_NAMES

FINISHED, FAILED = "finished", "failed"


class LedgerError(UserError, ValueError):
    """A ledger file that cannot be read; the message names it."""


def rollouts_to_json(found: Rollouts) -> dict[str, Any]:
    """`outcomes` is a string of 0 and 1 in the order of the layouts, which are counted from `first_layout` on."""
    outcomes = "".join(str(int(success)) for success in found.values())
    return {"successes": sum(found.values()), "episodes": len(found), "first_layout": min(found), "outcomes": outcomes}


def rollouts_from_json(found: Mapping[str, Any]) -> Rollouts:
    return {layout: digit == "1" for layout, digit in enumerate(found["outcomes"], found["first_layout"])}


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the ledger holds of one cell.

    Attributes:
        variants: variant of the scene to outcomes; empty after a failure.
        seconds: of the cell, on the wall; `stages` splits them (of its last part, where it was stopped and continued).
        whole: whether it ran in one go, so that its time says how long such a cell takes.
        origin: versions of the code and content of the data that it was made from (`gap_vla.training.stages`).
        gradients: `branch/…` measurements of its training, each the mean over the logged steps of the first half.
        account: commit, machine, time, command: for the reader.
        simulator_errors: variant to how many of its rollouts the simulator cut short; empty where nobody counted.
    """

    cell: str
    status: str
    config_hash: str
    task: str
    arm: str
    method: str
    seed: int
    steps: int
    seconds: float
    whole: bool
    variants: Mapping[str, Rollouts]
    error: str | None = None
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    gradients: Mapping[str, float] = dataclasses.field(default_factory=dict)
    account: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    simulator_errors: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**plain, "variants": {name: rollouts_to_json(found) for name, found in self.variants.items()}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Entry:
        variants = {name: rollouts_from_json(value) for name, value in found["variants"].items()}
        return cls(**{**found, "variants": variants})


@dataclasses.dataclass(frozen=True)
class Stale:
    """An entry whose settings, code or data are not today's, for these reasons (in words); it counts in no table."""

    cell: Cell
    entry: Entry
    reasons: tuple[str, ...]


class Ledger:
    """The files of one table and profile, below the project's `results` folder."""

    def __init__(self, root: Path | str, table: str, profile: str) -> None:
        self.root, self.table, self.profile = Path(root), table, profile
        self.directory = self.root / table / profile

    def path(self, cell: Cell) -> Path:
        return self.directory / f"{cell.name}.json"

    def read(self, cell: Cell) -> Entry | None:
        """What was recorded under this cell's name, whatever it was made with."""
        path = self.path(cell)
        return _read(path) if os.path.lexists(path) else None

    def judged(self, cell: Cell) -> tuple[Entry | None, tuple[str, ...]]:
        """The same, and why it is not of this cell's settings, today's code and today's data; none: it is."""
        entry = self.read(cell)
        return entry, () if entry is None else tuple(cell.why_stale(entry.config, entry.origin))

    def matching(self, cell: Cell) -> Entry | None:
        """What was recorded, if it was made with this cell's settings, by today's code, on today's data."""
        entry, reasons = self.judged(cell)
        return None if reasons else entry

    def stale(self, cells: Iterable[Cell]) -> list[Stale]:
        """What was recorded under these cells' names and is not theirs any more."""
        judged = [(cell, *self.judged(cell)) for cell in cells]
        return [Stale(cell, entry, reasons) for cell, entry, reasons in judged if entry is not None and reasons]

    def write(self, cell: Cell, entry: Entry) -> None:
        write_json(self.path(cell), entry.to_json())

    def all_entries(self) -> list[Entry]:
        """Everything recorded under any table with this profile; for predicting times."""
        return [_read(path) for path in sorted(self.root.glob(f"*/{self.profile}/*.json"))]


def _read(path: Path) -> Entry:
    if path.is_file():
        regular(path, LedgerError)  # that it may not be read is no reason to move it
    try:
        found = Section.read(path)
        _require_sound(found, path.stem)
        entry = Entry.from_json(found.values)
        if (entry.config or entry.status == FINISHED) and found.text("config_hash") != (
            own := config_hash(entry.config)
        ):
            raise UserError(f"its config_hash is {entry.config_hash}, that of its settings {own}")
        return entry
    except (UserError, ValueError, TypeError, KeyError) as error:
        said = str(error).removeprefix(f"{path}: ")
        raise LedgerError(f"{path} is no entry of the ledger ({said}); move it away, and the cell runs again") from None


def _require_sound(found: Section, name: str) -> None:
    """Raises UserError for an entry of another cell than that of this name, or with values that cannot be."""
    if more := found.values.keys() - {field.name for field in dataclasses.fields(Entry)}:
        raise UserError(f"it holds {min(more)!r}, which this version does not know")
    task, arm, seed = found.choice("task", TASK_NAMES), found.text("arm"), found.whole("seed", 0, int(SEED.most))
    cell, method = found.text("cell"), found.text("method")
    if cell != name or not (cell == task or cell.startswith(f"{task}-")) or not cell.endswith(f"-{arm}-seed{seed}"):
        raise UserError(f"it is that of {cell!r}, task {task!r}, arm {arm!r}, seed {seed}")
    if found.choice("status", (FINISHED, FAILED)) == FAILED:
        found.text("error")
    elif found.values.get("error") is not None:
        raise UserError("its status is 'finished', and it has an error")
    found.whole("steps", 0, STEPS)
    took, whole = found.finite("seconds", 0, 1e9), found.flag("whole")
    found.section("origin", {})
    config = found.section("config", {})
    config.section("model", {})
    for part in ("validation", "gradients"):
        require_measurements(found.section(part, {}))
        require_losses(found.section(part, {}), config.values, "loss", "copy it again")
    account = found.section("account", {})
    account.section("machine", {}).whole("jobs", 1, MANY, 1)
    if "time" in account:
        try:
            datetime.fromisoformat(account.text("time"))
        except ValueError:
            raise account.refuse("time", "a date and time as ISO 8601 writes them") from None
    stages = found.section("stages", {})
    if (parts := sum(stages.finite(stage, 0, 1e9) for stage in stages.values)) > took + 1 and whole:
        raise UserError(f"its seconds are {took:g}, those of its stages {parts:g}")
    if config.values:
        if empty := [key for key, value in flat(config.values) if value is None]:
            raise config.refuse(empty[0], "a value")
        of_config = config.text("task"), config.text("method"), config.section("train").whole("seed", 0, int(SEED.most))
        if of_config != (task, method, seed):
            raise UserError(f"its settings are of task, method, seed {of_config}, not {(task, method, seed)}")
        epochs, steps = (config.section("train").whole(key, 0, STEPS, 0) for key in ("epochs", "steps"))
        if not epochs and found.values["status"] == FINISHED:
            found.whole("steps", steps, steps)
    variants = found.section("variants")
    if variants.values and found.values["status"] == FAILED:
        raise UserError("its status is 'failed', and it has variants that were rolled out")
    for variant in variants.values:
        rollouts = variants.section(variant)
        episodes = rollouts.whole("episodes", 1, int(EPISODES.most))
        rollouts.whole("first_layout", 0, 2**53)
        outcomes, successes = rollouts.text("outcomes"), rollouts.whole("successes", 0, episodes)
        if not set(outcomes) <= {"0", "1"} or (len(outcomes), outcomes.count("1")) != (episodes, successes):
            raise UserError(f"variants.{variant}: its outcomes are not {successes} successes of {episodes} episodes")
        found.section("simulator_errors", {}).whole(variant, 0, episodes - successes, 0)
    if more := found.section("simulator_errors", {}).values.keys() - variants.values.keys():
        raise UserError(f"simulator_errors.{min(more)} is of no variant that was rolled out")
