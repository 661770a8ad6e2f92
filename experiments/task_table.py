"""Measures the simulated tasks and writes the table and the pictures of docs/TASKS.md.

python scripts/task_table.py                 # about 20 minutes on one core; what is measured already stays
python scripts/task_table.py --pictures      # a contact sheet of each task as well
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several threads per process make a step slower

import numpy as np

from experiments.pages import replace_between
from gap_vla.core.errors import command
from gap_vla.core.files import read_json, write_json
from gap_vla.drawing.markup import markdown_table
from gap_vla.rollouts.statistics import percent, wilson
from gap_vla.sim import TASK_NAMES, VARIANT_NAMES, task_spec, variant_spec

PAGE_PART = "task table"
"""Name of the markers between which the table stands in docs/TASKS.md."""


def measure_expert(task: str, variant: str, n: int) -> dict[str, Any]:
    """Plays the variant's first `n` seeds without pictures. Returns `successes`, `n`, `failed_seeds`, mean `steps` of
    the successful episodes, the `phases` that occurred in them with their mean length, and CPU milliseconds per
    `step_ms` (the simulator's, without the expert's thinking) and `reset_ms`.
    """
    from gap_vla.sim import make

    env = make(task, cameras=(), variant=variant)
    env.reset(seed=0)
    env.step(np.zeros_like(env.action_space.sample()))  # the first reset and the first step compile
    lengths, failed, phases, steps, step_time, reset_time = [], [], [], 0, 0.0, 0.0
    for seed in variant_spec(variant).seeds(n):
        start = time.process_time()
        env.reset(seed=seed)
        reset_time += time.process_time() - start
        names, success, seconds = play(env, seed)
        steps, step_time = steps + len(names), step_time + seconds
        if success:
            lengths.append(len(names))
            phases.append(names)
        else:
            failed.append(seed)
    env.close()
    order = [p for p in task_spec(task).phases if any(p in names for names in phases)]
    return {
        "successes": len(lengths),
        "n": n,
        "failed_seeds": failed,
        "steps": float(np.mean(lengths)) if lengths else None,
        "phases": {p: round(float(np.mean([names.count(p) for names in phases])), 1) for p in order},
        "step_ms": round(step_time / steps * 1e3, 2),
        "reset_ms": round(reset_time / n * 1e3, 2),
    }


def play(env: Any, seed: int) -> tuple[list[str], bool, float]:
    """Lets the expert finish the episode that was just reset: its phase per step, the success, and the CPU seconds of
    the simulator's steps."""
    from gap_vla.sim import make_expert

    expert, seconds = make_expert(env, seed=seed), 0.0
    names: list[str] = []
    while True:
        action = expert.act()
        names.append(expert.phase)
        start = time.process_time()
        *_, terminated, truncated, info = env.step(action)
        seconds += time.process_time() - start
        if terminated or truncated:
            return names, info["success"], seconds


