"""The point-mass simulator of the evaluation tests serves here too; array annotations are checked."""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

sys.path.append(str(Path(__file__).parents[1] / "rollouts"))
CHECKED = ["linear_probe", "probe_data", "probing", "takeover"]
install_import_hook([f"gap_vla.report.{name}" for name in CHECKED], "beartype.beartype")
