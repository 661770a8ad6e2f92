"""A process that compiles, trains and samples when told to on its standard input, and answers with seconds.

Runs under today's JAX and under upstream's pins alike: only what both have is used.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def read_batch(folder: Path) -> dict[str, Any]:
    """The nested batch of `inputs.npz`, whose keys are '/'-joined."""
    batch: dict[str, Any] = {}
    with np.load(folder / "inputs.npz") as file:
        for key in file.files:
            *parents, name = key.split("/")
            node = batch
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = file[key]
    return batch


def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32[shape]: the same random parameter of that name in every process."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    if path.endswith(("scale", "weight")):
        return np.ones(shape, np.float32)
    return (0.02 * rng.standard_normal(shape, np.float32)).astype(np.float32)


def serve(worker: Any) -> None:
    """Calls the methods of `worker` named on the input's lines, so often as the line says after the name.

    Prints wall and CPU seconds of one call, the values of all calls, and the peak memory.
    """
    for line in sys.stdin:
        name, times = [*line.split(), "1"][:2]
        wall, cpu = time.perf_counter(), time.process_time()
        values = [getattr(worker, name)() for _ in range(int(times))]
        answer: dict[str, Any] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        answer = {kind: seconds / int(times) for kind, seconds in answer.items()} | {"values": values}
        answer["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(answer), flush=True)
