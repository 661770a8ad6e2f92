"""See `python scripts/diagnose.py --help`."""

import sys

from gap_vla.cli.diagnose import main

if __name__ == "__main__":
    sys.exit(main())
