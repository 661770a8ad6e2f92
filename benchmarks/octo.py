"""How fast Octo compiles, trains and samples here, beside upstream's own code where its environment is given.

    python benchmarks/octo.py                                             # golden case c and octo-small-1.5, ours alone
    python benchmarks/octo.py --upstream UPSTREAM_VENV                    # both, in turns; docs/OCTO.md builds the venv
    python benchmarks/octo.py --gap                                       # what GAP adds to a step, in turns
    python benchmarks/octo.py --device gpu                                # bf16 by batch size, on an accelerator

Every implementation is a process of its own and is told to compile, to step or to sample in turns, so that whatever
else the machine does meets both; ratios are medians over pairs. A turn is 20 steps or samples of the tiny case, which
last milliseconds and in use follow each other, and one of the others. Upstream and ours get the same configuration,
inputs, parameters and random bits, and the losses that come out are compared. CPU seconds count all threads of a
process; unlike wall time they hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = Path(__file__).parent / "octo_workers"
sys.path.append(str(WORKERS))

BOUNDS = {
    "step": {"tiny": ("ratio", 0.5), "small": ("ratio", 0.5)},
    "compile_step": {"tiny": ("seconds", 5.0), "small": ("seconds", 20.0)},
    "sample": {"tiny": ("ratio", 0.3), "small": ("ratio", 0.3)},
    "peak_gb": {"tiny": ("ratio", 0.7), "small": ("ratio", 0.7)},
}
"""What ours may take: a ratio to upstream's, or seconds of wall time."""

TURN = {"tiny": 20}
"""Steps or samples in a turn; others: 1."""


class Worker:
    """A process of `octo_workers/`."""

    def __init__(self, python: Path | str, script: str, *arguments: str):
        command = [str(python), str(WORKERS / script), *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def do(self, action: str) -> dict[str, Any]:
        """`wall` and `cpu` seconds of one action, what it gave, and the process's peak memory so far (GB)."""
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._process.stdin.write(action + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended during {action}:\n{self._process.stderr.read()[-4000:]}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()


def compare(workers: dict[str, Worker], repeats: int, turn: int = 1) -> dict[str, dict[str, Any]]:
    """Figures of every worker; `repeats` turns of `turn` steps and samples of each."""
    found: dict[str, dict[str, Any]] = {name: {} for name in workers}
    for name, worker in workers.items():
        found[name]["versions"] = worker.do("ready")["values"][0]
        found[name]["compile_step"] = worker.do("compile_step")
    for action in ("step", "sample"):
        if action == "sample":
            for name, worker in workers.items():
                found[name]["compile_sample"] = worker.do("compile_sample")
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for count in range(repeats + 1):
            for name in sorted(workers, reverse=bool(count % 2)):
                runs[name].append(workers[name].do(f"{action} {turn}"))
        for name, answers in runs.items():
            found[name][action] = {
                **{kind: [answer[kind] for answer in answers[1:]] for kind in ("wall", "cpu")},
                "values": [value for answer in answers for value in answer["values"]],
            }
            found[name]["peak_gb"] = answers[-1]["peak_gb"]
    return found


def ratio(found: dict[str, dict[str, Any]], action: str, kind: str) -> float | None:
    """Ours over upstream's: the median over pairs."""
    if "upstream" not in found:
        return None
    ours, theirs = (found[name][action] for name in ("ours", "upstream"))
    ours, theirs = (value[kind] if isinstance(value, dict) else value for value in (ours, theirs))
    return float(np.median(np.asarray(ours) / np.asarray(theirs)))


def report(case: str, found: dict[str, dict[str, Any]]) -> str:
    """A table with ratios, and the bounds that are missed."""
    lines = [f"{'':16s}{'':6s}" + "".join(f"{name:>12s}" for name in found) + "       ratio       bound"]
    for action in ("compile_step", "step", "compile_sample", "sample", "peak_gb"):
        for kind in ("wall", "cpu") if action != "peak_gb" else ("",):
            values = [found[name][action] for name in found]
            shown = [float(np.median(value[kind])) if kind else value for value in values]
            line = f"{action:16s}{kind:6s}" + "".join(f"{value:12.4f}" for value in shown)
            share = ratio(found, action, kind)
            line += "            " if share is None else f"{share:12.3f}"
            limit = BOUNDS.get(action, {}).get(case)
            if limit and kind != "cpu":
                reached = share if limit[0] == "ratio" else shown[0]
                verdict = "" if reached is None else ("  met" if reached <= limit[1] else "  MISSED")
                line += f"   {limit[0]} {limit[1]:g}{verdict}"
            lines.append(line)
    if "upstream" in found:
        losses = [np.asarray(found[name]["step"]["values"]) for name in ("ours", "upstream")]
        gap = float(np.max(np.abs(losses[0] - losses[1]) / np.abs(losses[1])))
        lines.append(f"losses of {len(losses[0])} steps differ by at most {gap:.1e} of upstream's")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["tiny", "small", "base"], action="append", help="default: tiny and small")
    parser.add_argument("--upstream", type=Path, help="virtual environment with upstream's pins")
    parser.add_argument("--gap", action="store_true", help="GAP beside the same without; default: the tiny case")
    parser.add_argument("--batch_size", type=int, help="default: 1; on a GPU 16, 64, 128 and 256 in turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--quick", action="store_true", help="compile quickly, as short runs do")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "gpu":
        from accelerator import BATCH_SIZES, measure_accelerator

        batches = [arguments.batch_size] if arguments.batch_size else list(BATCH_SIZES)
        measure_accelerator(arguments.case or ["small", "base"], batches)
        return
    options = {"quick": arguments.quick}
    from cases import DESCRIPTIONS, write_case

    batch_size = arguments.batch_size or 1
    for case in arguments.case or (["tiny"] if arguments.gap else ["tiny", "small"]):
        with tempfile.TemporaryDirectory() as folder:
            write_case(case, Path(folder), batch_size)
            workers = {"ours": Worker(sys.executable, "ours.py", folder, json.dumps(options))}
            if arguments.gap:
                workers["without"] = Worker(sys.executable, "ours.py", folder, json.dumps(options | {"adjust": False}))
            elif arguments.upstream:
                workers["upstream"] = Worker(arguments.upstream / "bin" / "python", "upstream.py", folder)
            print(f"{case}: {DESCRIPTIONS[case]}; batch {batch_size}", flush=True)
            found = compare(workers, arguments.repeats, TURN.get(case, 1))
            for worker in workers.values():
                worker.close()
        print(report(case, found), flush=True)
        if arguments.gap:
            shares = np.asarray(found["ours"]["step"]["cpu"]) / np.asarray(found["without"]["step"]["cpu"])
            print(f"GAP: {100 * (np.median(shares) - 1):+.2f} % of a step's CPU time, median of {len(shares)} pairs")


if __name__ == "__main__":
    main()
