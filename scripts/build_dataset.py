"""See `python scripts/build_dataset.py --help`."""

import sys

from gap_vla.cli.build_dataset import main

if __name__ == "__main__":
    sys.exit(main())
