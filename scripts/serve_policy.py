"""See `python scripts/serve_policy.py --help`."""

import sys

from gap_vla.cli import run

if __name__ == "__main__":
    sys.exit(run("serve_policy"))
