"""See `python scripts/serve_policy.py --help`."""

import sys

from gap_vla.cli.serve_policy import main

if __name__ == "__main__":
    sys.exit(main())
