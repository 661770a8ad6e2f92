"""See `python scripts/build_dataset.py --help`."""

import sys

from gap_vla.cli import run

if __name__ == "__main__":
    sys.exit(run("build_dataset"))
