"""How long a newcomer waits: `make setup` and `make finetune` from an empty clone, for two or more commits in turn.

    python benchmarks/main_job.py 97ad8ee HEAD      # about ten minutes each, on an idle machine
    python benchmarks/record.py main_job -- benchmarks/main_job.py 97ad8ee HEAD

Each commit is cloned into a folder of its own below --work. What has been measured there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError, command
from gap_vla.core.whole import write_json

ROOT = Path(__file__).parents[1]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", help="of this repository, such as 97ad8ee and HEAD")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "main_job", help="folder of the clones")
    return parser.parse_args(arguments)


def measure(commit: str, work: Path) -> dict[str, Any]:
    """Seconds of both commands in a new clone of the commit, and the rollouts that succeeded.

    Raises:
        UserError: no such commit, or a command failed; its output lies in the clone's folder.
    """
    found = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", f"{commit}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:
        raise UserError(f"{commit!r} is no commit of this repository")
    name = found.stdout.strip()
    clone, kept = work / name, work / f"{name}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    if clone.exists():
        raise UserError(f"{clone} is left from a measurement that did not end; remove it")
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    subprocess.run(["git", "-C", clone, "checkout", "--quiet", name], check=True)
    seconds = {target: _timed(target, clone) for target in ("setup", "finetune")}
    [summary] = clone.glob("runs/threading/*/summary.json")
    rollouts = json.loads(summary.read_text())["rollouts"]
    result = {"commit": name, **seconds, "successes": rollouts["successes"], "episodes": rollouts["episodes"]}
    write_json(kept, result)
    return result


def _timed(target: str, clone: Path) -> float:
    started = time.monotonic()
    with (clone / f"{target}.log").open("w") as log:
        status = subprocess.run(["make", target], cwd=clone, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise UserError(f"make {target} ended with status {status}; see {clone / f'{target}.log'}")
    return round(time.monotonic() - started, 1)


@command
def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    print("commit     make setup   make finetune after it   rollouts that succeeded")
    for commit in options.commits:
        found = measure(commit, options.work)
        print(
            f"{found['commit']:10} {found['setup']:8.0f} s {found['finetune']:22.0f} s   "
            f"{found['successes']} of {found['episodes']}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
