"""Makes the harness of this folder and the synthetic demonstrations of tests/rlds importable here."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "rlds"):
    sys.path.insert(0, str(folder))
