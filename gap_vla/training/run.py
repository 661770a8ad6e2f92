"""One run, from a configuration to success rates: demonstrations → phases and dataset → training → rollouts → page.

Every stage is found if it is there and made if it is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.foreign import Section
from gap_vla.core.identity import commit, digest
from gap_vla.core.locks import alone
from gap_vla.core.measurements import since
from gap_vla.core.progress import Agenda, duration
from gap_vla.core.run_directory import SOURCE_HASH, RunDirectory, named
from gap_vla.core.run_settings import of_result, of_training
from gap_vla.core.seals import EXPORTED, exported_digests, require_as_exported, sealed
from gap_vla.core.typed_config import ConfigError, to_plain
from gap_vla.core.whole import write_json
from gap_vla.training.config import Experiment
from gap_vla.training.exported import require_exported
from gap_vla.training.hosts import first_host_first, is_first_host, join_hosts, require_same_command, together
from gap_vla.training.loop import train
from gap_vla.training.preflight import (
    fields_of,
    held_out_steps,
    made_store,
    memory_in_words,
    require_data,
    require_fields,
    require_ready,
    shapes_of_data,
)
from gap_vla.training.recorded import notes_on_data
from gap_vla.training.stages import (
    READER,
    Stages,
    open_mixture,
    open_store,
    origin,
    prepare_data,
    reader_options,
    require_data_of,
    require_own_demos,
    require_unchanged_data,
    stages_of,
)

STAGES = ("demonstrations", "phases and dataset", "model", "training", "rollouts", "page")


@dataclasses.dataclass(frozen=True)
class Run:
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
        config, name = self.config, self.name and named(self.name)
        if not name:
            made_from = {"config": of_training(config.to_dict()), "dataset": self.stages.made_from(config.backend)}
            name = f"{config.prefix}{config.method}-seed{config.train.seed}-{digest(made_from)}"
        return RunDirectory(Path(config.runs) / config.task / name)

    def to_the_end(self, resume: bool = False, wait: bool = False) -> dict[str, Any]:
        """Runs every stage and returns the run's summary (also in `summary.json`).

        Args:
            wait: for another process that is at work in its directory; what that has done is not done again.

        Raises:
            ConfigError, ResourceError, RenderingError: what cannot work is said before anything runs.
            ConfigError: `data.rlds` holds other data than the run was begun on.
            RunExistsError: the run directory exists, of these settings, and `resume` is False.
            InUseError: another process is at work in it, and not `wait`.
            DivergedError: the loss is not finite.
        """
        config = self.config
        if config.several_hosts:
            join_hosts()  # before any array is made
            require_same_command(self.name, config.to_dict())
        with together():
            if not self.directory.complete_with(config.to_dict()):
                require_ready(config, self.stages, self.directory)
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            with first_host_first():
                held = RunDirectory.held(
                    self.directory.path,
                    config.to_dict(),
                    resume=resume or not is_first_host(),
                    dataset=self._made_from(),
                    lock=is_first_host(),
                    wait=wait,
                )
                run = stack.enter_context(held)
                self.require_data()
                if run.complete:
                    from gap_vla.report.runs import Run as Finished

                    require_exported(run.checkpoint, self._exported)
                    finished = Finished.read(run.path)
                    require_as_exported(run.checkpoint, finished.summary.get(EXPORTED, {}), ConfigError)
                    print(f"{run.path} is complete, with {len(finished.metrics)} measurements", flush=True)
                    if is_first_host() and not os.path.lexists(run.page) and os.access(run.path, os.W_OK):
                        try:
                            self._write_page(run)  # the run was ended while that was written
                        except (UserError, OSError) as error:
                            print(f"note: its page could not be made: {message_of(error)}", flush=True)
                    return dict(finished.summary)
                stack.enter_context(Agenda(STAGES))
                store, *mixture = open_store(config, self.stages), *open_mixture(self.stages)
            return self._train_and_roll_out(run, store, mixture, started)

    @property
    def _exported(self) -> list[str]:
        return [name.format(steps=self.config.train.steps) for name in self.config.exported]

    def _made_from(self) -> dict[str, Any]:
        from gap_vla.rlds.store import source_hash_of

        held = {SOURCE_HASH: source_hash_of(self.stages.rlds)} if self.config.data.rlds else {}
        reader = {READER: options} if (options := reader_options(self.config, self.stages)) else {}
        return self.stages.made_from(self.config.backend) | held | reader

    def require_data(self, build: bool = True) -> None:
        """Raises ConfigError if its summary says that it was trained on other data, or from other weights; stores of
        `data.mixture` that are missing are made for it if `build`."""
        if self.directory.summary.exists():
            ended = Section.read(self.directory.summary, ConfigError)
            known = {name: ended.section(name, {}).values for name in ("dataset", "training", "origin")}
            require_data_of(known, self.config, self.stages, build)

    def _train_and_roll_out(self, run: RunDirectory, store: Any, mixture: list[Any], started: float) -> dict[str, Any]:
        from gap_vla.drawing.batch import save_batch_picture
        from gap_vla.rlds.statistics import check_statistics
        from gap_vla.training.data import describe_store, unlearnt

        config = self.config
        notes = notes_on_data(config, [store, *mixture])
        for one in (store, *mixture):
            require_fields(one.directory, fields_of(one), config, widths=one is store)
            for field in ("action", "proprio"):
                where = f"{one.directory}: statistics"
                check_statistics(one.statistics, field, config.data.normalization, where, ConfigError, widest=10_000)
        prepared = time.monotonic()
        Agenda.begin("model")
        print(describe_store(store), flush=True)
        for (path, weight), other in zip(config.data.mixture, mixture):
            print(f"{path}, with weight {weight:g}: {describe_store(other)}", flush=True)
        trainer = config.trainer().on(config, store, mixture)
        notes += _notes(config, trainer.steps, shapes_of_data(config, self.stages))
        notes += unlearnt(trainer, config, [store, *mixture])
        print(trainer.describe(), *notes, sep="\n", flush=True)
        if is_first_host() and not run.first_batch.exists() and (picture := trainer.picture()) is not None:
            save_batch_picture(picture, run.first_batch)
        Agenda.begin("training")
        with contextlib.closing(trainer):  # the last state is written beside the rollouts
            measured = train(trainer, config.train, run)
            if is_first_host():
                run.require_there()
            step = trainer.export(run)
            trained = time.monotonic()
            Agenda.begin("rollouts")
            with together():  # JAX ends all five minutes after one has left
                exported = exported_digests(run.checkpoint, self._exported) if is_first_host() else {}
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
            EXPORTED: exported,
            "dataset": {
                "path": str(self.stages.rlds),
                "identity": to_plain(self.stages.rlds_identity),
                "store": str(store.directory),
                "hash": store.source_hash,
            },
            "origin": origin(config.backend, config.task, store, *mixture),
            "seconds": {
                "prepare": round(prepared - started, 1),
                "train": round(trained - prepared, 1),
                "evaluate": round(time.monotonic() - trained, 1),
            },
            "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "commit": commit()},
        }
        if is_first_host():
            run.require_there()
            if run.summary.exists():
                raise UserError(f"{run.summary} came while the run was trained; move it away, then --resume")
            if of_result(run.read_config()) != of_result(json.loads(json.dumps(config.to_dict()))):
                raise UserError(f"{run.config} was changed while the run was trained; write back what it was")
            summary = sealed(run, summary)
            write_json(run.summary, summary)
            Agenda.begin("page")
            self._write_page(run)
        return summary

    def _write_page(self, run: RunDirectory) -> None:
        from gap_vla.report.page import write_report
        from gap_vla.training.data import training_rho

        command = f"gap-vla report {shlex.quote(str(run.path))}"
        write_report([run.path], run.page, command=command, videos=self.config.eval.videos, rho_of=training_rho)

    def collect(self) -> None:
        """Makes the demonstrations alone, which takes the `sim` extra and no other; raises as `to_the_end` does."""
        require_own_demos(self.config, self.stages)
        require_data(self.config, self.stages, collect_only=True)
        with alone(self.stages.lock, f"{self.stages.store}", wait=True):
            prepare_data(self.config, self.stages, collect_only=True)

    def dry_run(self) -> str:
        """What `to_the_end` would do: stages, model, optimizer, GAP's leaves, memory. Nothing is made or written."""
        made = (self.stages.rlds, self.stages.store / "store.json")
        missing = "not needed" if any(place.exists() for place in made) else "would be made"
        demos, rlds = (
            "there already" if place.exists() else missing for place in (self.stages.demos, self.stages.rlds)
        )
        require_ready(self.config, self.stages, self.directory, dry_run=True)
        require_unchanged_data(self.stages)
        self.require_data(build=False)
        shapes, made_already = shapes_of_data(self.config, self.stages), made_store(self.stages)
        return "\n".join(
            [
                f"demonstrations: {self.stages.demos} ({demos})",
                f"RLDS dataset: {self.stages.rlds} ({rlds})",
                *(f"RLDS dataset: {path} (with weight {weight})" for path, weight in self.config.data.mixture),
                f"run: {self.directory.path}{self.directory.stands(self.config.to_dict(), self._made_from())}",
                self.config.trainer().dry_run(self.config, shapes),
                memory_in_words(self.config, shapes, held_out_steps(self.config, self.stages)),
                *_notes(self.config, 0 if getattr(self.config.train, "epochs", 0) else self.config.train.steps, shapes),
                *notes_on_data(self.config, [made_already] if made_already else []),
            ]
        )

    def report(self, summary: Mapping[str, Any]) -> str:
        """The last lines of the command: what was measured and where it lies."""
        validation = summary["validation"]
        lines = [
            f"{summary['task']}, method {summary['method']}, seed {summary['seed']}, {summary['steps']} steps "
            f"({duration(sum(summary['seconds'].values()))}{since(summary)})",
            f"  held-out action error {validation['val/action_mse']:.3f} "
            f"(predicting the mean action: {validation['val/mean_action_mse']:.3f})",
        ]
        from gap_vla.rollouts.statistics import percent
        from gap_vla.rollouts.summary import cut_short_by_simulator

        several = len(summary["variants"]) > 1
        for variant, found in summary["variants"].items():
            low, high = found["interval"]
            lines.append(
                f"  {f'{variant}: ' if several else ''}success {found['successes']}/{found['episodes']} = "
                f"{percent(found['success_rate'])}% (95% interval {low:.0%} to {high:.0%})"
            )
            lines += [f"    {said}" for said in cut_short_by_simulator(found)]
        there = self.directory.page.exists()
        command = f"gap-vla report {shlex.quote(str(self.directory.path))}"
        look = f"to look at: {self.directory.page}" if there else f"`{command}` makes a page"
        lines.append(f"  all of it lies in {self.directory.path}; {look}")
        return "\n".join(lines)


