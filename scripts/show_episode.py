"""See `python scripts/show_episode.py --help`."""

import sys

from gap_vla.cli.show_episode import main

if __name__ == "__main__":
    sys.exit(main())
