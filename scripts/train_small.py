"""See `python scripts/train_small.py --help`."""

import sys

from gap_vla.cli import run

if __name__ == "__main__":
    sys.exit(run("train_small"))
