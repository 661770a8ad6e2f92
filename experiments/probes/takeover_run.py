"""Rolls a policy out with takeovers in each window, on the same layouts, and says what each window changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.probes.takeover import ALWAYS, NEVER, TakeoverPolicy, Window, phase_windows, step_windows
from experiments.probes.watched_task import Watched
from gap_vla.core.whole import write_json
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import Policy
from gap_vla.rollouts.statistics import paired_difference, wilson
from gap_vla.rollouts.task import Task, sim_task


def take_over(
    main: Policy,
    other: Policy,
    task: Task,
    windows: Sequence[Window],
    *,
    episodes: int,
    seed: int,
    out_dir: Path,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Success with no takeover, with one in each window, and with one from beginning to end.

    Resumable, as every evaluation is. Each window's success is compared with that of no takeover, paired on layouts.

    Returns:
        JSON-able, and written to `out_dir/takeover.json`: `main`, `other`, `windows` (name, first step or phase,
        successes, interval, difference with its interval and McNemar's probability, outcomes), `episodes`, `seed`.
    """
    found: list[dict[str, Any]] = []
    baseline = np.empty(0)
    shown = Watched(task)
    for number, window in enumerate([NEVER, *windows, ALWAYS]):
        summary = evaluate(
            TakeoverPolicy(main, other, window),
            shown,
            episodes=episodes,
            seed=seed,
            out_dir=out_dir / f"{number:02d}-{window.name.replace(' ', '_')}",
            workers=workers,
            videos=0,
            watch=False,
            progress=progress,
        )
        outcomes = np.array(summary["outcomes"])
        if window is NEVER:
            baseline = outcomes
        difference = paired_difference(outcomes, baseline)
        found.append(
            {
                "window": window.name,
                "first": window.first,
                "phase": None if window.phase is None else task.phases[window.phase],
                "successes": summary["successes"],
                "interval": list(wilson(summary["successes"], episodes)),
                "difference": difference.difference,
                "difference_interval": list(difference.interval),
                "p_mcnemar": difference.p_mcnemar,
                "outcomes": "".join(map(str, summary["outcomes"])),
            }
        )
    result = {"main": main.name, "other": other.name, "task": task.name, "episodes": episodes, "seed": seed}
    result["windows"] = found
    write_json(out_dir / "takeover.json", result)
    return result


def take_over_runs(
    main: Path,
    other: Path,
    *,
    by: str = "phase",
    episodes: int = 50,
    seed: int | None = None,
    variant: str = "default",
    workers: int = 1,
    last_step: int | None = None,
) -> Path:
    """The same for two run directories; the result lies in `main/takeover/<by>-<variant>-<other's name>/`.

    Args:
        by: `phase` (a window at the beginning of each phase) or `step` (windows of ten steps one after the other).
        seed: first layout; default: the variant's own.
        last_step: of the windows by step; default: the mean length of successful episodes of `main`.

    Raises:
        PolicyError: the runs are of different tasks, or have no checkpoint.
    """
    from gap_vla.core.typed_config import choose
    from gap_vla.report.runs import Run
    from gap_vla.serving.loading import load_checkpoint
    from gap_vla.sim import variant_spec

    choose(by, ("phase", "step"), "by")
    run = Run.read(main)
    first = load_checkpoint(main)
    second = load_checkpoint(other, task=first.task)
    first.policy.name, second.policy.name = run.label, Run.read(other).label
    task = sim_task(
        run.task,
        image_size=first.image_size or 64,
        cameras=first.cameras or ("primary",),
        variant=variant,
        camera=first.view(),
    )
    if by == "phase":
        windows = phase_windows(task.phases)
    else:
        windows = step_windows(last_step or int(run.mean_steps(variant) or task.horizon))
    folder = main / "takeover" / f"{by}-{variant}-{other.name}"
    take_over(
        first.policy,
        second.policy,
        task,
        windows,
        episodes=episodes,
        seed=variant_spec(variant).first_seed if seed is None else seed,
        out_dir=folder,
        workers=workers,
    )
    write_json(folder / "settings.json", {"by": by, "variant": variant, "other_run": str(other)})
    return folder
