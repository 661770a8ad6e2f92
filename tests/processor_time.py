"""Processor time of commands, which a busy machine does not lengthen, against that of a machine of known speed."""

import functools
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_measured(command: list[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """What a command did in the repository's folder, and its seconds of processor time."""
    before = _seconds()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done, _seconds() - before


@functools.cache
def two_seconds() -> float:
    """Two seconds, or what they are on a machine that takes longer than a sixth of one to import numpy."""
    return max(2.0, 12 * run_measured([sys.executable, "-c", "import numpy"])[1])


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
