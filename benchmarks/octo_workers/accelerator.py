"""Octo on a GPU in bf16: steps per second, memory and GAP's share, by batch size."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from cases import write_case
from ours import Ours

BATCH_SIZES = (16, 64, 128, 256)


def measure_accelerator(names: list[str], batch_sizes: list[int], steps: int = 20) -> None:
    """Prints a line per model and batch size; a batch that does not fit ends its model."""
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise SystemExit(f"error: JAX finds no GPU here ({device}); pip install -e .[cuda] on a machine that has one")
    for name in names:
        for batch_size in batch_sizes:
            try:
                row = _measure(name, batch_size, steps)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                print(f"{name}, batch {batch_size}: {str(error).splitlines()[0]}")
                break
            figures = (f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items())
            print(", ".join(figures), flush=True)


def _measure(name: str, batch_size: int, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_case(name, Path(folder), batch_size, proprio=True)
        workers = {
            adjust: Ours(Path(folder), {"dtype": "bfloat16", "embedded": True, "adjust": adjust})
            for adjust in (True, False)
        }
    start = time.perf_counter()
    workers[True].compile_step()
    compiled = time.perf_counter() - start
    workers[False].compile_step()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(steps + 2):
        for adjust in sorted(workers, reverse=bool(turn % 2)):
            start = time.perf_counter()
            workers[adjust].step()
            if turn >= 2:
                seconds[adjust].append(time.perf_counter() - start)
    step = statistics.median(seconds[True])
    shares = [a / b - 1 for a, b in zip(seconds[True], seconds[False])]
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "model": name,
        "batch": batch_size,
        "steps_per_second": 1 / step,
        "samples_per_second": batch_size / step,
        "compile_s": compiled,
        "peak_gb_of_two_models": memory.get("peak_bytes_in_use", 0) / 1e9,
        "gap_share": statistics.median(shares),
    }