def measure_rendering(task: str, image_size: int, frames: int = 60) -> float:
    """CPU milliseconds per picture of the primary camera; the median of five blocks."""
    from gap_vla.sim import make

    env = make(task, image_size=image_size)
    env.reset(seed=0)
    env.render()
    blocks = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(frames // 5):
            env.render()
        blocks.append((time.process_time() - start) / (frames // 5) * 1e3)
    env.close()
    return round(statistics.median(blocks), 2)


def draw_pictures(task: str, folder: Path, image_size: int = 128, columns: int = 6) -> Path:
    """Writes `<task>.png`, of 64 colours: a row along one expert episode, and the first picture of every variant."""
    from PIL import Image

    from gap_vla.sim import make, make_expert

    env = make(task, image_size=image_size)
    observation, _ = env.reset(seed=0)
    expert, film, over = make_expert(env, seed=0), [observation["image_primary"]], False
    while not over:
        observation, _, terminated, truncated, _ = env.step(expert.act())
        film.append(observation["image_primary"])
        over = terminated or truncated
    env.close()
    episode = [film[i] for i in np.linspace(0, len(film) - 1, columns).round().astype(int)]
    looks = []
    for variant in VARIANT_NAMES[1:]:
        env = make(task, image_size=image_size, variant=variant)
        looks.append(env.reset(seed=variant_spec(variant).first_seed)[0]["image_primary"])
        env.close()
    episode += [np.full_like(film[0], 255)] * (len(looks) - len(episode))
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in (episode, looks)], axis=0)
    path = folder / f"{task}.png"
    of_few = Image.fromarray(sheet).quantize(64, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    of_few.save(path, "PNG", optimize=True)
    return path


def update(path: Path, tasks: Sequence[str], variants: Sequence[str], n: int, n_looks: int) -> dict[str, Any]:
    """Measures what `path` (JSON) does not hold yet, or with fewer episodes, and saves after every cell.

    Args:
        n, n_looks: episodes per task and variant; of variants that change looks only.
    """
    results: dict[str, Any] = read_json(path) if path.exists() else {}
    for task, variant in itertools.product(tasks, variants):
        cells = results.setdefault(task, {})
        episodes = n_looks if variant_spec(variant).only_looks else n
        if cells.get(variant, {"n": 0})["n"] < episodes:
            cells[variant] = measure_expert(task, variant, episodes)
            print(f"{task:14s} {variant:19s} {cells[variant]['successes']}/{cells[variant]['n']}", flush=True)
        if variant == "default" and "render_ms_64" not in cells:
            cells |= {f"render_ms_{size}": measure_rendering(task, size) for size in (64, 84)}
        write_json(path, results)
    return results


def as_markdown(results: dict[str, Any]) -> str:
    """A table of tasks, and the successes under each variant over all tasks."""
    heading = ["task", "Hz", "horizon", "steps", "reset ms", "step ms"]
    rows = [[*heading, "picture ms (64 px)", "(84 px)"]]
    for task in (name for name in TASK_NAMES if "default" in results.get(name, {})):
        spec, cells = task_spec(task), results[task]
        cell = cells["default"]
        steps = f"{cell['steps']:.0f}" if cell["successes"] else "–"
        times = [cell["reset_ms"], cell["step_ms"], cells["render_ms_64"], cells["render_ms_84"]]
        rows.append([f"`{task}`", *map(str, (spec.control_hz, spec.horizon, steps, *times))])
    succeeded = []
    for variant in VARIANT_NAMES:
        seen = {task: cells[variant] for task, cells in results.items() if variant in cells}
        failing = [f"`{task}` {_success(c)}" for task, c in seen.items() if c["successes"] < c["n"]]
        total = f"{sum(c['successes'] for c in seen.values())} of {sum(c['n'] for c in seen.values())}"
        succeeded.append(f"`{variant}` {total}" + (f" ({', '.join(failing)})" if failing else ""))
    successes = "Successes of the experts over all tasks: " + ", ".join(succeeded) + "."
    return "\n\n".join([markdown_table(rows), successes])


def _success(cell: dict[str, Any]) -> str:
    """Successes of episodes, with the 95 % Wilson interval in per cent."""
    low, high = wilson(cell["successes"], cell["n"])
    return f"{cell['successes']}/{cell['n']} ({percent(low)}–{percent(high)})"


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tasks", default=",".join(TASK_NAMES), help="comma separated (default: all)")
    add("--variants", default=",".join(VARIANT_NAMES), help="comma separated (default: all)")
    add("--episodes", type=int, default=100, help="per task and variant (default: 100)")
    add("--look-episodes", type=int, default=20, help="per variant that changes looks only (default: 20)")
    add("--results", type=Path, default=Path("results/task_table.json"), help="default: %(default)s")
    add("--page", type=Path, default=Path("docs/TASKS.md"), help="default: %(default)s")
    add("--pictures", action="store_true", help="draw pictures/<task>.png beside the page as well")
    options = parser.parse_args(argv)
    tasks = [task_spec(name).name for name in options.tasks.split(",")]
    variants = [variant_spec(name).name for name in options.variants.split(",")]
    results = update(options.results, tasks, variants, options.episodes, options.look_episodes)
    replace_between(options.page, PAGE_PART, as_markdown(results))
    for task in tasks if options.pictures else ():
        print(draw_pictures(task, options.page.parent / "pictures"))
    print(options.page)
