"""The comparison on recordings that nobody looked at while our defaults were chosen.

Rivals are tuned on one half of each task's recordings and scored on the other, ours runs with its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.phase_benchmark.finders import FINDERS
from experiments.phase_benchmark.recordings import Recording, load_recordings
from experiments.phase_benchmark.study import compare

SIMULATED: dict[str, dict[str, Any]] = {
    "seeds": {"seed": 1007},
    "disjoint": {"seed": 1008, "variant": "positions_disjoint"},
    "noise": {"seed": 1009, "action_noise": 0.25},
    "size": {"seed": 1010, "variant": "object_size"},
}
"""Sets of our tasks: what is said to `gap_vla.sim.collect_demos`. The variants left out change pictures only."""

TITLES = {
    "seeds": "our tasks, other seeds",
    "disjoint": "our tasks, positions outside of the default ranges",
    "noise": "our tasks, actions disturbed by 0.25",
    "size": "our tasks, objects 15 % larger",
    "metaworld": "ten other tasks of Meta-World, played by Meta-World's policies",
    "robosuite": "robosuite's Lift and PickPlaceCan, played by a list of goals",
}
"""Every set, and what a table calls it."""

STOCK_SEED = 1011

COMPARED = {name: f for name, f in FINDERS.items() if not name.startswith(("ours before", "release"))}


def untouched(
    demos: Path, tasks: Sequence[str], episodes: int, keep: Callable[[dict[str, Any]], Any], sets: Sequence[str] = ()
) -> dict[str, Any]:
    """Scores every finder on every set.

    Args:
        demos: folder where recordings of the simulated sets are, or are collected to.
        tasks: our tasks that are taken.
        episodes: per task and set, half of them for tuning.
        keep: is given the results so far after every set.
        sets: only these of `TITLES`; default: all.

    Returns:
        {set: {"recordings": {task: number}, "results": as of `study.compare`}}.
    """
    out: dict[str, Any] = {}
    for name in sets or TITLES:
        recordings = _recordings(name, demos, tasks, episodes)
        print(f"{name}: {sum(map(len, recordings.values()))} recordings of {len(recordings)} tasks", flush=True)
        out[name] = {
            "recordings": {task: len(found) for task, found in recordings.items()},
            "results": compare(recordings, COMPARED),
        }
        keep(out)
    return out


def _recordings(name: str, demos: Path, tasks: Sequence[str], episodes: int) -> Mapping[str, list[Recording]]:
    if name in SIMULATED:
        return {task: _simulated(name, demos, task, episodes) for task in tasks}
    from experiments.phase_benchmark import stock_tasks as stock

    if name == "metaworld":
        return {task: stock.metaworld_recordings(task, episodes, STOCK_SEED) for task in stock.METAWORLD}
    return {task: stock.robosuite_recordings(task, episodes, STOCK_SEED) for task in stock.ROBOSUITE}


def _simulated(name: str, demos: Path, task: str, episodes: int) -> list[Recording]:
    path = demos / name / f"{task}.hdf5"
    if not path.exists():
        from gap_vla.sim import collect_demos

        collect_demos(task, episodes, path, cameras=(), **SIMULATED[name])
    return load_recordings(path, episodes)
