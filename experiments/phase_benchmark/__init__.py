"""How well change points and ρ meet the switches that simulated experts know of; docs/PHASES.md shows the results."""

from __future__ import annotations

from experiments.phase_benchmark.recordings import Recording, load_recordings
from experiments.phase_benchmark.sensitivity import by_demonstrations, sensitivity
from experiments.phase_benchmark.study import compare

__all__ = ["Recording", "by_demonstrations", "compare", "load_recordings", "sensitivity"]
