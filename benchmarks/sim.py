"""Pictures and steps of our path against the simulators' stock path, in one run, on one core.

    python benchmarks/sim.py            # about 2 minutes; prints a table, CPU milliseconds

Stock means: for Meta-World, mujoco.Renderer on the library's camera `corner2` with the model's own settings (shadow
map, 4 x multisampling); for robosuite, `use_camera_obs=True` with `agentview`, a whole step with its picture.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import gap_vla.sim as sim


def cost(act: Callable[[], Any], n: int) -> float:
    """CPU milliseconds of one call."""
    act()
    start = time.process_time()
    for _ in range(n):
        act()
    return (time.process_time() - start) / n * 1e3


def metaworld(task: str, size: int) -> tuple[float, float, float]:
    """Stock picture, our picture, our step with its picture (ms)."""
    import mujoco

    env = sim.make(task, image_size=size)
    env.reset(seed=0)
    world = env.world
    stock = mujoco.Renderer(world.model, size, size)

    def draw() -> np.ndarray:
        stock.update_scene(world.data, "corner2")
        return stock.render()

    slow, fast = cost(draw, 15), cost(env.render, 60)
    stock.close()
    step = cost(lambda: env.step(np.zeros(7)), 100)
    env.close()
    return slow, fast, step


def robosuite(task: str, size: int) -> tuple[float, float, float]:
    """Stock step with its picture, our picture, our step with its picture (ms); `stack` for the stock side."""
    import robosuite as suite

    stock = suite.make(
        "Stack",
        robots="Panda",
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
    slow = cost(lambda: stock.step(np.zeros(7)), 30)
    stock.close()
    env = sim.make(task, image_size=size)
    env.reset(seed=0)
    fast, step = cost(env.render, 60), cost(lambda: env.step(np.zeros(7)), 100)
    env.close()
    return slow, fast, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,84", help="comma separated (default: 64,84)")
    parser.add_argument("--tasks", default=",".join(sim.TASK_NAMES), help="comma separated (default: all)")
    options = parser.parse_args()
    sim.require_rendering()
    print("| task | size | stock | our picture | our step + picture | ratio |")
    print("|---|---|---|---|---|---|")
    for task in options.tasks.split(","):
        for size in map(int, options.sizes.split(",")):
            family = sim.task_spec(task).family
            slow, fast, step = (metaworld if family == "metaworld" else robosuite)(task, size)
            ours = fast if family == "metaworld" else step
            what = "picture" if family == "metaworld" else "step + picture"
            print(
                f"| {task} | {size} | {slow:.1f} ({what}) | {fast:.1f} | {step:.1f} | {slow / ours:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