def _notes(config: Experiment, steps: int, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    size, warmup = config.demos.image_size, config.optimizer.warmup_steps
    unread = f"demos.image_size, {size}, has no effect without eval.episodes"
    others = {name: shape[:2] for name, shape in shapes.items() if name.startswith("image_") and {*shape[:2]} != {size}}
    notes = [
        f"note: {name} is trained on as it is, {' × '.join(map(str, sides))}: {unread}"
        for name, sides in others.items()
    ]
    counted = "the steps of train.epochs" if getattr(config.train, "epochs", 0) else "train.steps"
    most = f"optimizer.warmup_steps is {warmup}, {counted} {steps}: at most {steps / max(warmup, 1):.2g} of"
    if warmup > steps > 0:
        notes.append(f"note: {most} optimizer.learning_rate is reached")
    return notes


def finetune(config: Experiment, run_name: str = "", resume: bool = False, wait: bool = False) -> dict[str, Any]:
    """The summary of a configuration's run; see `Run.to_the_end`."""
    return Run(config, run_name).to_the_end(resume, wait)


def rollouts(config: Experiment, run: RunDirectory, step: int | None = None) -> dict[str, Any]:
    """What `evaluate` returns, for every variant of the task; `step`: of a checkpoint that may hold several."""
    if not config.eval.episodes:
        return {}
    from gap_vla.report.evaluation_page import write_page
    from gap_vla.rollouts import evaluate
    from gap_vla.serving import load_checkpoint

    how = {"execute": None if config.eval.ensemble else config.eval.execute, "ensemble": config.eval.ensemble}
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
