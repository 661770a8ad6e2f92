"""See `python scripts/collect_demos.py --help`."""

from gap_vla.cli import run

if __name__ == "__main__":
    raise SystemExit(run("collect-demos"))
