"""See `python scripts/collect_demos.py --help`."""

import sys

from gap_vla.cli import run

if __name__ == "__main__":
    sys.exit(run("collect_demos"))
