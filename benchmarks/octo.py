"""How fast Octo compiles, trains and samples here, beside upstream's own code where its environment is given.

    python benchmarks/octo.py                                             # golden case c and octo-small-1.5, ours alone
    python benchmarks/octo.py --upstream UPSTREAM_VENV                    # both, in turns; docs/OCTO.md builds the venv
    python benchmarks/octo.py --gap                                       # what GAP adds to a training step, in turns
    python benchmarks/octo.py --device gpu                                # the same in bf16 by batch size, and memory

Beside upstream each implementation is a process of its own and is told to compile, to step or to sample in turns, so
that whatever else the machine does meets both; ratios are medians over pairs. A turn is 20 steps or samples of the tiny
case, which last milliseconds and in use follow each other, and one of the others. Both get the same configuration,
inputs, parameters and random bits, and the losses that come out are compared. CPU seconds count all threads of a
process; unlike wall time they hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = Path(__file__).parent / "octo_workers"
sys.path.append(str(WORKERS))
TURN = {"tiny": 20}
"""Steps or samples in a turn; others: 1."""
GPU_BATCHES = (16, 64, 128, 256)


class Worker:
    """A process of `octo_workers/`."""

    def __init__(self, python: Path | str, script: str, folder: str):
        command = [str(python), str(WORKERS / script), folder]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, action: str) -> dict[str, Any]:
        """`wall` and `cpu` seconds of one action, what it gave, and the process's peak memory so far (GB)."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(action + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def compare(workers: dict[str, Worker], repeats: int, turn: int) -> str:
    """A table of medians and of ratios to upstream, of `repeats` turns of `turn` steps and samples of each."""
    found: dict[str, dict[str, Any]] = {name: {"versions": worker.do("ready")} for name, worker in workers.items()}
    for action in ("step", "sample"):
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for name, worker in workers.items():
            found[name][f"compile_{action}"] = [worker.do(f"compile_{action}")]
        for count in range(repeats + 1):
            for name in sorted(workers, reverse=bool(count % 2)):
                runs[name].append(workers[name].do(f"{action} {turn}"))
        for name in workers:
            found[name][action] = runs[name][1:]  # the first warms up
    lines = [f"{'':20}" + "".join(f"{name:>12}" for name in workers) + "       ratio"]
    for action, kind in (
        *(
            (action, kind)
            for action in ("compile_step", "step", "compile_sample", "sample")
            for kind in ("wall", "cpu")
        ),
        ("sample", "peak_gb"),
    ):
        values = [[run[kind] for run in found[name][action]] for name in workers]
        line = f"{action:14} {kind:5}" + "".join(f"{statistics.median(each):12.4f}" for each in values)
        if "upstream" in workers:
            line += f"{np.median(np.array(values[0]) / values[1]):12.3f}"
        lines.append(line)
    if "upstream" in workers:
        ours, theirs = ([value for run in found[name]["step"] for value in run["values"]] for name in workers)
        gap = float(np.max(np.abs(np.subtract(ours, theirs) / theirs)))
        lines.append(f"losses of {len(ours)} steps differ by at most {gap:.1e} of upstream's")
    return "\n".join(lines)


def cost_of_gap(case: str, batch_size: int, pairs: int, on_gpu: bool) -> str:
    """Steps per second with GAP, and what GAP adds: two programs in one process, step by step in turns."""
    import jax
    from cases import write_case
    from ours import Ours

    options = {"dtype": "bfloat16", "embedded": True} if on_gpu else {"quick": True}
    clock = time.perf_counter if on_gpu else time.process_time
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the case names its encoder relatively
        write_case(case, Path(folder), batch_size, proprio=on_gpu)
        programs = {adjust: Ours(Path(folder), {**options, "adjust": adjust}) for adjust in (True, False)}
        for program in programs.values():
            program.compile_step()
        for pair in range(pairs + 2):
            for adjust in sorted(programs, reverse=bool(pair % 2)):
                start = clock()
                programs[adjust].step()
                if pair >= 2:
                    seconds[adjust].append(clock() - start)
    step = statistics.median(seconds[True])
    share = statistics.median(a / b - 1 for a, b in zip(seconds[True], seconds[False]))
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9
    return (
        f"{case}, batch {batch_size}: {1 / step:.3g} steps/s{' of processor time' * (not on_gpu)}, GAP {share:+.2%} of "
        f"a step (median of {pairs} pairs)" + f", {memory:.3g} GB for two models" * on_gpu
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["tiny", "small", "base"], action="append", help="default: tiny and small")
    parser.add_argument("--upstream", type=Path, help="virtual environment with upstream's pins")
    parser.add_argument("--gap", action="store_true", help="GAP beside the same without; default: the tiny case")
    parser.add_argument("--batch_size", type=int, help="default: 1; on a GPU 16, 64, 128 and 256 in turn")
    parser.add_argument("--repeats", type=int, help="turns (default 5, of GAP 20)")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="gpu implies --gap")
    options = parser.parse_args()
    from cases import DESCRIPTIONS, write_case

    on_gpu = options.device == "gpu"
    if options.gap or on_gpu:
        for case in options.case or (["small", "base"] if on_gpu else ["tiny"]):
            for batch_size in [options.batch_size] if options.batch_size else GPU_BATCHES if on_gpu else [1]:
                print(cost_of_gap(case, batch_size, options.repeats or 20, on_gpu), flush=True)
        return
    for case in options.case or ["tiny", "small"]:
        with tempfile.TemporaryDirectory() as folder:
            write_case(case, Path(folder), options.batch_size or 1)
            workers = {"ours": Worker(sys.executable, "ours.py", folder)}
            if options.upstream:
                workers["upstream"] = Worker(options.upstream / "bin" / "python", "upstream.py", folder)
            print(f"{case}: {DESCRIPTIONS[case]}; batch {options.batch_size or 1}", flush=True)
            print(compare(workers, options.repeats or 5, TURN.get(case, 1)), flush=True)
            for worker in workers.values():
                worker.close()


if __name__ == "__main__":
    main()
