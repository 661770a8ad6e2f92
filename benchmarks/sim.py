"""The simulation's costs: pictures against the simulators' stock path, and collections.

    python benchmarks/sim.py pictures       # stock and ours in turns, every task at 64 and 84 pixels; about 3 minutes
    python benchmarks/sim.py collections    # 100 demonstrations of threading and assembly, 84 pixels, two processes

Costs are processor milliseconds of one core unless it says wall: they hardly depend on what else the machine does.
Stock means: for Meta-World, mujoco.Renderer on the library's camera `corner2` with the model's own settings (shadow
map, 4 x multisampling); for robosuite, an environment of the same number of arms that draws `agentview`, and a whole
step with `use_camera_obs=True`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import gap_vla.sim as sim


def in_turns(first: Callable[[], Any], second: Callable[[], Any], blocks: int, calls: tuple[int, int]) -> list[float]:
    """Median processor milliseconds of one call of each, and the median of the blocks' ratios."""
    times = []
    for act in (first, second):
        act()
    for _ in range(blocks):
        block = []
        for act, n in zip((first, second), calls):
            start = time.process_time()
            for _ in range(n):
                act()
            block.append((time.process_time() - start) / n * 1e3)
        times.append((*block, block[0] / block[1]))
    return [statistics.median(column) for column in zip(*times)]


def metaworld(task: str, size: int) -> str:
    """Stock picture against ours, and our step with its picture."""
    import mujoco

    env = sim.make(task, image_size=size)
    env.reset(seed=0)
    world = env.world
    stock = mujoco.Renderer(world.model, size, size)

    def draw() -> np.ndarray:
        stock.update_scene(world.data, "corner2")
        return stock.render()

    slow, fast, ratio = in_turns(draw, env.render, 5, (3, 20))
    stock.close()
    start = time.process_time()
    for _ in range(150):
        env.step(np.zeros(7))
    step = (time.process_time() - start) / 150 * 1e3
    env.close()
    return f"| `{task}` | {size} | {slow:.1f} | {fast:.1f} | {ratio:.1f} | {step:.1f} | – |"


def robosuite(task: str, size: int) -> str:
    """A stock picture and a stock step with its picture against ours; `Stack` or `TwoArmLift` stand for every task."""
    import robosuite as suite

    spec = sim.task_spec(task)
    stock = suite.make(
        "Stack" if spec.n_arms == 1 else "TwoArmLift",
        robots=["Panda"] * spec.n_arms,
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names="agentview",
        camera_heights=size,
        camera_widths=size,
        ignore_done=True,
        renderer="mujoco",
    )
    stock.reset()
    env = sim.make(task, image_size=size)
    env.reset(seed=0)
    action = np.zeros(spec.action_dim)
    env.task = dataclasses.replace(env.task, horizon=10**9)
    context = stock.sim._render_context_offscreen.gl_ctx

    def alone(act: Callable[[], Any]) -> Callable[[], Any]:
        """robosuite draws into whatever context is current, so beside ours its own has to be made current."""

        def run() -> Any:
            context.make_current()
            return act()

        return run

    draw = alone(lambda: stock.sim.render(camera_name="agentview", width=size, height=size))
    before = draw()
    slow, fast, ratio = in_turns(draw, env.render, 5, (6, 15))
    assert np.array_equal(draw(), before), "the stock renderer drew something else beside ours"
    slow_step, step, both = in_turns(alone(lambda: stock.step(action)), lambda: env.step(action), 5, (5, 10))
    stock.close()
    env.close()
    return f"| `{task}` | {size} | {slow:.1f} | {fast:.1f} | {ratio:.1f} | {step:.1f} | {slow_step:.1f} ({both:.1f}) |"


def pictures(tasks: list[str], sizes: list[int]) -> None:
    """Prints one row per task and size."""
    sim.require_rendering()
    print("| task | pixels | stock picture ms | our picture ms | ratio | our step + picture ms | stock's (ratio) |")
    print("|---|---|---|---|---|---|---|")
    for task in tasks:
        for size in sizes:
            measure = metaworld if sim.task_spec(task).family == "metaworld" else robosuite
            print(measure(task, size), flush=True)


def collections(tasks: list[str]) -> None:
    """Prints wall and processor time of 100 demonstrations at 84 pixels in two processes."""
    for task in tasks:
        with tempfile.TemporaryDirectory() as folder:
            busy, start = os.times(), time.perf_counter()
            sim.collect_demos(task, 100, Path(folder) / "demos.hdf5", image_size=84, progress=False)
            wall, cpu = time.perf_counter() - start, sum(os.times()[2:4]) - sum(busy[2:4])
        print(f"100 demonstrations of {task}: {wall:.0f} s wall, {cpu:.0f} s of processor time", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("pictures", "collections"), nargs="?", default="pictures")
    parser.add_argument("--sizes", default="64,84", help="of pictures, comma separated (default: 64,84)")
    parser.add_argument("--tasks", help="comma separated (default: all for pictures, assembly and threading otherwise)")
    options = parser.parse_args()
    if options.part == "pictures":
        tasks = options.tasks.split(",") if options.tasks else list(sim.TASK_NAMES)
        pictures(tasks, [int(size) for size in options.sizes.split(",")])
    else:
        tasks = options.tasks.split(",") if options.tasks else ["threading", "assembly"]
        collections(tasks)


if __name__ == "__main__":
    main()
