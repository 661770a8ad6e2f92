"""Runs the cells that fit into a budget of time, several at once if asked, and writes each into the ledger."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from experiments.tables.cells import Cell, Kind, training_length
from experiments.tables.ledger import FAILED, FINISHED, Entry, Ledger
from gap_vla.core.cells import CellProcess
from gap_vla.core.identity import commit, processor
from gap_vla.core.locks import alone
from gap_vla.core.progress import duration
from gap_vla.report.comparison import evaluations_of, read_rollouts

PATIENCE = 60.0
"""Seconds that cells have for their checkpoints, when all of them are asked to end."""

POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class QueueOptions:
    """How the queue runs.

    Attributes:
        budget: seconds; no cell is begun that is predicted to end later, and one that still runs then is interrupted
            (it goes on from its checkpoint next time).
        jobs: cells at once, with one thread each if more than one.
        logs: folder for the cells' output, one file each.
        command: as the user gave it, for the ledger.
    """

    budget: float
    jobs: int = 1
    retry: bool = False
    device: str = "cpu"
    logs: Path = Path("runs/reproduce")
    command: str = ""


def machine(device: str = "cpu", jobs: int = 1) -> dict[str, Any]:
    """What decides how long a cell takes; times of another machine predict nothing here."""
    found: dict[str, Any] = {"cores": os.cpu_count(), "processor": platform.machine(), "device": device, "jobs": jobs}
    if device != "cpu":
        import torch

        found["device_name"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return found


def predict(cell: Cell, entries: Sequence[Entry], kind: Kind, here: dict[str, Any]) -> tuple[float, str]:
    """How many seconds a cell will take, and from what that is known, in words.

    Args:
        entries: of this profile, any table. Those of another task or length, of other machines, and those that were
            stopped and continued are left out; those with another number of cells at once too, unless there are no
            others.
        here: `machine()` of the coming run.
    """
    asked = cell.block.task, training_length(cell.settings)
    like = [e for e in entries if e.status == FINISHED and e.whole and (e.task, training_length(e.config)) == asked]
    at_once = [e for e in like if e.account.get("machine") == here]
    found = at_once or [e for e in like if {**e.account.get("machine", {}), "jobs": here["jobs"]} == here]
    if found:
        return median(e.seconds for e in found), "cells of this task"
    return kind.stated_seconds[cell.profile], f"stated by profile {cell.profile}"


@dataclasses.dataclass
class _Running:
    cell: Cell
    process: CellProcess
    started: float
    resumed: bool


def waiting_cells(cells: Sequence[Cell], ledger: Ledger, *, retry: bool = False) -> list[Cell]:
    """Those that still have to run, in order: without an entry, with a stale one, failed ones if `retry`."""
    settled = (FINISHED,) if retry else (FINISHED, FAILED)
    return [cell for cell in cells if (entry := ledger.matching(cell)) is None or entry.status not in settled]


def run_queue(cells: Sequence[Cell], ledger: Ledger, kind: Kind, options: QueueOptions) -> list[Entry]:
    """Runs what fits, and says what it does. Called again, after a kill too, it goes on.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the running cells have written their checkpoints and ended.
        InUseError: another queue works on this table.
    """
    options.logs.mkdir(parents=True, exist_ok=True)
    with alone(ledger.directory / ".lock", f"table {ledger.table}, profile {ledger.profile}"):
        return _Queue(cells, ledger, kind, options).run()


def _say(text: str) -> None:
    print(text, flush=True)


class _Queue:
    def __init__(self, cells: Sequence[Cell], ledger: Ledger, kind: Kind, options: QueueOptions) -> None:
        self._ledger, self._kind, self._options = ledger, kind, options
        self._waiting = waiting_cells(cells, ledger, retry=options.retry)
        self._total = len(cells)
        self._running: list[_Running] = []
        self._added: list[Entry] = []
        self._machine = machine(options.device, options.jobs)
        self._deadline = time.monotonic() + options.budget
        self._known = ledger.all_entries()

    def run(self) -> list[Entry]:
        used_up = False
        try:
            while self._running or self._start():
                time.sleep(POLL_SECONDS)
                self._collect()
                if time.monotonic() > self._deadline and not used_up and self._running:
                    used_up = True
                    _say("the budget is used up: interrupting what runs; the same command goes on with it")
                    self._stop()
                elif not used_up:
                    self._start()
        except BaseException:
            self._stop()
            raise
        self._say_rest()
        return self._added

    def _start(self) -> bool:
        """Starts cells while there is room and time; whether any runs now."""
        for cell in list(self._waiting):
            if len(self._running) >= self._options.jobs:
                break
            left = self._deadline - time.monotonic()
            needed, source = predict(cell, self._known, self._kind, self._machine)
            if needed > left or self._data_is_being_made(cell):
                continue
            self._waiting.remove(cell)
            resumed = self._kind.run_directory(cell.config).exists()
            log = self._options.logs / f"{cell.table}-{cell.profile}" / f"{cell.name}.log"
            process = CellProcess(self._kind.train, cell.config, log=log, one_thread=self._options.jobs > 1)
            self._running.append(_Running(cell, process, time.monotonic(), resumed))
            place = f"[{self._total - len(self._waiting)}/{self._total}]"
            what = "continues" if resumed else "starts"
            _say(f"{place} {cell.name} {what}, predicted {duration(needed)} ({source}); its output: {log}")
        return bool(self._running)

    def _data_is_being_made(self, cell: Cell) -> bool:
        store = self._kind.store(cell.config)
        if (store / "store.json").exists():
            return False
        return any(self._kind.store(other.cell.config) == store for other in self._running)

    def _collect(self) -> None:
        for run in list(self._running):
            if run.process.alive():
                continue
            self._running.remove(run)
            if run.process.interrupted:
                _say(f"{run.cell.name} was interrupted; it is taken up again next time")
                continue
            entry = self._entry(run)
            self._ledger.write(run.cell, entry)
            self._known.append(entry)
            self._added.append(entry)
            _say(f"{run.cell.name} {_outcome(entry)}")

    def _entry(self, run: _Running) -> Entry:
        cell, error = run.cell, run.process.error
        summary: dict[str, Any] = run.process.result or {}
        variants = {} if error else read_rollouts(summary)
        evaluations = evaluations_of(summary) if variants else {}
        cut_short = {v: one.get("simulator_errors") for v, one in evaluations.items()}
        if not error and not variants:
            error = "the run was not rolled out (eval.episodes is 0)"
        stages = summary.get("seconds", {})
        seconds = sum(stages.values()) if run.resumed and stages else time.monotonic() - run.started
        return Entry(
            cell=cell.name,
            status=FAILED if error else FINISHED,
            config_hash=cell.hash,
            task=cell.block.task,
            arm=cell.arm.name,
            method=cell.arm.method,
            seed=cell.seed,
            steps=int(summary.get("steps", 0)),
            seconds=round(seconds, 1),
            whole=not run.resumed,
            variants=variants,
            error=error,
            stages=stages,
            validation=summary.get("validation", {}),
            config=cell.settings,
            gradients=summary.get("gradients", {}),
            origin=summary.get("origin") or cell.origin,
            account={
                "machine": self._machine,
                "processor": processor(),
                "used": run.process.used,
                "load_average": round(os.getloadavg()[2], 1),  # of 15 minutes: how far to trust the time
                "commit": commit(),
                "run_commit": summary.get("machine", {}).get("commit"),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": self._options.command,
                "run": str(self._kind.run_directory(cell.config)),
            },
            simulator_errors={variant: count for variant, count in cut_short.items() if count is not None},
        )

    def _stop(self) -> None:
        for run in self._running:
            run.process.interrupt()
        deadline = time.monotonic() + PATIENCE
        while any(run.process.alive() for run in self._running) and time.monotonic() < deadline:
            time.sleep(0.05)
        for run in self._running:
            if run.process.alive():
                run.process.kill()
        self._collect()

    def _say_rest(self) -> None:
        if not self._waiting:
            return
        shortest = min(predict(cell, self._known, self._kind, self._machine)[0] for cell in self._waiting)
        _say(
            f"{len(self._waiting)} of {self._total} cells are left; the shortest is predicted to take "
            f"{duration(shortest)}. The same command goes on with them"
        )


def _outcome(entry: Entry) -> str:
    if entry.status == FAILED:
        return f"failed after {duration(entry.seconds)}: {entry.error}"
    success = ", ".join(f"{name} {sum(found.values())}/{len(found)}" for name, found in entry.variants.items())
    lost = sum(entry.simulator_errors.values())
    also = f"; {lost} cut short by the simulator count as failed" if lost else ""
    return f"finished in {duration(entry.seconds)}: {success}{also}"
