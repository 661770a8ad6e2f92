"""Measure the policy server's memory: connections one after another, then many at once, each with its own instruction.

    python benchmarks/server.py                                     # 1,000 one after another, 32 at once for 10 minutes
    python benchmarks/server.py --connections 200 --seconds 10      # a minute of it
    python benchmarks/server.py --checkpoint runs/threading/NAME

Results go to benchmarks/results/server.json, with the machine they were measured on. The bound is 20 MB more than after
the first connection. Without --checkpoint, a tiny Octo is served that reads its instructions through a tiny T5.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "server.json"
TINY = ROOT / "tests" / "data" / "octo" / "c" / "checkpoint"
LETTERS = "abcdefghijklmnopqrstuvwxyz "


@contextlib.contextmanager
def serving(checkpoint: Path) -> Iterator[tuple[int, str]]:
    """Yields the server's process number and address."""
    command = [sys.executable, str(ROOT / "scripts" / "serve_policy.py"), "--checkpoint", str(checkpoint.resolve())]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}
    server = subprocess.Popen(
        [*command, "--port", "0"], cwd=checkpoint.parent, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        found = next((found for line in server.stdout if (found := re.search(r"ws://\S+", line))), None)
        if found is None:
            raise RuntimeError(f"{checkpoint}: the server has ended before it served anybody")
        yield server.pid, found[0]
    finally:
        server.terminate()
        server.wait(60)


def resident_mb(process: int) -> float:
    """Memory that the process holds now, in MB (10^6 bytes)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 / 1e6  # type: ignore[index]


class Peak:
    """The most memory that the process has held since this was made; looks ten times a second."""

    def __init__(self, process: int) -> None:
        self.mb, self._process, self._over = resident_mb(process), process, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.mb = max(self.mb, resident_mb(self._process))

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return max(self.mb, resident_mb(self._process))


def converse(address: str, number: int, observations: int) -> None:
    """One connection with an instruction of its own, of up to 1,900 characters."""
    from websockets.sync.client import connect

    from gap_vla.serving.wire import pack, unpack

    rng = random.Random(number)
    instruction = "".join(rng.choices(LETTERS, k=rng.randint(20, 1900)))
    with connect(address, compression=None) as connection:
        metadata = unpack(connection.recv(timeout=120))  # type: ignore[arg-type]
        size = metadata["image_size"] or 64
        message: dict[str, Any] = {
            f"image_{camera}": np.full((size, size, 3), number % 256, np.uint8) for camera in metadata["cameras"]
        }
        message |= {"proprio": np.zeros(metadata["proprio_dim"] or 9, np.float32), "language_instruction": instruction}
        for _ in range(observations):
            connection.send(pack(message))
            answer = connection.recv(timeout=120)
            if isinstance(answer, str):
                raise RuntimeError(f"the server answered: {answer}")


def measure(checkpoint: Path, connections: int, at_once: int, seconds: float, observations: int = 3) -> dict[str, Any]:
    """Memory in MB after the first connection, and the most above it in both parts."""
    with serving(checkpoint) as (process, address):
        converse(address, 0, observations)
        first = resident_mb(process)
        peak = Peak(process)
        for number in range(1, connections):
            converse(address, number, observations)
        in_turn = peak.stop()
        peak = Peak(process)
        numbers, deadline = itertools.count(connections), time.monotonic() + seconds
        faults: list[BaseException] = []

        def talk() -> None:
            try:
                while time.monotonic() < deadline:
                    converse(address, next(numbers), observations)
            except BaseException as fault:
                faults.append(fault)

        clients = [threading.Thread(target=talk) for _ in range(at_once)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        together = peak.stop()
        if faults:
            raise faults[0]
        return {
            "after_first_mb": round(first, 1),
            "one_after_another": {"connections": connections, "more_mb": round(in_turn - first, 1)},
            "at_once": {
                "clients": at_once,
                "seconds": seconds,
                "connections": next(numbers) - connections,
                "more_mb": round(together - first, 1),
            },
            "at_the_end_more_mb": round(resident_mb(process) - first, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=TINY, help="a run or checkpoint directory (default: tiny)")
    parser.add_argument("--connections", type=int, default=1000, help="one after another (default 1000)")
    parser.add_argument("--at_once", type=int, default=32, help="clients that talk at the same time (default 32)")
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long (default 600)")
    options = parser.parse_args()
    found = measure(options.checkpoint, options.connections, options.at_once, options.seconds)
    machine = {"cores": os.cpu_count(), "processor": platform.machine(), "load": round(os.getloadavg()[0], 1)}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({**found, "machine": machine}, indent=2) + "\n")
    print(RESULTS.read_text(), end="")


if __name__ == "__main__":
    main()
