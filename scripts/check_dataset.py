"""See `python scripts/check_dataset.py --help`."""

from gap_vla.cli import run

if __name__ == "__main__":
    raise SystemExit(run("check-dataset"))
