"""See `python scripts/collect_demos.py --help`."""

import sys

from gap_vla.cli.collect_demos import main

if __name__ == "__main__":
    sys.exit(main())
