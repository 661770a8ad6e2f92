"""One run, from a configuration to success rates: demonstrations → phases and dataset → training → rollouts → page.

Every stage is found if it is there and made if it is not.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from gap_vla.core.files import read_json, write_json
from gap_vla.core.identity import digest, machine
from gap_vla.core.progress import Agenda, duration
from gap_vla.training.config import Experiment
from gap_vla.training.data import Stages, describe_store, training_rho, versions
from gap_vla.training.loop import train
from gap_vla.training.run_directory import RunDirectory, of_training

STAGES = ("demonstrations", "phases and dataset", "model", "training", "rollouts", "page")


class TrainingRun:
    """A configuration and what follows from it, before anything is made.

    Args:
        name: of the run directory; empty: method, seed and a hash.

    Attributes:
        directory: `runs/<task>/<method>-seed<seed>-<hash of what is trained, the data's making and the code's
            version>`, or the name; a small policy's begins with `small-`.

    Raises:
        OSError: the data that the configuration names do not exist.
    """

    def __init__(self, config: Experiment, name: str = ""):
        self.config = config
        self.stages = Stages(config)
        made_from = {"config": of_training(config.to_dict()), "dataset": self.stages.made_from()}
        own = f"{config.prefix}{config.method}-seed{config.train.seed}-{digest(made_from)}"
        self.directory = RunDirectory(Path(config.runs) / config.task / (name or own))

    def validate(self) -> dict[str, tuple[int, ...]]:
        """Checks, before any work, what is needed for all of it; returns the shapes of a step's fields.

        Raises:
            UserError: data, weights, devices or packages are not there, or do not fit the configuration.
        """
        config = self.config
        config.check_model()
        if config.rollouts or not self.stages.given:
            from gap_vla.sim.rendering import require_rendering

            require_rendering()
        shapes = self.stages.shapes()
        self.stages.require_fitting(shapes)
        return shapes

    def to_the_end(self, resume: bool = False) -> dict[str, Any]:
        """Runs every stage and returns the run's summary (also in `summary.json`).

        Another process that is at work in the directory is waited for; what that has done is not done again.

        Raises:
            UserError: what cannot work is said before anything runs; or the directory exists and `resume` is False.
            DivergedError: the loss is not finite.
        """
        config, path = self.config, self.directory.path
        with _alone_in(self.directory):
            done = self.directory.complete_with(config.to_dict())
            if not done:
                self.validate()
            run = RunDirectory.claim(path, config.to_dict(), resume, self.stages.made_from())
            if done:
                print(f"{path} is complete", flush=True)
                return dict(read_json(run.summary))
            with Agenda(STAGES):
                return self._all_stages(run)

    def _all_stages(self, run: RunDirectory) -> dict[str, Any]:
        from gap_vla.drawing.batch import save_batch_picture
        from gap_vla.report.page import write_report

        config, started = self.config, time.monotonic()
        store = self.stages.open()
        prepared = time.monotonic()
        Agenda.begin("model")
        print(describe_store(store), flush=True)
        trainer = config.trainer().on(config, store)
        texts = {text for text in store.split("train").languages if text.strip()}
        print(trainer.describe(), *self._notes(len(texts)), sep="\n", flush=True)
        if not run.first_batch.exists() and (picture := trainer.picture()) is not None:
            save_batch_picture(picture, run.first_batch)
        Agenda.begin("training")
        with contextlib.closing(trainer):  # the last state is written beside the rollouts
            measured = train(trainer, config.train, run)
            step = trainer.export(run)
            trained = time.monotonic()
            Agenda.begin("rollouts")
            variants = rollouts(config, run, step)
        summary = {
            "task": config.task,
            "method": config.method,
            "seed": config.train.seed,
            "steps": trainer.steps,
            "validation": {name: value for name, value in measured.items() if name.startswith("val/")},
            "training": {k: v for k, v in measured.items() if not k.startswith("val/")},
            "variants": variants,
            "dataset": {
                "path": str(self.stages.rlds),
                "identity": self.stages.identity,
                "store": str(store.directory),
                "hash": store.source_hash,
            },
            "origin": versions(config.backend, config.task),
            "seconds": {
                "prepare": round(prepared - started, 1),
                "train": round(trained - prepared, 1),
                "evaluate": round(time.monotonic() - trained, 1),
            },
            "machine": machine(),
        }
        write_json(run.summary, summary)
        Agenda.begin("page")
        command = f"gap-vla report {shlex.quote(str(run.path))}"
        write_report([run.path], run.page, command=command, videos=config.eval.videos, rho_of=training_rho)
        return summary

    def _notes(self, instructions: int = 0) -> list[str]:
        config, notes = self.config, []
        if instructions > 1 and not getattr(config.model, "pretrained", ""):
            other = "an Octo of model.pretrained reads them"
            notes.append(f"note: the data have {instructions} instructions, and this policy reads none; {other}")
        if config.eval.episodes and not config.rollouts:
            notes.append(f"note: {config.task} is none of the simulated tasks, so the policy is not rolled out")
        return notes

    def dry_run(self) -> str:
        """What `to_the_end` would do: data, run, model, optimizer, GAP's leaves. Nothing is made or written."""
        config, stages = self.config, self.stages
        shapes = self.validate()
        if stages.given:
            lines = [f"data: {stages.given}", stages.source().account()]
        else:
            lines = [f"demonstrations: {stages.demos} ({_there(stages.demos)})"]
        lines.append(f"RLDS dataset: {stages.rlds} ({_there(stages.rlds)})")
        lines.append(f"run: {self.directory.path}{' (exists)' if self.directory.config.exists() else ''}")
        return "\n".join([*lines, config.trainer().dry_run(config, shapes), *self._notes()])

    def report(self, summary: Mapping[str, Any]) -> str:
        """The last lines of the command: what was measured and where it lies."""
        from gap_vla.rollouts.records import describe

        validation = summary["validation"]
        took = duration(sum(summary["seconds"].values()))
        if since := summary.get("training", {}).get("resumed_after"):
            took += f" since step {since}"
        lines = [
            f"{summary['task']}, method {summary['method']}, seed {summary['seed']}, {summary['steps']} steps ({took})"
        ]
        if "val/action_mse" in validation:
            lines.append(
                f"  held-out action error {validation['val/action_mse']:.3f} "
                f"(predicting the mean action: {validation['val/mean_action_mse']:.3f})"
            )
        lines += [f"  {line}" for found in summary["variants"].values() for line in describe(found).splitlines()]
        lines.append(f"  all of it lies in {self.directory.path}; to look at: {self.directory.page}")
        return "\n".join(lines)


