"""What `scripts/diagnose.py` does: load policy and recordings, tamper, print, write `diagnosis.json`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from gap_vla.core.errors import keeping
from gap_vla.core.foreign import whole
from gap_vla.core.outputs import claim_folder, write_output
from gap_vla.report.diagnose_report import report, verdict
from gap_vla.rollouts.diagnose import closed_loop, open_loop
from gap_vla.rollouts.interventions import ALL_INTERVENTIONS
from gap_vla.rollouts.policy import PolicyError
from gap_vla.rollouts.record import EvaluationError
from gap_vla.rollouts.recordings import Recording, from_episodes, from_simulator, require_task
from gap_vla.rollouts.settings import Settings
from gap_vla.rollouts.task import SimTask, sim_task
from gap_vla.serving.loading import LoadedPolicy, load_checkpoint, load_policy
from gap_vla.sim import require_rendering, task_spec
from gap_vla.training.config import EPISODES

LIBRARY = 5_000
"""Recordings are of layouts this far behind `--seed`, so that no rollout is shown its own."""


def diagnose_command(options: argparse.Namespace) -> None:
    """Tampers, prints, and writes `diagnosis.json`."""
    whole("episodes", options.episodes, 2, int(EPISODES.most), EvaluationError)
    whole("closed_loop", options.closed_loop, 0, int(EPISODES.most), EvaluationError)
    Settings(max(options.closed_loop, 1), options.seed, options.workers)
    with keeping("finished rollouts are kept, the same command continues"):
        _diagnose(options)


def _diagnose(options: argparse.Namespace) -> None:
    out = options.out or _default_out(options)
    claim_folder(out, "diagnosis", sources=[options.rlds, options.demos], make=False)
    simulated = not (options.demos or options.rlds)
    if simulated or options.closed_loop:
        require_rendering()
    loaded, task_name = _load(options, execute=1)
    size = (loaded.image_size or 64) if options.image_size is None else options.image_size
    cameras = options.cameras or loaded.cameras or ("primary",)
    task = None
    if task_name:
        task = sim_task(task_name, image_size=size, cameras=tuple(cameras), camera=loaded.view())
    if (simulated or options.closed_loop) and task is None:
        raise PolicyError("the task is not known; pass --task (or --demos / --rlds, and no --closed_loop)")
    if data := options.rlds or options.demos:
        require_task(data, task_name)
    recordings = _recordings(options, task)
    claim_folder(out, "diagnosis")
    opened = open_loop(loaded.policy, recordings, progress=not options.quiet)
    closed: tuple[Any, ...] = ()
    if options.closed_loop:
        assert task is not None
        print(f"{report(opened)}\n\nrollouts follow", flush=True)
        acting, _ = _load(options, execute=None)
        closed = closed_loop(
            acting.policy,
            task,
            recordings,
            episodes=options.closed_loop,
            seed=options.seed,
            out_dir=out,
            interventions=options.interventions or ALL_INTERVENTIONS,
            workers=options.workers,
            progress=not options.quiet,
        )
    print(report(opened, closed))
    content = {
        "policy": {"name": loaded.policy.name, **getattr(loaded.policy, "identity", {})},
        "open_loop": dataclasses.asdict(opened),
        "closed_loop": [dataclasses.asdict(entry) for entry in closed],
        "verdict": verdict(opened, closed),
    }
    write_output(out / "diagnosis.json", "diagnosis", json.dumps(content))
    print(f"→ {out / 'diagnosis.json'}")


def _load(options: argparse.Namespace, execute: int | None) -> tuple[LoadedPolicy, str | None]:
    if options.checkpoint:
        loaded = load_checkpoint(
            options.checkpoint, task=options.task, step=options.step, execute=execute, dataset=options.dataset
        )
        return loaded, options.task or loaded.task
    if options.task is None:
        raise PolicyError(f"--policy {options.policy} needs --task")
    width = task_spec(options.task).action_dim
    loaded = load_policy(
        options.policy, action_dim=width, task=options.task, keys=options.keys, patience=options.patience
    )
    return loaded, options.task


def _recordings(options: argparse.Namespace, task: SimTask | None) -> list[Recording]:
    if options.demos:
        from gap_vla import demos

        return from_episodes(itertools.islice(demos.read(options.demos), options.episodes))
    if options.rlds:
        from gap_vla.rlds import read_rlds

        return from_episodes(itertools.islice(read_rlds(options.rlds, "val"), options.episodes))
    assert task is not None
    print(f"recording the expert in {options.episodes} layouts …", file=sys.stderr, flush=True)
    seeds = [options.seed + LIBRARY + number for number in range(options.episodes)]
    return from_simulator(task, seeds, workers=options.workers)


def _default_out(options: argparse.Namespace) -> Path:
    if options.checkpoint and Path(options.checkpoint).is_dir():
        return Path(options.checkpoint) / "diagnosis"
    return Path("runs") / "diagnosis" / (options.checkpoint or options.policy).replace("/", "_").replace(":", "_")
