"""What only a GPU shows, in parts that can be resumed: `make gpu`. Nothing is taken from the network.

    python benchmarks/gpu.py                   # every part that is not finished
    python benchmarks/gpu.py --minutes 8       # the same, and stop in time; the next call goes on
    python benchmarks/gpu.py --part egl        # one part, again

    tests               GAP, resumed training and the same bytes from the same seed there; Octo's parity with upstream
    egl                 whether MuJoCo draws on the GPU, and how fast
    torch_steps         steps per second of the torch policies' profile `paper`, with GAP and without, on made-up data
    octo_SIZE_BATCH     steps per second of octo-small and octo-base in bfloat16, with GAP and without
    torch_paper_METHOD  demonstrations, training and rollouts of the torch policies' profile `paper`, one seed

results/gpu/PART.json holds what a part printed, and whether it is finished; what was measured on another GPU is
measured again, in runs of its own. A part is stopped after --limit minutes; the training then goes on from its last
step, and another part counts as failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError, command
from gap_vla.core.identity import commit, digest
from gap_vla.core.whole import write_json

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "gpu"
GRACE = 60.0
"""Seconds in which a part that was asked to stop saves what it has."""

CONFIG = "finetune_configs/small_assembly.py:paper"
TESTS = ("tests/test_on_gpu.py", "tests/octo/test_octo_parity.py", "tests/method/test_adjusted_jax.py")
PARTS: dict[str, Sequence[str]] = {
    "tests": ("-m", "pytest", "-q", "-n", "6", "--dist", "loadfile", "-m", "slow or not slow", *TESTS),
    "egl": ("benchmarks/gpu.py", "--draw"),
    "torch_steps": ("benchmarks/policies.py", "--config", CONFIG),
    **{
        f"octo_{size}_{batch}": ("benchmarks/octo.py", "--device", "gpu", "--case", size, "--batch_size", str(batch))
        for size in ("small", "base")
        for batch in (16, 64, 256)
    },
    **{
        f"torch_paper_{method}": ("scripts/train_small.py", "--config", CONFIG, "--resume", f"--config.method={method}")
        for method in ("vision", "concat", "gap")
    },
}
"""What each part runs."""

GOES_ON = tuple(part for part in PARTS if part.startswith("torch_paper"))
"""Parts that continue where they were stopped."""


def gpus() -> list[str]:
    """Names of the GPUs, by NVIDIA's own tool.

    Raises:
        UserError: there is none.
    """
    tool = shutil.which("nvidia-smi")
    command = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"] if tool else []
    found = subprocess.run(command, capture_output=True, text=True, check=False) if command else None
    if found is None or found.returncode or not found.stdout.strip():
        why = (
            "nvidia-smi is not there" if found is None else f"nvidia-smi says: {(found.stdout + found.stderr).strip()}"
        )
        raise UserError(f"no NVIDIA GPU on this machine ({why}); make gpu measures what only a GPU shows")
    return found.stdout.strip().splitlines()


def run_part(part: str, seconds: float, device: list[str], kept: Path) -> bool:
    """Runs a part for so many seconds at most, shows and keeps what it prints.

    Returns:
        Whether it is finished.

    Raises:
        UserError: it failed.
    """
    call, before = [*PARTS[part]], _begun(part, device, kept)
    if part in GOES_ON:  # a run of another GPU is no run of this one
        call += ["--run-name", f"gpu-{digest({'device': device})}-{part}"]
    lines, started = list(before.get("output", [])), time.monotonic() - before.get("seconds", 0.0)
    with subprocess.Popen([sys.executable, *call], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        stop = _after(seconds, lambda: process.send_signal(signal.SIGINT))
        kill = _after(seconds + GRACE, process.kill)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
        status = process.wait()
        stopped = not stop.is_alive()
        for timer in (stop, kill):
            timer.cancel()
    if status and not stopped:
        raise UserError(f"{part} ended with status {status}; its last words stand above, and nothing is kept of it")
    report: dict[str, Any] = {
        "command": shlex.join(["python", *call]),
        "finished": status == 0,
        "output": lines,
        "device": device,
        "commit": commit(),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(kept / f"{part}.json", report)
    return status == 0


def _after(seconds: float, act: Callable[[], Any]) -> threading.Timer:
    timer = threading.Timer(max(seconds, 0.0), act)
    timer.daemon = True
    timer.start()
    return timer


def finished(part: str, device: list[str], kept: Path) -> bool:
    """Whether a report of this device says so."""
    path = kept / f"{part}.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    return report.get("device") == device and bool(report["finished"])


def _begun(part: str, device: list[str], kept: Path) -> dict[str, Any]:
    """The report of a part that was stopped on this device and goes on; empty without one."""
    path = kept / f"{part}.json"
    report = json.loads(path.read_text()) if part in GOES_ON and path.exists() else {}
    return report if report.get("device") == device and not report["finished"] else {}


def draw(pictures: int = 200) -> None:
    """Draws assembly through EGL and says who drew it."""
    os.environ["MUJOCO_GL"] = "egl"
    from gap_vla.sim import make

    environment = make("assembly", image_size=128)
    environment.reset(seed=0)
    from OpenGL import GL

    renderer = GL.glGetString(GL.GL_RENDERER).decode()
    software = any(name in renderer.lower() for name in ("llvmpipe", "softpipe", "swrast"))
    action = environment.action_space.sample() * 0
    start = time.perf_counter()
    for _ in range(pictures):
        environment.step(action)
    seconds = (time.perf_counter() - start) / pictures
    environment.close()
    print(f"EGL draws with {renderer}{', which is software: the driver has no EGL library here' * software}")
    print(f"a step of assembly with its pictures of 128 pixels takes {1e3 * seconds:.1f} ms")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="also if finished (default: what is not)")
    parser.add_argument("--limit", type=float, default=8.0, metavar="MINUTES", help="of one part (default 8)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of the whole call (default: no limit)")
    parser.add_argument("--draw", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.draw:
        draw()
        return
    device, end = gpus(), time.monotonic() + 60 * options.minutes
    print(f"GPU: {'; '.join(device)}", flush=True)
    done = [part for part in PARTS if finished(part, device, KEPT)] if options.part is None else []
    waiting = [part for part in options.part or PARTS if part not in done]
    if done:
        print(f"already measured on it: {', '.join(done)}")
    failed = []
    while waiting and (left := end - time.monotonic() - GRACE) > 0:
        part = waiting.pop(0)
        print(f"{part}: {shlex.join(PARTS[part])}", flush=True)
        try:
            if run_part(part, min(60 * options.limit, left), device, KEPT):
                continue
            if part not in GOES_ON and left > 60 * options.limit:
                raise UserError(f"not finished after {options.limit:g} minutes; raise --limit")
            waiting.append(part)
        except UserError as error:  # the other parts may need other libraries
            failed.append(f"{part}: {error}")
    if waiting:
        print(f"left for the next call: {', '.join(waiting)}")
    if failed:
        raise UserError("; ".join(failed))


if __name__ == "__main__":
    sys.exit(main())
