"""The paper's tables as resumable queues of cells (task × method × seed), with a ledger and generated pages.

cells = plan(TABLES["evidence"], "cpu", find_kind("small"))
run_queue(cells, Ledger("results", "evidence", "cpu"), find_kind("small"), QueueOptions(budget=3600.0))
render(TABLES["evidence"], "cpu", cells, Ledger("results", "evidence", "cpu"), Path("docs/RESULTS.md"))
"""
