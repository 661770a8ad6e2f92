"""The bounds of the phases room, measured in one run: exact segmentation against the same search in plain Python,
a long recording, import time, and the compiled code's cache.

    python benchmarks/phases.py            # some minutes of computing
    python benchmarks/phases.py --quick    # smaller, for a look
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def recording(steps: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A walk of straight legs with a turning wrist and fingers that open and close; f64[T, 3], f64[T, 4], f64[T, 2]."""
    rng = np.random.default_rng(seed)
    legs = max(steps // 40, 1)
    bounds = np.linspace(0, steps, legs + 1).astype(int)
    heading = np.repeat(rng.normal(size=(legs, 3)), np.diff(bounds), axis=0)
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    speed = 0.01 * (0.4 + np.abs(np.sin(np.linspace(0, legs * np.pi, steps))))[:, None]
    path = np.cumsum(speed * heading, axis=0) + rng.normal(0, 1e-4, (steps, 3))
    half = np.cumsum(np.repeat(rng.normal(0, 0.02, legs), np.diff(bounds))) / 2
    turn = np.stack([np.cos(half), np.zeros(steps), np.zeros(steps), np.sin(half)], axis=1)
    fingers = np.repeat(rng.integers(0, 2, legs), np.diff(bounds))[:, None] * [[0.04, -0.04]]
    return path, turn, fingers


def plain_python_cost() -> type:
    """M2 word for word as a ruptures cost: one cosine per step, nothing precomputed but the steps."""
    from ruptures.base import BaseCost
    from scipy.spatial.transform import Rotation

    class PlainCost(BaseCost):
        model, min_size = "plain", 1

        def fit(self, signal: np.ndarray) -> PlainCost:
            self.signal = signal
            self.rotation = Rotation.from_quat(signal[:, [4, 5, 6, 3]])
            self.turns = (self.rotation[1:] * self.rotation[:-1].inv()).as_rotvec()
            return self

        def error(self, start: int, end: int) -> float:
            last = min(end, len(self.signal) - 1)
            whole = self.signal[last] - self.signal[start]
            turn = (self.rotation[last] * self.rotation[start].inv()).as_rotvec()
            total = 0.0
            for i in range(start, last):
                step = self.signal[i + 1] - self.signal[i]
                total -= _cosine(whole[:3], step[:3]) + _cosine(turn, self.turns[i])
                total -= 2e-3 * float(np.mean(np.sign(whole[7:]) == np.sign(step[7:])))
            return total

    return PlainCost


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length > 1e-12 else 0.0


def segmentation(steps: int) -> dict[str, object]:
    """The same exact search to its end, by ours and by ruptures' Dynp with the plain cost, whose Python evaluates every
    pair of steps. The number of change points is what our default search finds. Seconds are processor time."""
    import ruptures

    from gap_vla.phases import Motion, segment

    signals = recording(steps, 1)
    motion = Motion.of(*signals)
    options: dict[str, Any] = {"dead_band": (1e-12, 1e-12, 1e-12, 1e-12)}

    def timed(**search: Any) -> tuple[np.ndarray, float]:
        segment(motion, min_size=3, **options, **search)
        times = []
        for _ in range(7):
            start = time.process_time()
            found = segment(motion, min_size=3, **options, **search)
            times.append(time.process_time() - start)
        return found, float(np.median(times))

    by_penalty, penalty_seconds = timed(penalty=2.0)
    found, seconds = timed(n_change_points=len(by_penalty))
    plain = plain_python_cost()()
    start = time.process_time()
    theirs = ruptures.Dynp(custom_cost=plain, min_size=3, jump=1).fit(np.hstack(signals)).predict(n_bkps=len(found))
    taken = time.process_time() - start
    optima = [plain.sum_of_costs(bounds) for bounds in ([*found, steps], theirs)]
    return {
        "steps": steps,
        "change_points": len(found),
        "ours_ms": 1000 * seconds,
        "ours_with_penalty_ms": 1000 * penalty_seconds,
        "dynp_plain_python_s": taken,
        "ratio": taken / seconds,
        "same_optimum": bool(np.isclose(*optima)),
    }


def long_recording(steps: int) -> dict[str, float]:
    """A long recording with bounded segments: time, and what the search adds to the peak memory."""
    import resource

    from gap_vla.phases import segment

    signals = recording(steps, 2)
    segment(*(s[:50] for s in signals), penalty=1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    segment(*signals, penalty=1.0, max_segment=500)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"steps": steps, "max_segment": 500, "seconds": time.perf_counter() - start, "extra_memory_mb": grown / 1024}


def fresh_processes() -> dict[str, object]:
    """Import time, and of a first call, for which a new process finds the compiled search in the cache."""
    code = (
        "import json, time; t = time.perf_counter(); import gap_vla.phases as p; a = time.perf_counter() - t\n"
        "import numpy as np; x = np.cumsum(np.ones((50, 3)), axis=0); import numba; t = time.perf_counter()\n"
        "p.segment(x, penalty=1.0); print(json.dumps({'import_s': a, 'first_segment_s': time.perf_counter() - t}))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


PARTS: dict[str, Callable[[bool], object]] = {
    "segmentation": lambda quick: segmentation(200 if quick else 500),
    "long_recording": lambda quick: long_recording(2_000 if quick else 10_000),
    "fresh_processes": lambda quick: fresh_processes(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for part, measure in PARTS.items():
        print(json.dumps({part: measure(options.quick)}, indent=2), flush=True)


if __name__ == "__main__":
    main()
