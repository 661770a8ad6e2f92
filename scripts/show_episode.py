"""See `python scripts/show_episode.py --help`."""

import sys

from gap_vla.cli import run

if __name__ == "__main__":
    sys.exit(run("show_episode"))
