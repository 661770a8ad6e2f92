"""See `python scripts/evaluate.py --help`."""

import sys

from gap_vla.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
