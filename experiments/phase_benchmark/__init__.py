"""How well change points and ρ meet the switches that experts know of; docs/PHASE_BENCHMARK.md shows the results."""
