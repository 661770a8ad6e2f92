"""How well change points and ρ meet the switches that simulated experts know of; docs/PHASES.md shows the results."""
