"""One run, from a configuration to success rates: demonstrations → phases and dataset → training → rollouts → page.

Every stage is found if it is there and made if it is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import platform
import shlex
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from gap_vla.core.errors import ConfigError
from gap_vla.core.files import file_lock, read_json, write_json
from gap_vla.core.identity import commit, digest
from gap_vla.core.progress import Agenda, duration
from gap_vla.rlds.store import EpisodeStore
from gap_vla.training.config import Experiment
from gap_vla.training.hosts import first_host_first, is_first_host, join_hosts, require_same_command, together
from gap_vla.training.loop import Observer, train
from gap_vla.training.run_directory import RunDirectory, of_training, since
from gap_vla.training.stages import (
    Stages,
    collect,
    named_source,
    open_mixture,
    open_store,
    require_fitting,
    shapes_of,
    stages_of,
    versions,
)

STAGES = ("demonstrations", "phases and dataset", "model", "training", "rollouts", "page")


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A configuration and what follows from it, before anything is made.

    Args:
        name: of the run directory; empty: method, seed and a hash.
    """

    config: Experiment
    name: str = ""

    @cached_property
    def stages(self) -> Stages:
        return stages_of(self.config)

    @cached_property
    def directory(self) -> RunDirectory:
        """`runs/<task>/<method>-seed<seed>-<hash of what is trained, the data's making and the code's version>`, or the
        name; a small policy's begins with `small-`."""
        config, name = self.config, self.name
        if name != Path(name).name:
            raise ConfigError(f"--run-name is {name!r}; give the name of one folder")
        if not name:
            made_from = {"config": of_training(config.to_dict()), "dataset": self.stages.made_from(config.backend)}
            name = f"{config.prefix}{config.method}-seed{config.train.seed}-{digest(made_from)}"
        return RunDirectory(Path(config.runs) / config.task / name)

    def validate(self) -> dict[str, Any]:
        """Checks, before any work, what is needed for all of it; returns the shapes of a step's fields.

        Raises:
            UserError: data, weights, devices or packages are not there, or do not fit the configuration.
        """
        config = self.config
        config.check_model()
        if config.train.logger != "none":
            importlib.import_module(config.train.logger)
        if config.rollouts or not (config.data.rlds or config.demos.path):
            from gap_vla.sim.rendering import require_rendering

            require_rendering()
        shapes = dict(shapes_of(config, self.stages))
        require_fitting(config, config.data.rlds or config.demos.path or self.stages.demos, shapes)
        return shapes

    def to_the_end(
        self, resume: bool = False, wait: bool = False, observe: Observer = lambda *_: None
    ) -> dict[str, Any]:
        """Runs every stage and returns the run's summary (also in `summary.json`).

        Args:
            wait: for another process that is at work in its directory; what that has done is not done again.
            observe: is shown every training step, see `gap_vla.training.loop`.

        Raises:
            UserError: what cannot work is said before anything runs; or the directory exists and `resume` is False, or
                another process is at work in it and not `wait`.
            DivergedError: the loss is not finite.
        """
        config, path = self.config, self.directory.path
        join_hosts()  # before any array is made
        require_same_command(self.name, config.to_dict())
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            with first_host_first():
                if is_first_host():
                    stack.enter_context(_alone_in(self.directory, wait))
                done = self.directory.complete_with(config.to_dict())
                if not done:
                    self.validate()
                made_from = self.stages.made_from(config.backend)
                run = RunDirectory.claim(path, config.to_dict(), resume or not is_first_host(), made_from)
                if done:
                    print(f"{path} is complete", flush=True)
                    return dict(read_json(run.summary))
                stack.enter_context(Agenda(STAGES))
                store, *mixture = open_store(config, self.stages), *open_mixture(config, self.stages)
            return self._train_and_roll_out(run, store, mixture, started, observe)

    def _train_and_roll_out(
        self, run: RunDirectory, store: EpisodeStore, mixture: list[EpisodeStore], started: float, observe: Observer
    ) -> dict[str, Any]:
        from gap_vla.drawing.batch import save_batch_picture
        from gap_vla.training.data import describe_store, notes_on_learning

        config = self.config
        prepared = time.monotonic()
        Agenda.begin("model")
        print(describe_store(store), flush=True)
        for (path, weight), other in zip(config.data.mixture, mixture):
            print(f"{path}, with weight {weight:g}: {describe_store(other)}", flush=True)
        trainer = config.trainer().on(config, store, mixture)
        notes = [*self._notes(), *notes_on_learning(trainer, config, [store, *mixture])]
        print(trainer.describe(), *notes, sep="\n", flush=True)
        if is_first_host() and not run.first_batch.exists() and (picture := trainer.picture()) is not None:
            save_batch_picture(picture, run.first_batch)
        Agenda.begin("training")
        with contextlib.closing(trainer):  # the last state is written beside the rollouts
            measured = train(trainer, config.train, run, observe)
            step = trainer.export(run)
            trained = time.monotonic()
            Agenda.begin("rollouts")
            with together():  # JAX ends all five minutes after one has left
                variants = rollouts(config, run, step) if is_first_host() else {}
        first: Mapping[str, Any] = next(iter(variants.values()), {})
        summary = {
            "task": config.task,
            "method": config.method,
            "seed": config.train.seed,
            "steps": trainer.steps,
            "success": first.get("success_rate"),
            "interval": first.get("interval"),
            "validation": {name: value for name, value in measured.items() if name.startswith("val/")},
            "training": {k: v for k, v in measured.items() if not k.startswith("val/")} | trainer.facts(),
            "rollouts": dict(first),
            "variants": variants,
            "dataset": {
                "path": str(self.stages.rlds),
                "identity": self.stages.rlds_identity,
                "store": str(store.directory),
                "hash": store.source_hash,
            },
            "origin": versions(config.backend, config.task),
            "seconds": {
                "prepare": round(prepared - started, 1),
                "train": round(trained - prepared, 1),
                "evaluate": round(time.monotonic() - trained, 1),
            },
            "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "commit": commit()},
        }
        if is_first_host():
            write_json(run.summary, summary)
            Agenda.begin("page")
            self._write_page(run)
        return summary

    def _write_page(self, run: RunDirectory) -> None:
        from gap_vla.report.page import write_report
        from gap_vla.training.data import training_rho

        command = f"gap-vla report {shlex.quote(str(run.path))}"
        write_report([run.path], run.page, command=command, videos=self.config.eval.videos, rho_of=training_rho)

    def _notes(self) -> list[str]:
        config, notes = self.config, []
        if config.eval.episodes and not config.rollouts:
            notes.append(f"note: {config.task} is none of the simulated tasks, so the policy is not rolled out")
        if config.train.steps < config.optimizer.warmup_steps and not getattr(config.train, "epochs", 0):
            notes.append("note: optimizer.warmup_steps is more than train.steps; its learning_rate is never reached")
        return notes

    def collect(self) -> None:
        """Makes the demonstrations alone, which takes the `sim` extra and no other."""
        collect(self.config, self.stages)

    def dry_run(self) -> str:
        """What `to_the_end` would do: data, run, model, optimizer, GAP's leaves, memory. Nothing is made or written."""
        config, stages = self.config, self.stages
        shapes = self.validate()
        lines = []
        if config.data.rlds or config.demos.path:
            lines += [f"data: {config.data.rlds or config.demos.path}", named_source(config).account()]
        else:
            lines.append(f"demonstrations: {stages.demos} ({_there(stages.demos)})")
        lines.append(f"RLDS dataset: {stages.rlds} ({_there(stages.rlds)})")
        lines += [f"RLDS dataset: {path} (with weight {weight:g})" for path, weight in config.data.mixture]
        lines.append(f"run: {self.directory.path}{' (exists)' if self.directory.config.exists() else ''}")
        return "\n".join([*lines, config.trainer().dry_run(config, shapes), *self._notes()])

    def report(self, summary: Mapping[str, Any]) -> str:
        """The last lines of the command: what was measured and where it lies."""
        from gap_vla.rollouts.statistics import percent

        validation = summary["validation"]
        took = duration(sum(summary["seconds"].values()))
        lines = [
            f"{summary['task']}, method {summary['method']}, seed {summary['seed']}, {summary['steps']} steps "
            f"({took}{since(summary)})"
        ]
        if "val/action_mse" in validation:
            lines.append(
                f"  held-out action error {validation['val/action_mse']:.3f} "
                f"(predicting the mean action: {validation['val/mean_action_mse']:.3f})"
            )
        for variant, found in summary["variants"].items():
            low, high = found["interval"]
            lines.append(
                f"  {f'{variant}: ' if len(summary['variants']) > 1 else ''}success {found['successes']}/"
                f"{found['episodes']} = {percent(found['success_rate'])}% (95% interval {low:.0%} to {high:.0%})"
            )
        lines.append(f"  all of it lies in {self.directory.path}; to look at: {self.directory.page}")
        return "\n".join(lines)


