"""What finished cells' policies see and need, kept beside the ledger: `results/TABLE/PROFILE/looks/CELL.json`.

A look is made from the cell's run directory while that is still here, once for each training of the cell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.tables.cells import Cell
from experiments.tables.kinds import Kind
from experiments.tables.ledger import FINISHED, Entry, Ledger, LedgerError
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import write_json

KINDS_OF_LOOK = ("probe", "takeover")
PROBE_EPISODES = 40
TAKEOVER_ROLLOUTS = 40
ACTS, TAKES_OVER = "concat", "vision"
UNTRAINED = "untrained"


class Looks:
    """The looks that belong to a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.directory = ledger.directory / "looks"

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def of(self, entry: Entry) -> dict[str, Any]:
        """Everything found out about this training of the cell; empty if nobody looked."""
        found = self._read(entry.cell)
        return found if found.get("of") == entry.account.get("time") else {}

    def untrained(self, block: str) -> dict[str, Any]:
        """What an untrained network of the block's architecture shows in the same probes."""
        return self._read(f"{block}-{UNTRAINED}")

    def add(self, entry: Entry, **found: Any) -> None:
        """Keeps more of what was found out, beside what is there."""
        write_json(self.path(entry.cell), {"of": entry.account.get("time"), **self.of(entry), **found})

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path(name)
        try:
            found = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise LedgerError(f"{path} is no look ({error}); delete it and look again") from None
        if not isinstance(found, dict):
            raise LedgerError(f"{path} is no look; delete it and look again")
        return found


def look(
    cells: Sequence[Cell],
    ledger: Ledger,
    kind: Kind,
    what: Iterable[str],
    *,
    command: str = "",
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> None:
    """Looks into every finished cell whose run is still here and that has not been looked into.

    Args:
        what: of `KINDS_OF_LOOK`: `probe` for small policies that see; `takeover` for `concat` where `vision` of the
            same seed is there too.

    Raises:
        ConfigError: a look that does not exist.
    """
    for name in what:
        if name not in KINDS_OF_LOOK:
            raise ConfigError(f"--look {name}: there is {' and '.join(KINDS_OF_LOOK)}")
    found = [(cell, entry) for cell in cells if (entry := ledger.matching(cell)) and entry.status == FINISHED]
    here = [(cell, entry) for cell, entry in found if kind.run_directory(cell.config).exists()]
    for cell, _ in [one for one in found if one not in here]:
        say(f"{cell.name}: its run is not here ({kind.run_directory(cell.config)}), so nothing can be looked into")
    looks = Looks(ledger)
    if "probe" in what:
        for cell, entry in here:
            if "probe_episodes" not in looks.of(entry):
                _probe(cell, entry, looks, kind, command, say)
    if "takeover" in what:
        seeing = {(c.block.name, c.seed): c for c, _ in here if c.arm.name == TAKES_OVER}
        for cell, entry in here:
            other = seeing.get((cell.block.name, cell.seed))
            if cell.arm.name == ACTS and other is not None and "takeover" not in looks.of(entry):
                say(f"{cell.name}: {other.name} takes over in windows")
                looks.add(entry, takeover={**_take_over(cell, other, kind), "command": command})


def _probe(cell: Cell, entry: Entry, looks: Looks, kind: Kind, command: str, say: Callable[[str], None]) -> None:
    from experiments.probes.probe_data import collect_probe_demos, read_probe_data
    from experiments.probes.probe_run import probe_policy, probe_untrained
    from gap_vla.report.runs import Run

    run = Run.read(kind.run_directory(cell.config))
    if not run.small:
        say(f"{cell.name}: only small policies can be probed")
        return
    say(f"{cell.name}: probing its visual features")
    demos, data = cell.settings["demos"], Path(cell.settings["data"]["root"])
    size, cameras = demos["image_size"], demos["cameras"]
    path = collect_probe_demos(cell.block.task, PROBE_EPISODES, data, image_size=size, cameras=cameras)
    steps = read_probe_data(path)
    found = probe_policy(run, steps)
    looks.add(entry, **found, probe_episodes=PROBE_EPISODES, command=command)
    if found.get("probe") and found["probe"].keys() != looks.untrained(cell.block.name).get("probe", {}).keys():
        write_json(looks.path(f"{cell.block.name}-{UNTRAINED}"), {"probe": probe_untrained(run, steps)})


def _take_over(cell: Cell, other: Cell, kind: Kind) -> dict[str, Any]:
    from experiments.probes.takeover_run import take_over_runs

    folder = take_over_runs(
        kind.run_directory(cell.config), kind.run_directory(other.config), episodes=TAKEOVER_ROLLOUTS
    )
    found: Mapping[str, Any] = json.loads((folder / "takeover.json").read_text())
    outcomes = {window["window"]: window["outcomes"] for window in found["windows"]}
    return {"other": other.name, "first_layout": found["seed"], "outcomes": outcomes}
