"""The ledger: one JSON file per finished or failed cell, `results/<table>/<profile>/<cell>.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.tables.cells import Cell
from gap_vla.core.errors import UserError
from gap_vla.core.whole import write_json
from gap_vla.report.comparison import Rollouts

FINISHED, FAILED = "finished", "failed"


class LedgerError(UserError, ValueError):
    """A ledger file that cannot be read; the message names it."""


def rollouts_to_json(found: Rollouts) -> dict[str, Any]:
    """`outcomes` is a string of 0 and 1 in the order of the layouts, counted from `first_layout` or listed."""
    layouts = sorted(found.outcomes)
    counted = layouts == list(range(layouts[0], layouts[0] + len(layouts))) if layouts else False
    where = {"first_layout": layouts[0]} if counted else {"layouts": " ".join(map(str, layouts))}
    outcomes = "".join(str(int(found.outcomes[layout])) for layout in layouts)
    return {"successes": found.successes, "episodes": found.episodes, **where, "outcomes": outcomes}


def rollouts_from_json(found: Mapping[str, Any]) -> Rollouts:
    outcomes = [digit == "1" for digit in found["outcomes"]]
    if "first_layout" in found:
        layouts: Iterable[int] = range(found["first_layout"], found["first_layout"] + len(outcomes))
    else:
        layouts = map(int, found["layouts"].split())
    return Rollouts(dict(zip(layouts, outcomes)))


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the ledger holds of one cell.

    Attributes:
        variants: variant of the scene to outcomes; empty after a failure.
        seconds: of the cell, on the wall; `stages` splits them (of its last part, where it was stopped and continued).
        whole: whether it ran in one go, so that its time says how long such a cell takes.
        origin: versions of the code and content of the data that it was made from (`gap_vla.training.stages`).
        gradients: `branch/…` measurements of its training, each the mean over the logged steps of the first half.
        account: commit, machine, time, command, and whatever else is only for the reader.
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

    def to_json(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**plain, "variants": {name: rollouts_to_json(found) for name, found in self.variants.items()}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Entry:
        variants = {name: rollouts_from_json(value) for name, value in found["variants"].items()}
        return cls(**{**found, "variants": variants})


@dataclasses.dataclass(frozen=True)
class Stale:
    """An entry whose settings, code or data are not today's; it counts in no table.

    Attributes:
        reasons: in words, at least one.
    """

    cell: Cell
    entry: Entry
    reasons: tuple[str, ...]


class Ledger:
    """The files of one table and profile.

    Args:
        root: the project's `results` folder.
    """

    def __init__(self, root: Path | str, table: str, profile: str) -> None:
        self.root, self.table, self.profile = Path(root), table, profile
        self.directory = self.root / table / profile

    def path(self, cell: Cell) -> Path:
        return self.directory / f"{cell.name}.json"

    def read(self, cell: Cell) -> Entry | None:
        """What was recorded under this cell's name, whatever it was made with."""
        path = self.path(cell)
        return _read(path) if path.exists() else None

    def matching(self, cell: Cell) -> Entry | None:
        """The same, if it was made with this cell's settings, by today's code, on today's data."""
        entry = self.read(cell)
        return entry if entry is not None and not cell.why_stale(entry.config, entry.origin) else None

    def stale(self, cells: Iterable[Cell]) -> list[Stale]:
        """What was recorded under these cells' names and is not theirs any more."""
        read = [(cell, entry) for cell in cells if (entry := self.read(cell)) is not None]
        judged = [Stale(cell, entry, tuple(cell.why_stale(entry.config, entry.origin))) for cell, entry in read]
        return [one for one in judged if one.reasons]

    def write(self, cell: Cell, entry: Entry) -> None:
        write_json(self.path(cell), entry.to_json())

    def all_entries(self) -> list[Entry]:
        """Everything recorded under any table with this profile; for predicting times."""
        return [_read(path) for path in sorted(self.root.glob(f"*/{self.profile}/*.json"))]


def _read(path: Path) -> Entry:
    try:
        return Entry.from_json(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LedgerError(f"{path} is no entry of the ledger ({error}); delete it, and the cell runs again") from None
