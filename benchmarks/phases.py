"""The bounds of the phases room, measured in one run: exact segmentation against the same search in plain Python,
annotation of a large data set, import time, and the compiled code's cache.

    python benchmarks/phases.py            # about twelve minutes of computing
    python benchmarks/phases.py --quick    # smaller, for a look
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # experiments/ is part of the checkout, of no package


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

    from experiments.phase_benchmark.ruptures_cost import MotionCost, segment_cost
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
    optima, taken = [segment_cost(*signals, found, **options)], []
    for cost in (MotionCost(motion, **options), plain_python_cost()()):
        start = time.process_time()
        bounds = ruptures.Dynp(custom_cost=cost, min_size=3, jump=1).fit(np.hstack(signals)).predict(n_bkps=len(found))
        taken.append(time.process_time() - start)
        optima.append(segment_cost(*signals, bounds[:-1], **options))
    return {
        "steps": steps,
        "change_points": len(found),
        "ours_ms": 1000 * seconds,
        "ours_with_penalty_ms": 1000 * penalty_seconds,
        "dynp_our_cost_s": taken[0],
        "dynp_plain_python_s": taken[1],
        "ratio": taken[1] / seconds,
        "same_optimum": bool(np.allclose(optima, optima[0])),
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


def annotation(episodes: int, steps: int) -> dict[str, object]:
    """Segmentation, LSTM training and ρ of a whole data set, with one process and with two."""
    from gap_vla.core.columns import POSE
    from gap_vla.core.episode import Episode
    from gap_vla.phases import annotate

    def episode(seed: int) -> Episode:
        states = np.concatenate(recording(steps, seed), axis=1).astype(np.float32)
        return Episode({}, states, np.zeros((steps, 7), np.float32), columns=POSE)

    data = [episode(seed) for seed in range(episodes)]
    out: dict[str, object] = {"episodes": episodes, "steps": steps}
    labels = []
    for workers in (2, 1):
        cpu, start = os.times(), time.perf_counter()
        result = annotate(data, workers=workers)
        seconds, used = time.perf_counter() - start, os.times()
        out[f"workers {workers}"] = {"seconds": seconds, "cpu_seconds": sum(used[:4]) - sum(cpu[:4])}
        labels.append(b"".join(r.tobytes() for r in result.rho))
    out["independent_of_workers"] = labels[0] == labels[1]
    return out


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
    "annotation": lambda quick: annotation(20 if quick else 500, 400),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS, help="what to measure (default: all)")
    options = parser.parse_args()
    for part in options.parts:
        print(json.dumps({part: PARTS[part](options.quick)}, indent=2), flush=True)


if __name__ == "__main__":
    main()
