"""Runs benchmarks and keeps what they print in results/performance; docs/PERFORMANCE.md has the figures.

python benchmarks/record.py                    # all that need nothing from outside: 45 minutes of an idle machine
python benchmarks/record.py sim phases         # only these
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gap_vla.core.files import write_json  # noqa: E402
from gap_vla.core.identity import machine  # noqa: E402

KEPT = ROOT / "results" / "performance"
CALLS = {
    "adjustment": "benchmarks/adjustment.py --pairs 30",
    "eyes": "benchmarks/eyes.py --steps 8",
    "first_step": "benchmarks/first_step.py",
    "newcomer": "benchmarks/newcomer.py --policy",
    "octo_gap": "benchmarks/octo.py --gap --repeats 40",
    "octo_small": "benchmarks/octo.py --case small",
    "phases_quick": "benchmarks/phases.py --quick",
    "rlds": "benchmarks/rlds.py --episodes 500 --steps 150 --size 84 --workers 2",
    "server": "benchmarks/server.py --seconds 60",
    "sim_collections": "benchmarks/sim.py collections",
    "sim_pictures": "benchmarks/sim.py pictures",
}


def measure(name: str) -> None:
    """Runs a benchmark and keeps its output with commit, machine, load and time."""
    load, started = os.getloadavg()[0], time.monotonic()
    output = subprocess.run(
        [sys.executable, *CALLS[name].split()], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    print(output, flush=True)
    kept = {
        "command": f"python {CALLS[name]}",
        "output": output.splitlines(),
        "machine": machine(),
        "load_before": round(load, 1),
        "seconds": round(time.monotonic() - started, 1),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(KEPT / f"{name}.json", kept)


if __name__ == "__main__":
    for benchmark in sys.argv[1:] or CALLS:
        measure(benchmark)
