"""See `python scripts/compare.py --help`."""

import sys

from gap_vla.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
