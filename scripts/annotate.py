"""See `python scripts/annotate.py --help`."""

import sys

from gap_vla.cli.annotate import main

if __name__ == "__main__":
    sys.exit(main())
