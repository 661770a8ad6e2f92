"""See `python scripts/train_small.py --help`."""

import sys

from gap_vla.cli.train_small import main

if __name__ == "__main__":
    sys.exit(main())
