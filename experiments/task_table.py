"""Measuring the tasks: expert success, episode length, phases and costs, and the table that docs/TASKS.md shows."""

from __future__ import annotations

import itertools
import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.cli.arguments import MANY
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section
from gap_vla.core.outputs import write_output, writing
from gap_vla.drawing.markup import markdown_table
from gap_vla.rollouts.statistics import percent, wilson
from gap_vla.sim.environment import SimEnv, make
from gap_vla.sim.expert import make_expert
from gap_vla.sim.specs import TASK_NAMES, task_spec
from gap_vla.sim.variants import VARIANT_NAMES, variant_spec

PAGE_PART = "task table"
"""Name of the markers between which the table stands in docs/TASKS.md."""

LEAST_MS = 0.01
"""Of what is measured in ms, rounded to this: nothing takes no time."""


def measure_expert(task: str, variant: str, n: int) -> dict[str, Any]:
    """Plays the variant's first `n` seeds without pictures. Returns `successes`, `n`, `failed_seeds`, mean `steps` of
    the successful episodes, the `phases` that occurred in them with their mean length, and CPU milliseconds per
    `step_ms` (the simulator's, without the expert's thinking) and `reset_ms`.
    """
    env = make(task, cameras=(), variant=variant)
    env.reset(seed=0)
    env.step(np.zeros_like(env.action_space.sample()))  # the first reset and the first step compile
    lengths, failed, phases, steps, step_time, reset_time = [], [], [], 0, 0.0, 0.0
    for seed in variant_spec(variant).seeds(n):
        start = time.process_time()
        env.reset(seed=seed)
        middle = time.process_time()
        names, success, seconds = play(env, seed)
        reset_time, step_time = reset_time + middle - start, step_time + seconds
        steps += len(names)
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


