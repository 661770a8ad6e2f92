"""See `python scripts/report.py --help`."""

import sys

from gap_vla.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
