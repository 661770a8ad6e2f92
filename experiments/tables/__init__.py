"""The paper's tables as resumable queues of cells (task × method × seed), with a ledger and generated pages.

    cells = plan(TABLES["evidence"], "cpu", find_kind("small"))
    run_queue(cells, Ledger("results", "evidence", "cpu"), find_kind("small"), QueueOptions(budget=3600.0))
    render(TABLES["evidence"], "cpu", cells, Ledger("results", "evidence", "cpu"), Path("docs/RESULTS.md"))

A cell's process imports this package; what it does not need is loaded when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "TABLES": "tables",
    "Arm": "tables",
    "Block": "tables",
    "Cell": "cells",
    "Entry": "ledger",
    "Kind": "kinds",
    "Ledger": "ledger",
    "QueueOptions": "queue",
    "Rollouts": "ledger",
    "Table": "tables",
    "analyse": "analysis",
    "find_kind": "kinds",
    "plan": "cells",
    "render": "render",
    "run_queue": "queue",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