def play(env: SimEnv, seed: int) -> tuple[list[str], bool, float]:
    """Lets the expert finish the episode that was just reset.

    Returns:
        Its phase per step, the success, and the CPU seconds of the simulator's steps.
    """
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
    """CPU milliseconds per picture of the primary camera."""
    env = make(task, image_size=image_size)
    env.reset(seed=0)
    env.render()
    blocks = []
    for _ in range(5):  # the median of blocks: other work on the machine disturbs single ones
        start = time.process_time()
        for _ in range(frames // 5):
            env.render()
        blocks.append((time.process_time() - start) / (frames // 5) * 1e3)
    env.close()
    return round(statistics.median(blocks), 2)


def draw_pictures(task: str, folder: Path, image_size: int = 128, columns: int = 6) -> Path:
    """Writes `<task>.png`: a row along one expert episode, and a row with the first picture of every variant; of 64
    colours, which are a sixth of the bytes."""
    from PIL import Image

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
    for variant in VARIANT_NAMES[1 : 1 + columns + 2]:
        env = make(task, image_size=image_size, variant=variant)
        looks.append(env.reset(seed=variant_spec(variant).first_seed)[0]["image_primary"])
        env.close()
    width = max(len(episode), len(looks))
    blank = [np.full_like(film[0], 255)] * (width - len(episode))
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in (episode + blank, looks)], axis=0)
    path = folder / f"{task}.png"
    with writing(path, "task_picture") as temporary:
        of_few = Image.fromarray(sheet).quantize(64, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
        of_few.save(temporary, "PNG", optimize=True)
    return path


def update_results(
    path: Path, *, tasks: Sequence[str], variants: Sequence[str], n: int, n_looks: int, again: bool = False
) -> dict[str, Any]:
    """Measures what `path` (JSON) does not hold yet, or with fewer episodes (`n` per task and variant, `n_looks` for
    variants that change looks only), or all `again`, and saves after every cell.

    Raises:
        UserError: what would be measured again was measured with more episodes.
    """
    results = read_results(path)
    for task, variant in itertools.product(tasks, variants) if again else ():
        held = results.get(task, {}).get(variant, {"n": 0})["n"]
        if held > (episodes := n_looks if variant_spec(variant).only_looks else n):
            raise UserError(f"{path} holds {held} episodes of {task} on {variant}; {episodes} do not replace them")
    for task, variant in itertools.product(tasks, variants):
        cells = results.setdefault(task, {})
        spec = variant_spec(variant)
        episodes = n_looks if spec.only_looks else n
        if again or cells.get(variant, {"n": 0})["n"] < episodes:
            cells[variant] = measure_expert(task, variant, episodes)
            _save(path, results)
            print(f"{task:14s} {variant:19s} {cells[variant]['successes']}/{cells[variant]['n']}", flush=True)
        if variant == "default" and (again or "render_ms_64" not in cells):
            for size in (64, 84):
                cells[f"render_ms_{size}"] = measure_rendering(task, size)
            _save(path, results)
    return results


def read_results(path: Path) -> dict[str, Any]:
    """What was measured: task to variant to what `measure_expert` returned, and `render_ms_SIZE`; empty before any was.
    Raises UserError: a value is missing, of another kind or out of its bounds; names file and key.
    """
    if not path.exists():
        return {}
    found = Section.read(path)
    for task in [key for key in found.values if key != "made_by"]:
        cells = found.section(task)
        if task not in TASK_NAMES:
            raise found.error(f"{found.name(task)}: no such task; there are: {', '.join(TASK_NAMES)}")
        for name in cells.values:
            if name.startswith("render_ms_"):
                cells.finite(name, LEAST_MS, 1e6)
                continue
            if name not in VARIANT_NAMES:
                raise cells.error(f"{cells.name(name)}: no such variant; there are: {', '.join(VARIANT_NAMES)}")
            _require_cell(cells.section(name), task, name)
    return dict(found.values)


def _require_cell(cell: Section, task: str, variant: str) -> None:
    """Raises UserError for what `measure_expert` does not return of a task and variant."""
    n, horizon = cell.whole("n", 1, MANY), task_spec(task).horizon
    won = cell.whole("successes", 0, n)
    seeds, played = cell.list("failed_seeds", lambda all_, key: all_.whole(key, 0, 2**32 - 1)), variant_spec(variant)
    if len({*seeds}) != n - won or len(seeds) != n - won or not {*seeds} <= {*played.seeds(n)}:
        first = played.first_seed
        raise cell.refuse("failed_seeds", f"one of {first} to {first + n - 1} for each of the {n - won} failures")
    phases = cell.section("phases")
    if odd := {*phases.values} - {*task_spec(task).phases}:
        raise cell.refuse("phases", f"those of {task}, without {min(odd)}")
    phases.require_numbers(0, horizon)
    if won and abs(cell.finite("steps", 1, horizon) - (total := sum(phases.values.values()))) > 1:
        raise cell.refuse("steps", f"those of its phases, {total:g}")
    if not won and (cell.values.get("steps") is not None or phases.values):
        raise cell.refuse("steps", "null, and phases empty, as no episode succeeded")
    for key in ("step_ms", "reset_ms"):
        cell.finite(key, LEAST_MS, 1e6)


def _save(path: Path, results: dict[str, Any]) -> None:
    write_output(path, "task_table", json.dumps(results, indent=1))


def as_markdown(results: dict[str, Any]) -> str:
    """The tables: one of tasks, one of variants."""
    heading = ["task", "Hz", "horizon", "success (interval, %)", "steps", "reset ms", "step ms"]
    rows = [[*heading, "picture ms (64 px)", "(84 px)"]]
    known = [task for task in TASK_NAMES if any(variant in results.get(task, {}) for variant in VARIANT_NAMES)]
    for task in known:
        spec, cells = task_spec(task), results[task]
        if (cell := cells.get("default")) is None:
            rows.append([f"`{task}`", str(spec.control_hz), str(spec.horizon), *["–"] * 6])
            continue
        pictures = [cells.get(f"render_ms_{size}", "–") for size in (64, 84)]
        times = [cell["reset_ms"], cell["step_ms"], *pictures]
        steps = f"{cell['steps']:.0f}" if cell["successes"] else "–"
        row = [f"`{task}`", spec.control_hz, spec.horizon, _success(cell), steps, *times]
        rows.append([str(value) for value in row])
    under = [["task", *VARIANT_NAMES[1:]]]
    for task in known:
        cells = [results[task].get(variant) for variant in VARIANT_NAMES[1:]]
        under.append([f"`{task}`", *(_success(c) if c else "–" for c in cells)])
    lines = [markdown_table(rows), ""]
    lines += [
        "Expert success under each variant, on the variant's own seeds (interval in %):",
        "",
        markdown_table(under),
    ]
    lines += ["", "Phases of the expert and their mean length in steps:", ""]
    for task in (task for task in known if "default" in results[task]):
        phases = results[task]["default"]["phases"]
        lines.append(f"- `{task}`: " + ", ".join(f"{name} {length:.0f}" for name, length in phases.items()))
    return "\n".join(lines)


def shown_cells(text: str) -> set[tuple[str, str]]:
    """(task, variant) whose success stands in the tables of `as_markdown`."""
    found, heading = set(), list[str]()
    for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        first, *cells = row.split(" | ")
        if first == "task":
            heading = ["default" if name.startswith("success") else name for name in cells]
        elif task := re.fullmatch(r"`(\w+)`", first):
            found |= {(task[1], name) for name, cell in zip(heading, cells) if name in VARIANT_NAMES and cell != "–"}
    return found


def _success(cell: dict[str, Any]) -> str:
    """Successes of episodes, with the 95 % Wilson interval in per cent."""
    low, high = wilson(cell["successes"], cell["n"])
    return f"{cell['successes']}/{cell['n']} ({percent(low)}–{percent(high)})"
