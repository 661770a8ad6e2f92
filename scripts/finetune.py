"""See `python scripts/finetune.py --help`."""

import sys

from gap_vla.cli.finetune import main

if __name__ == "__main__":
    sys.exit(main())
