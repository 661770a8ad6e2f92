"""See `python scripts/serve_policy.py --help`."""

from gap_vla.cli import run

if __name__ == "__main__":
    raise SystemExit(run("serve-policy"))
