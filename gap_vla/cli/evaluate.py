"""What `scripts/evaluate.py` does: load the policy, evaluate it on one or all variants, print, write the page."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from gap_vla.core.errors import keeping
from gap_vla.core.outputs import claim_folder, write_output
from gap_vla.report.evaluation_page import write_page
from gap_vla.report.variants import variants_table, write_variants
from gap_vla.rollouts.policy import PolicyError
from gap_vla.rollouts.rollout import evaluate
from gap_vla.rollouts.settings import Limits, Settings
from gap_vla.rollouts.summary import describe
from gap_vla.serving.loading import LoadedPolicy, load_checkpoint, load_policy
from gap_vla.sim import VARIANT_NAMES, require_rendering, task_spec, variant_spec


def evaluate_command(options: argparse.Namespace) -> None:
    """Evaluates, prints, and writes the pages."""
    if options.rlds:
        return _held_out(options)
    found = {}
    with keeping("finished episodes are kept, the same command continues"):
        for folder, summary in _evaluations(options):
            print(describe(summary))
            print(f"→ {folder / 'summary.json'}, {write_page(folder, summary)}", flush=True)
            found[summary["task"]["variant"]] = summary
    if len(found) > 1:
        print(f"{variants_table(found)}\n→ {write_variants(folder.parent, found)}")


def _held_out(options: argparse.Namespace) -> None:
    """Prints the held-out error, and writes it to `held_out.json` if `--out` is given."""
    from gap_vla.rlds import read_rlds
    from gap_vla.rollouts.heldout import held_out
    from gap_vla.rollouts.recordings import from_episode, require_task

    if not options.checkpoint:
        raise PolicyError("--rlds measures a --checkpoint")
    loaded = load_checkpoint(
        options.checkpoint, task=options.task, step=options.step, execute=1, dataset=options.dataset
    )
    require_task(options.rlds, loaded.task)
    if options.out:
        claim_folder(options.out, "held_out", sources=[options.rlds])
    episodes = read_rlds(options.rlds, options.split)
    found = held_out(loaded.policy, map(from_episode, episodes), progress=not options.quiet)
    parts = [("transition", found.error_transition), ("consistent", found.error_consistent)]
    split = ", ".join(f"{name} steps {value:.3f}" for name, value in parts if value is not None)
    print(
        f"held-out action error {found.error:.3f}" + (f" ({split})" if split else "") + f", {found.steps} steps of "
        f"{found.episodes} episodes; 1 is what predicting the mean action gives"
    )
    if not split:
        print("the dataset has no ρ, so transitions are not told apart; scripts/annotate.py adds it")
    if options.out:
        write_output(options.out / "held_out.json", "held_out", json.dumps(dataclasses.asdict(found)))


def _evaluations(options: argparse.Namespace) -> Any:
    """Yields (folder, summary) of each variant asked for."""
    variants = VARIANT_NAMES if options.ood == "all" else (options.ood,)
    limits = Limits(policy=options.policy_limit)
    for variant in variants:  # all of it before anything heavy is loaded
        first = variant_spec(variant).first_seed if options.seed is None else options.seed
        Settings(options.episodes, first, options.workers, options.slots, options.videos)
    loaded, task = _load(options)
    image_size = (loaded.image_size or 64) if options.image_size is None else options.image_size
    cameras = options.cameras if options.cameras is not None else loaded.cameras or ("primary",)
    view = loaded.view(options.camera, other=options.other_view)
    if cameras:
        require_rendering()
    root = options.out or _default_out(options, task)
    if len(variants) > 1:
        claim_folder(root, "variants")
    for variant in variants:
        folder = root / variant if len(variants) > 1 else root
        yield (
            folder,
            evaluate(
                loaded.policy,
                task,
                episodes=options.episodes,
                seed=variant_spec(variant).first_seed if options.seed is None else options.seed,
                out_dir=folder,
                image_size=image_size,
                cameras=cameras,
                variant=variant,
                camera=view,
                workers=options.workers,
                slots_per_worker=options.slots,
                horizon=options.horizon,
                videos=options.videos,
                progress=not options.quiet,
                limits=limits,
            ),
        )


def _load(options: argparse.Namespace) -> tuple[LoadedPolicy, str]:
    if options.checkpoint:
        loaded = load_checkpoint(
            options.checkpoint,
            task=options.task,
            step=options.step,
            execute=options.execute,
            ensemble=options.ensemble,
            dataset=options.dataset,
            batch_size=options.workers * options.slots,
        )
        task = options.task or loaded.task
        if task is None:
            raise PolicyError(f"{options.checkpoint} does not say for which task it was trained; pass --task")
        return loaded, task
    if options.task is None:
        raise PolicyError(f"--policy {options.policy} needs --task")
    width = task_spec(options.task).action_dim
    loaded = load_policy(
        options.policy,
        action_dim=width,
        task=options.task,
        seed=options.seed or 0,
        keys=options.keys,
        patience=options.patience,
    )
    return loaded, options.task


def _default_out(options: argparse.Namespace, task: str) -> Path:
    variant = "" if options.ood == "default" else f"_{options.ood}"
    if options.checkpoint and Path(options.checkpoint).is_dir():
        return Path(options.checkpoint) / f"evaluation_{task}{variant}"
    name = (options.checkpoint or options.policy).replace("://", "_").replace("/", "_").replace(":", "_")
    return Path("runs") / "eval" / f"{task}_{name}{variant}"
