"""The policy server: what it adds to a call, and its memory under many connections.

    python benchmarks/server.py                                 # 1,000 connections, then 32 at once for 10 minutes
    python benchmarks/server.py --connections 200 --seconds 10  # a minute of it
    python benchmarks/server.py --checkpoint runs/threading/NAME

Prints JSON. The bound is 20 MB more than after the first connection. Without --checkpoint, a tiny Octo is served that
reads its instructions through a tiny T5.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "data" / "octo" / "c" / "checkpoint"
LETTERS = "abcdefghijklmnopqrstuvwxyz "


@contextlib.contextmanager
def serving(checkpoint: Path) -> Iterator[tuple[int, str]]:
    """Yields the server's process number and address."""
    command = [sys.executable, str(ROOT / "scripts" / "serve_policy.py"), "--checkpoint", str(checkpoint.resolve())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [*command, "--port", "0"], cwd=checkpoint.parent, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        yield server.pid, next(found[0] for line in server.stdout if (found := re.search(r"ws://\S+", line)))
    finally:
        server.terminate()
        server.wait(60)


def peak_mb(process: int) -> float:
    """The most memory that the process has held since the last call, in MB (10^6 bytes)."""
    status = Path(f"/proc/{process}/status").read_text()
    Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak starts anew
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def converse(address: str, number: int, observations: int = 3) -> list[float]:
    """One connection with an instruction of its own, of up to 1,900 characters; milliseconds of each answer."""
    from websockets.sync.client import connect

    from gap_vla.serving.wire import pack, unpack

    rng = random.Random(number)
    instruction = "".join(rng.choices(LETTERS, k=rng.randint(20, 1900)))
    taken = []
    with connect(address, compression=None) as connection:
        metadata = unpack(connection.recv(timeout=120))  # type: ignore[arg-type]
        size = metadata["image_size"] or 64
        message: dict[str, Any] = {
            f"image_{camera}": np.full((size, size, 3), number % 256, np.uint8) for camera in metadata["cameras"]
        }
        message |= {"proprio": np.zeros(metadata["proprio_dim"] or 9, np.float32), "language_instruction": instruction}
        for _ in range(observations):
            started = time.perf_counter()
            connection.send(pack(message))
            answer = connection.recv(timeout=120)
            taken.append(1e3 * (time.perf_counter() - started))
            if isinstance(answer, str):
                raise RuntimeError(f"the server answered: {answer}")
    return taken


def measure(checkpoint: Path, connections: int, at_once: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of an answer, policy included; memory in MB after the first connection, and the most above it."""
    with serving(checkpoint) as (process, address):
        taken = converse(address, 0, observations=40)[10:]
        first = peak_mb(process)
        for number in range(1, connections):
            converse(address, number)
        in_turn = peak_mb(process)
        numbers, deadline = itertools.count(connections), time.monotonic() + seconds

        def talk() -> None:
            while time.monotonic() < deadline:
                converse(address, next(numbers))

        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            for client in [pool.submit(talk) for _ in range(at_once)]:
                client.result()
        return {
            "answer_ms": round(float(np.median(taken)), 2),
            "after_first_mb": round(first, 1),
            "one_after_another": {"connections": connections, "more_mb": round(in_turn - first, 1)},
            "at_once": {
                "clients": at_once,
                "seconds": seconds,
                "connections": next(numbers) - connections,
                "more_mb": round(peak_mb(process) - first, 1),
            },
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=TINY, help="a run or checkpoint directory (default: tiny)")
    parser.add_argument("--connections", type=int, default=1000, help="one after another (default 1000)")
    parser.add_argument("--at_once", type=int, default=32, help="clients that talk at the same time (default 32)")
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long (default 600)")
    options = parser.parse_args()
    print(json.dumps(measure(options.checkpoint, options.connections, options.at_once, options.seconds), indent=2))
