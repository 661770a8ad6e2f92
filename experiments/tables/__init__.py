"""The paper's tables as resumable queues of cells (task × method × seed), with a ledger and generated pages."""
