"""How long a newcomer waits: `make finetune` from an empty clone, installation and all, for commits in turn.

    python benchmarks/main_job.py 97ad8ee HEAD      # about ten minutes each, on an idle machine
    python benchmarks/record.py main_job -- benchmarks/main_job.py 97ad8ee HEAD

Each commit is cloned into a folder of its own below --work. What has been measured there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError, command
from gap_vla.core.identity import processor
from gap_vla.core.whole import write_json

ROOT = Path(__file__).parents[1]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", help="of this repository, such as 97ad8ee and HEAD")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "main_job", help="folder of the clones")
    return parser.parse_args(arguments)


def measure(commit: str, work: Path) -> dict[str, Any]:
    """Seconds of the command in a new clone of the commit and of its stages, and the rollouts that succeeded.

    Raises:
        UserError: no such commit, or the command failed; its output lies in the clone's folder.
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
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    started = time.monotonic()
    with (clone / "finetune.log").open("w") as log:
        call = ["make", "finetune"]
        status = subprocess.run(call, cwd=clone, env=alone, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        raise UserError(f"make finetune ended with status {status}; see {clone / 'finetune.log'}")
    whole = round(time.monotonic() - started, 1)
    [path] = clone.glob("runs/threading/*/summary.json")
    summary = json.loads(path.read_text())
    done = {key: summary["rollouts"][key] for key in ("successes", "episodes")}
    machine = f"{os.cpu_count()} cores, {processor()}, {datetime.now(UTC).date()}"
    result = {"commit": name, "whole": whole, **summary["seconds"], **done, "machine": machine}
    write_json(kept, result)
    return result


@command
def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    print("commit     make finetune, whole   installation   data   training   rollouts   succeeded   on")
    for commit in options.commits:
        found = measure(commit, options.work)
        stages = [found[stage] for stage in ("prepare", "train", "evaluate")]
        print(
            f"{found['commit']:10} {found['whole']:18.0f} s {found['whole'] - sum(stages):12.0f} s"
            f"{stages[0]:5.0f} s {stages[1]:8.0f} s {stages[2]:8.0f} s   {found['successes']} of {found['episodes']}"
            f"   {found.get('machine', '')}".rstrip(),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
