"""From a configuration to success rates: data, training, rollouts, summary. `train_small` is the entry."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.identity import commit, digest
from gap_vla.core.locks import waiting
from gap_vla.core.progress import duration
from gap_vla.core.whole import write_json
from gap_vla.policies.config import SmallConfig
from gap_vla.training.origin import TRAINING_VERSION, origin
from gap_vla.training.preflight import require_ready
from gap_vla.training.run_directory import RunDirectory, named
from gap_vla.training.settings import of_training


def run_directory_of(config: SmallConfig, run_name: str = "") -> Path:
    """`runs/<task>/small-<method>-seed<seed>-<hash of what is trained, the data's making and the code's version>`, or
    the given name."""
    made_from = {"config": of_training(config.to_dict()), "dataset": _made_from(config)}
    name = named(run_name) if run_name else f"small-{config.method}-seed{config.train.seed}-{digest(made_from)}"
    return Path(config.runs) / config.task / name


def _made_from(config: SmallConfig) -> dict[str, Any]:
    from gap_vla.training.pipeline import stages_of

    identity = stages_of(config.data_stages).rlds_identity
    return {**identity, "training_version": TRAINING_VERSION["small"]}


def open_data(config: SmallConfig) -> Any:
    """The episode store of a configuration, made if it is missing.

    Where the store is there already, neither the demonstrations nor the RLDS dataset need to be, so a machine without
    TensorFlow and simulator can train from a copied store.
    """
    from gap_vla.training.pipeline import stages_of

    stages = stages_of(config.data_stages)
    lock = stages.store.with_name(f".{stages.store.name}.making")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with waiting(lock):  # of runs started side by side, one makes the data
        return _open(config, stages)


def _open(config: SmallConfig, stages: Any) -> Any:
    from gap_vla.rlds import EpisodeStore
    from gap_vla.training.pipeline import prepare_data

    if (stages.store / "store.json").exists() and not stages.rlds.exists():
        print(f"dataset: only its store is here, {stages.store}", flush=True)
        return EpisodeStore.open(stages.store)
    prepare_data(config.data_stages)
    return EpisodeStore.build(stages.rlds, stages.store)


def train_small(config: SmallConfig, run_name: str = "", resume: bool = False) -> dict[str, Any]:
    """Runs every stage and returns the run's summary (also in `summary.json`).

    Raises:
        ConfigError, ResourceError: what cannot work is said before anything runs, or the data
            do not fit the configuration.
        RunExistsError: the run directory exists and `resume` is False.
        InUseError: another process is at work in it.
        DivergedError: the loss is not finite.
    """
    from gap_vla.training.pipeline import stages_of

    made_from, directory = _made_from(config), run_directory_of(config, run_name)
    if not RunDirectory(directory).complete_with(config.to_dict()):
        require_ready(config, stages_of(config.data_stages))
        from gap_vla.policies import method_of

        method_of(config.method).check(config.method, config.model)
    with RunDirectory.held(directory, config.to_dict(), resume, dataset=made_from) as run:
        if run.complete:
            print(f"{run.path} is complete", flush=True)
            return run.read_summary()
        return _run_stages(config, run)


def _run_stages(config: SmallConfig, run: RunDirectory) -> dict[str, Any]:
    started = time.monotonic()
    store = open_data(config)
    prepared = time.monotonic()
    measured = _train(config, store, run)
    trained = time.monotonic()
    variants = rollouts(config, run)
    summary = _summary(config, store, measured, variants)
    summary["seconds"] = {
        "prepare": round(prepared - started, 1),
        "train": round(trained - prepared, 1),
        "evaluate": round(time.monotonic() - trained, 1),
    }
    write_json(run.summary, summary)
    return summary


def _train(config: SmallConfig, store: Any, run: RunDirectory) -> dict[str, float]:
    import torch

    from gap_vla.policies import build_policy, method_of
    from gap_vla.policies.saving import save_policy
    from gap_vla.training.data import describe_store
    from gap_vla.training.picture import save_batch_picture
    from gap_vla.training.small.checks import require_fit
    from gap_vla.training.small.labels import rho_of
    from gap_vla.training.small.loop import train
    from gap_vla.training.small.step import SmallTrainer
    from gap_vla.training.small.windows import SmallWindows

    torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)
    print(describe_store(store), flush=True)
    image_shape = require_fit(config, store)
    method, rho = method_of(config.method), rho_of(config, store)
    windows, held_out = (
        SmallWindows(config, store, split, rho[split], vision=method.vision, proprio=method.proprio)
        for split in ("train", "val")
    )
    fields = store.split("train").fields
    policy = build_policy(
        config.model,
        config.method,
        image_shape,
        fields["proprio"].shape[1],
        fields["action"].shape[1],
        config.demos.cameras,
    )
    steps = config.train.steps
    if config.train.epochs:
        steps = -(-config.train.epochs * len(windows) // config.train.batch_size)
    trainer = SmallTrainer(config, policy, steps)
    print(trainer.describe(), flush=True)
    if not run.first_batch.exists() and method.vision:
        save_batch_picture(_picture_batch(windows.batch(0)), run.first_batch)
    measured = train(trainer, windows, held_out, run, store.source_hash)
    save_policy(policy, run.checkpoint, store.statistics, config.data.normalization, config.demos.camera)
    return {**measured, "steps": steps, "mean_rho": float(np.mean(rho["train"]))}


def _picture_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    images = {key: value.numpy() for key, value in batch.items() if key.startswith("image_")}
    frames = next(iter(images.values())).shape[1]
    rho = batch["rho"].numpy()
    rho = np.pad(rho, ((0, 0), (max(frames - rho.shape[1], 0), 0)), mode="edge")[:, -frames:]
    return {"observation": {**images, "timestep_pad_mask": np.ones(rho.shape, bool)}, "rho": rho}


def rollouts(config: SmallConfig, run: RunDirectory) -> dict[str, Any]:
    """Success on every variant, each in a folder of its own below `rollouts/`; `evaluate`'s summaries by variant."""
    if not config.eval.episodes:
        return {}
    from gap_vla.report.evaluation_page import write_page
    from gap_vla.rollouts import evaluate
    from gap_vla.rollouts.small_policy import SmallTorchPolicy
    from gap_vla.sim import variant_spec

    policy = SmallTorchPolicy.load(
        run.checkpoint,
        device=config.train.device,
        execute=config.eval.execute,
        ensemble=config.eval.ensemble,
        threads=config.train.threads,
    )
    found = {}
    for variant in config.eval.variants:
        out = run.rollouts / variant
        print(f"rollouts: {config.eval.episodes} on {config.task}, {variant}", flush=True)
        found[variant] = evaluate(
            policy,
            config.task,
            episodes=config.eval.episodes,
            seed=variant_spec(variant).first_seed + config.eval.seed,
            out_dir=out,
            image_size=config.demos.image_size,
            cameras=config.demos.cameras,
            camera=config.demos.camera,
            variant=variant,
            workers=config.eval.workers,
            videos=config.eval.videos,
        )
        write_page(out, found[variant])
    return found


