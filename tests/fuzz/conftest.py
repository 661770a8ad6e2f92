"""Makes the harness of this folder, the demonstrations of tests/rlds and the runs of tests/report importable here."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, *(Path(__file__).parents[1] / name for name in ("rlds", "report"))):
    sys.path.insert(0, str(folder))
