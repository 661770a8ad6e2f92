"""See `python scripts/check_dataset.py --help`."""

import sys

from gap_vla.cli.check_dataset import main

if __name__ == "__main__":
    sys.exit(main())