@contextlib.contextmanager
def _alone_in(run: RunDirectory, wait: bool) -> Iterator[None]:
    import filelock

    run.path.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(run.lock) if wait else file_lock(run.lock, f"{run.path}"):
        yield


def _there(path: Path) -> str:
    return "there already" if path.exists() else "would be made"


def finetune(
    config: Experiment,
    run_name: str = "",
    resume: bool = False,
    wait: bool = False,
    observe: Observer = lambda *_: None,
) -> dict[str, Any]:
    """The summary of a configuration's run; see `TrainingRun.to_the_end`."""
    return TrainingRun(config, run_name).to_the_end(resume, wait, observe)


def rollouts(config: Experiment, run: RunDirectory, step: int | None = None) -> dict[str, Any]:
    """What `evaluate` returns, for every variant of the task; `step`: of a checkpoint that may hold several."""
    if not config.rollouts:
        return {}
    from gap_vla.report.evaluation_page import write_page
    from gap_vla.rollouts.evaluation import evaluate
    from gap_vla.serving.loading import load_checkpoint

    how: dict[str, Any] = {
        "execute": None if config.eval.ensemble else config.eval.execute,
        "ensemble": config.eval.ensemble,
    }
    loaded = load_checkpoint(run.path, step=step, device=getattr(config.train, "device", "cpu"), **how)
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