def _summary(
    config: SmallConfig, store: Any, measured: Mapping[str, float], variants: Mapping[str, Any]
) -> dict[str, Any]:

    first: Mapping[str, Any] = next(iter(variants.values()), {})
    return {
        "task": config.task,
        "method": config.method,
        "seed": config.train.seed,
        "steps": int(measured["steps"]),
        "success": first.get("success_rate"),
        "interval": first.get("interval"),
        "validation": {name: value for name, value in measured.items() if name.startswith("val/")},
        "training": {name: value for name, value in measured.items() if not name.startswith("val/")},
        "rollouts": dict(first),
        "variants": dict(variants),
        "dataset": {"path": str(store.directory), "hash": store.source_hash},
        "origin": origin("small", config.task, store),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "commit": commit()},
    }


def report(summary: Mapping[str, Any], run: Path) -> str:
    """The last lines of the command: what was measured and where it lies."""
    validation = summary["validation"]
    lines = [
        f"{summary['task']}, method {summary['method']}, seed {summary['seed']}, {summary['steps']} steps "
        f"({duration(sum(summary['seconds'].values()))})",
        f"  held-out action error {validation['val/action_mse']:.3f} "
        f"(predicting the mean action: {validation['val/mean_action_mse']:.3f})",
    ]
    for variant, found in summary["variants"].items():
        low, high = found["interval"]
        lines.append(
            f"  {variant}: success {found['successes']}/{found['episodes']} = {found['success_rate']:.0%} "
            f"(95% interval {low:.0%} to {high:.0%})"
        )
    lines.append(f"  all of it lies in {run}")
    return "\n".join(lines)
