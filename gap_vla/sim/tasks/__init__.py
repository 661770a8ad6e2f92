"""The tasks, one file each; loaded by name from gap_vla.sim.environment."""
