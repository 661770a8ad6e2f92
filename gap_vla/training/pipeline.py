"""The main job: demonstrations → phases → RLDS → fine-tuning → rollouts → summary and page.

Every stage is found if it is there and made if it is not. A stage's folder carries the hash of the settings that made
it, so other settings never meet the same data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.core.identity import commit, digest
from gap_vla.core.progress import Agenda, Stage, duration
from gap_vla.core.typed_config import ConfigError
from gap_vla.core.whole import write_json
from gap_vla.phases import LABELS_VERSION
from gap_vla.sim import task_spec
from gap_vla.training.config import FinetuneConfig, SharedStages
from gap_vla.training.hosts import first_host_first, is_first_host, join_hosts
from gap_vla.training.origin import TRAINING_VERSION, origin
from gap_vla.training.preflight import require_ready
from gap_vla.training.run_directory import RunDirectory, named
from gap_vla.training.settings import of_training
from gap_vla.training.views import require_view

if TYPE_CHECKING:
    from gap_vla.rlds import EpisodeStore


@dataclasses.dataclass(frozen=True)
class Stages:
    """Where each stage of one configuration lies, and what it is made of."""

    demos: Path  # HDF5 file in robomimic's layout
    rlds: Path  # RLDS dataset, …/name/version
    store: Path  # decoded, memory-mapped episodes
    demos_identity: Mapping[str, Any]
    rlds_identity: Mapping[str, Any]


def stages_of(config: FinetuneConfig | SharedStages) -> Stages:
    """The stages that a configuration needs; nothing is made.

    Raises:
        ConfigError: a named demonstration file or dataset does not exist, or shows another view.
    """
    root = Path(config.data.root)
    demos = dataclasses.asdict(config.demos)
    if config.demos.path:
        path = Path(config.demos.path)
        if not path.exists():
            raise ConfigError(f"demos.path is {config.demos.path!r}, which does not exist")
        stat = path.stat()
        demos_identity = {"path": str(path.absolute()), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
        demos_path = path
    else:
        pictures = task_spec(config.task).pictures_version
        demos_identity = {
            "task": config.task,
            **({"pictures_version": pictures} if pictures > 1 else {}),
            **{k: v for k, v in demos.items() if k not in ("path", "kind", "camera")},
            **({"camera": config.demos.camera} if config.demos.camera != "near" else {}),
        }
        demos_path = root / "demos" / f"{config.task}-{digest(demos_identity)}" / "demos.hdf5"
    rlds_identity = {
        "demos": demos_identity,
        "phases": {**dataclasses.asdict(config.phases), "labels_version": LABELS_VERSION},
        "val_fraction": config.data.val_fraction,
    }
    name = f"{config.task}-{digest(rlds_identity)}"
    rlds_path = root / "rlds" / name / config.task / "1.0.0"
    if config.data.rlds:
        rlds_path = Path(config.data.rlds)
        if not (rlds_path / "dataset_info.json").exists():
            raise ConfigError(f"data.rlds is {config.data.rlds!r}, which holds no RLDS dataset (dataset_info.json)")
        rlds_identity = {"rlds": str(rlds_path.absolute())}
        name = f"{config.task}-{digest(rlds_identity)}"
    require_view(config)
    return Stages(demos_path, rlds_path, root / "store" / name, demos_identity, rlds_identity)


def prepare_data(config: FinetuneConfig | SharedStages, agenda: Agenda | None = None) -> Stages:
    """Makes what is missing of demonstrations and RLDS dataset.

    Args:
        agenda: says where it is in a longer command.
    """
    stages = stages_of(config)
    if stages.rlds.exists():
        print(f"dataset: reusing {stages.rlds}", flush=True)
        return stages
    if not stages.demos.exists():
        from gap_vla.sim import collect_demos

        if agenda:
            agenda.begin("demonstrations")
        print(f"collect: {config.demos.episodes} demonstrations of {config.task} → {stages.demos}", flush=True)
        collect_demos(
            config.task,
            config.demos.episodes,
            stages.demos,
            seed=config.demos.seed,
            image_size=config.demos.image_size,
            cameras=config.demos.cameras,
            camera=config.demos.camera,
            action_noise=config.demos.action_noise,
            workers=config.eval.workers,
        )
    else:
        print(f"collect: reusing {stages.demos}", flush=True)
    from gap_vla.rlds import dataset_builder

    if agenda:
        agenda.begin("phases and dataset")
    print(f"dataset: finding phases and writing {stages.rlds}", flush=True)
    builder = dataset_builder(config.task, stages.rlds.parent.parent, kind=config.demos.kind)
    builder.convert(
        stages.demos,
        method=config.phases.method,
        seed=config.phases.seed,
        options=config.phases.options,
        val_fraction=config.data.val_fraction,
        identity=stages.rlds_identity,
    )
    return stages


def run_directory_of(config: FinetuneConfig, run_name: str = "") -> Path:
    """`runs/<task>/<method>-seed<seed>-<hash of what is trained, the data's making and the code's version>`, or the
    name."""
    made_from = {"config": of_training(config.to_dict()), "dataset": _made_from(stages_of(config))}
    name = named(run_name) if run_name else f"{config.method}-seed{config.train.seed}-{digest(made_from)}"
    return Path(config.runs) / config.task / name


def _made_from(stages: Stages) -> dict[str, Any]:
    return {**stages.rlds_identity, "training_version": TRAINING_VERSION["octo"]}


def finetune(config: FinetuneConfig, run_name: str = "", resume: bool = False) -> dict[str, Any]:
    """Runs every stage and returns the run's summary (also in `summary.json`).

    Raises:
        ConfigError, ResourceError, RenderingError: what cannot work is said before anything runs.
        RunExistsError: the run directory exists and `resume` is False.
        InUseError: another process is at work in it.
    """
    stages, directory = stages_of(config), run_directory_of(config, run_name)
    if not RunDirectory(directory).complete_with(config.to_dict()):
        require_ready(config, stages)
    join_hosts()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        with first_host_first():
            held = RunDirectory.held(
                directory,
                config.to_dict(),
                resume=resume or not is_first_host(),
                dataset=_made_from(stages),
                lock=is_first_host(),
            )
            run = stack.enter_context(held)
            if run.complete:
                print(f"{run.path} is complete", flush=True)
                return run.read_summary()
            agenda = stack.enter_context(agenda_of(config))
            stages = prepare_data(config, agenda)

            from gap_vla.rlds import EpisodeStore

            agenda.begin("model")
            store = EpisodeStore.build(stages.rlds, stages.store)
        return _train_and_roll_out(config, run, stages, store, started, agenda)


def agenda_of(config: FinetuneConfig) -> Agenda:
    """What `finetune` goes through, with the seconds that each stage takes on two quiet cores."""
    slow, cameras = task_spec(config.task).family == "robosuite", len(config.demos.cameras)
    episode = (0.35 if slow else 0.1) + (0.15 if slow else 0.07) * cameras
    windows = config.train.steps * config.train.batch_size / 64
    training = None if config.model.pretrained else 20 + windows * (0.03 + 0.02 * cameras)
    return Agenda(
        [
            Stage("demonstrations", 5 + config.demos.episodes * episode, counted=True),
            Stage("phases and dataset", 10 + config.demos.episodes * 0.25),
            Stage("model", 5),
            Stage("training", training, counted=True),
            Stage("rollouts", 10 + config.eval.episodes * 1.5 * episode, counted=True),
            Stage("page", 3),
        ]
    )


def _train_and_roll_out(
    config: FinetuneConfig, run: RunDirectory, stages: Stages, store: EpisodeStore, started: float, agenda: Agenda
) -> dict[str, Any]:
    from gap_vla.report.page import write_report
    from gap_vla.training.data import describe_store, make_loader, require_rho
    from gap_vla.training.finished import training_rho
    from gap_vla.training.octo import build, describe, fine_tune
    from gap_vla.training.picture import save_batch_picture

    print(describe_store(store), flush=True)
    require_rho(config, store)
    loader = make_loader(config, store, "train", train=True)
    first_batch = loader.peek()
    trainer = build(config, first_batch, store.statistics)
    print(describe(config, trainer.model.params, trainer.state.opt_state, trainer.group), flush=True)
    if is_first_host() and not run.first_batch.exists():
        save_batch_picture(first_batch, run.first_batch)
    prepared = time.monotonic()
    agenda.begin("training")
    _, measured = fine_tune(config, trainer, loader, make_loader(config, store, "val", train=False), run)
    trained = time.monotonic()
    agenda.begin("rollouts")
    rollouts = _evaluate(config, run) if is_first_host() else {}
    summary = {
        "task": config.task,
        "method": config.method,
        "seed": config.train.seed,
        "steps": config.train.steps,
        "validation": measured,
        "rollouts": rollouts,
        "dataset": {"path": str(stages.rlds), "identity": stages.rlds_identity},
        "origin": origin("octo", config.task, store),
        "seconds": {
            "prepare": round(prepared - started, 1),
            "train": round(trained - prepared, 1),
            "evaluate": round(time.monotonic() - trained, 1),
        },
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "commit": commit()},
    }
    if is_first_host():
        write_json(run.summary, summary)
        agenda.begin("page")
        command = f"python scripts/report.py {run.path}"
        write_report([run.path], run.page, command=command, videos=config.eval.videos, rho_of=training_rho)
    return summary


def dry_run(config: FinetuneConfig) -> str:
    """What `finetune` would do: stages, model, optimizer, GAP's leaves, inputs and memory. Nothing is made or written.

    The published weights need not be there; their layout is known by name.
    """
    import numpy as np

    from gap_vla.octo import checkpoint
    from gap_vla.octo.presets import example_batch, published_config
    from gap_vla.training import octo
    from gap_vla.training.architecture import INSTRUCTION_LENGTH, adapted_config, small_model

    stages, task = stages_of(config), task_spec(config.task)
    batch = example_batch(
        image_keys=[f"image_{camera}" for camera in config.demos.cameras],
        image_size=config.demos.image_size,
        proprio_dim=task.proprio_dim if config.uses_proprio else None,
        action_dim=task.action_dim,
        action_horizon=config.model.action_horizon,
        window_size=config.model.window_size,
        batch_size=config.train.batch_size,
    )
    batch["rho"] = np.zeros((config.train.batch_size, config.model.window_size), np.float32)
    pretrained = config.model.pretrained
    if not pretrained:
        layout = small_model(config, batch)
    else:
        local = Path(pretrained)
        source = checkpoint.read_config(local) if local.is_dir() else published_config(pretrained.rsplit("/", 1)[-1])
        ids = np.zeros((config.train.batch_size, INSTRUCTION_LENGTH), np.int64)
        batch["task"] = {
            "language_instruction": {"input_ids": ids, "attention_mask": ids},
            "pad_mask_dict": {"language_instruction": np.ones(config.train.batch_size, bool)},
        }
        layout = adapted_config(source, config, batch)
    made = {True: "there already", False: "would be made"}
    lines = [
        f"demonstrations: {stages.demos} ({made[stages.demos.exists()]})",
        f"RLDS dataset: {stages.rlds} ({made[stages.rlds.exists()]})",
        f"run: {run_directory_of(config)}",
    ]
    if pretrained:
        lines.append(f"pretrained weights: {pretrained} (not read in a dry run)")
    return "\n".join([*lines, octo.dry_run(config, batch, layout)])


def _evaluate(config: FinetuneConfig, run: RunDirectory) -> dict[str, Any]:
    if not config.eval.episodes:
        return {}
    from gap_vla.report.evaluation_page import write_page
    from gap_vla.rollouts import OctoPolicy, evaluate

    policy = OctoPolicy.load(
        run.checkpoint,
        execute=config.eval.execute,
        ensemble=config.eval.ensemble,
        normalization=config.data.normalization,
        name=config.method,
    )
    rollouts = evaluate(
        policy,
        config.task,
        episodes=config.eval.episodes,
        seed=config.eval.seed,
        out_dir=run.rollouts,
        image_size=config.demos.image_size,
        cameras=config.demos.cameras,
        camera=config.demos.camera,
        variant=config.eval.variant,
        workers=config.eval.workers,
        videos=config.eval.videos,
    )
    write_page(run.rollouts, rollouts)
    return rollouts


def report(summary: Mapping[str, Any], run: Path) -> str:
    """The last lines of the command: what was measured and where it lies."""
    validation, rollouts = summary["validation"], summary["rollouts"]
    lines = [
        f"{summary['task']}, method {summary['method']}, seed {summary['seed']}, {summary['steps']} steps "
        f"({duration(sum(summary['seconds'].values()))})",
        f"  held-out action error {validation['val/action_mse']:.3f} "
        f"(predicting the mean action: {validation['val/mean_action_mse']:.3f})",
    ]
    if rollouts:
        low, high = rollouts["interval"]
        lines.append(
            f"  success {rollouts['successes']}/{rollouts['episodes']} = {rollouts['success_rate']:.0%} "
            f"(95% interval {low:.0%} to {high:.0%})"
        )
    lines.append(f"  all of it lies in {run}; to look at: {RunDirectory(run).page}")
    return "\n".join(lines)
