"""What this repository studies with the library: the paper's tables, the phase benchmark, probes. Not in the wheel."""
