"""The paper's tables as resumable queues of cells (task × method × seed), with a ledger and generated pages.

    cells = plan(TABLES["evidence"], "cpu", find_kind("small"))
    run_queue(cells, Ledger("results", "evidence", "cpu"), find_kind("small"), QueueOptions(budget=3600.0))
    render(TABLES["evidence"], "cpu", cells, Ledger("results", "evidence", "cpu"), Path("docs/RESULTS.md"))

A cell's process imports this package; what it does not need is loaded when it is asked for.
"""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
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
    },
)