def _alone_in(run: RunDirectory) -> filelock.FileLock:
    """A lock that one process holds; another one says that it waits."""
    run.path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(run.lock)
    try:
        with lock.acquire(timeout=0):
            pass
    except filelock.Timeout:
        print(f"another process is at work in {run.path}: waiting for it", flush=True)
    return lock


def _there(path: Path) -> str:
    return "there already" if path.exists() else "would be made"


def rollouts(config: Experiment, run: RunDirectory, step: int | None = None) -> dict[str, Any]:
    """What `evaluate` returns, for every variant of the task; `step`: of a checkpoint that may hold several."""
    if not config.rollouts:
        return {}
    from gap_vla.report.evaluations import write_page
    from gap_vla.rollouts.evaluation import evaluate
    from gap_vla.serving.loading import load_checkpoint

    loaded = load_checkpoint(
        run.path,
        step=step,
        execute=config.eval.execute,
        device=getattr(config.train, "device", "cpu"),
    )
    found = {}
    for variant, first_seed, folder in config.eval.layouts():
        print(f"rollouts: {config.eval.episodes} on {config.task}, {variant}", flush=True)
        found[variant] = evaluate(
            loaded.policy,
            config.task,
            episodes=config.eval.episodes,
            seed=first_seed,
            out_dir=run.rollouts / folder,
            image_size=config.demos.image_size,
            cameras=config.demos.cameras,
            camera=config.demos.camera,
            variant=variant,
            workers=config.eval.workers,
            videos=config.eval.videos,
        )
        write_page(run.rollouts / folder, found[variant])
    return found
