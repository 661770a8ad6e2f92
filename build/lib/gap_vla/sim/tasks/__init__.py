"""The tasks: those of Meta-World, and one file for each of ours; loaded by name from gap_vla.sim.environment."""
