"""See `python scripts/show_episode.py --help`."""

from gap_vla.cli import run

if __name__ == "__main__":
    raise SystemExit(run("show-episode"))
