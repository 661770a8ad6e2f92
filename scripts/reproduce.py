"""See `python scripts/reproduce.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # experiments/ is part of the checkout, of no package
from experiments.tables.command import main

if __name__ == "__main__":
    sys.exit(main())
