"""What this repository studies with the library: the paper's tables, the phase benchmark, looks. Not in the wheel."""
