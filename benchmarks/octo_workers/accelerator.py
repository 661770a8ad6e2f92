"""Octo on a GPU in bf16: steps per second, fraction of the peak, memory and GAP's share, by batch size."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from cases import write_case
from ours import Ours

BATCH_SIZES = (16, 64, 128, 256)


def measure_accelerator(
    names: list[str], batch_sizes: list[int], peak_tflops: float | None, out: Path | None = None, steps: int = 20
) -> None:
    """Prints a line per model and batch size; a batch that does not fit ends its model.

    Args:
        peak_tflops: of the device in bf16, without sparsity; None: no fraction of it is given.
        out: JSON file for all figures.
    """
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise SystemExit(f"error: JAX finds no GPU here ({device}); pip install -e .[cuda] on a machine that has one")
    rows: list[dict[str, Any]] = []
    for name in names:
        for batch_size in batch_sizes:
            try:
                row = _measure(name, batch_size, peak_tflops, steps)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                print(f"{name}, batch {batch_size}: {str(error).splitlines()[0]}")
                break
            rows.append(row)
            print(
                ", ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()
                )
            )
            if out:
                out.write_text(json.dumps(rows, indent=1) + "\n")


def _measure(name: str, batch_size: int, peak_tflops: float | None, steps: int) -> dict[str, Any]:
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
    reached = {"fraction_of_peak": workers[True].flops() / step / (peak_tflops * 1e12)} if peak_tflops else {}
    return {
        "model": name,
        "batch": batch_size,
        "steps_per_second": 1 / step,
        "samples_per_second": batch_size / step,
        **reached,
        "compile_s": compiled,
        "peak_gb_of_two_models": memory.get("peak_bytes_in_use", 0) / 1e9,
        "gap_share": statistics.median(shares),
    }
