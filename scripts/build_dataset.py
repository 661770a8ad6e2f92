"""See `python scripts/build_dataset.py --help`."""

from gap_vla.cli import run

if __name__ == "__main__":
    raise SystemExit(run("build-dataset"))
