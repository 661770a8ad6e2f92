"""How well change points and ρ meet the switches that simulated experts know of; docs/PHASES.md shows the results."""

from __future__ import annotations

from gap_vla.phases.quality.recordings import Recording, load_recordings
from gap_vla.phases.quality.sensitivity import by_demonstrations, sensitivity
from gap_vla.phases.quality.study import compare

__all__ = ["Recording", "by_demonstrations", "compare", "load_recordings", "sensitivity"]
