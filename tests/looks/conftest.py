"""The point-mass simulator of the rollouts' tests and the runs of the report's serve here too; arrays are checked."""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

sys.path += [str(Path(__file__).parents[1] / room) for room in ("rollouts", "report")]
CHECKED = ["linear_probe", "probe_data", "probing"]
install_import_hook([f"experiments.looks.{name}" for name in CHECKED], "beartype.beartype")
