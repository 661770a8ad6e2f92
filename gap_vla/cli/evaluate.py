"""Roll a policy out in simulation and report its success rate with an interval.

    gap-vla evaluate --checkpoint runs/threading/NAME --episodes 100            # a run of ours
    gap-vla evaluate --checkpoint DIR --task assembly                           # any folder in Octo's layout
    gap-vla evaluate --policy expert --task threading                           # also: random, replay:FILE
    gap-vla evaluate --policy ws://localhost:8000 --keys keys.json --task stack # a VLA behind a server
    gap-vla evaluate --checkpoint DIR --variant all                             # every variant of the scene
    gap-vla evaluate --checkpoint DIR --rlds data/rlds/NAME/1.0.0               # no simulator: held-out error

The folder given by --out receives summary.json, episodes.jsonl (a line per episode, written as it finishes), videos/
(failures first) and index.html. A killed evaluation continues when the same command is given again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.cli.arguments import MANY, answering, command_parser, default_out, layout_seed, load_policy, seconds, whole
from gap_vla.core.errors import command, keeping
from gap_vla.core.foreign import real_path
from gap_vla.core.outputs import alone_in, claim, claim_folder, write_output

if TYPE_CHECKING:
    from gap_vla.rollouts.recordings import Recording

HELD_OUT_FILE = "held_out.json"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    from gap_vla.sim import VARIANT_NAMES

    parser = command_parser(__doc__, answers=True)
    looks = "primary, wrist, `primary wrist`, or none for policies that do not look"
    parser.add_policy("expert, random, replay:FILE", looks)
    add = parser.add_argument
    add("--episodes", type=whole(1, MANY), default=20, help="rollouts (default 20; take 100 for results)")
    layouts = "first layout seed (default: where the variant's own seeds begin); given, `random` also draws by it"
    add("--seed", type=layout_seed, help=layouts)
    variants = f"variant of the scene: {', '.join(VARIANT_NAMES)}; or all"
    add("--variant", default="default", metavar="NAME|all", help=variants)
    add("--rlds", type=Path, help="no rollouts: the action error on this RLDS dataset's held-out episodes, split by ρ")
    add("--split", default="val", help="which episodes of --rlds (default val)")
    place = "inside the checkpoint's folder, or runs/eval; with --rlds: none, they are printed"
    add("--out", type=Path, help=f"folder for the results (default: {place})")
    chunks = parser.add_mutually_exclusive_group()
    executed = "actions executed of each predicted chunk (default: as trained)"
    chunks.add_argument("--execute", type=whole(1, 256), help=executed)
    chunks.add_argument("--ensemble", action="store_true", default=None, help="average overlapping chunks instead")
    add("--camera", help="view of the primary camera (default: the one of training, or near)")
    add("--other-view", action="store_true", help="let --camera or --image-size be others than in training")
    add("--horizon", type=whole(1, MANY), help="control steps per episode, at most and by default the task's")
    slots = "environments per process; a batch is workers * slots (default 4)"
    add("--slots", type=whole(1, 256), default=4, help=slots)
    add("--videos", type=whole(0, MANY), default=4, help="rollouts to film, failures first (default 4)")
    limit = "seconds for an answer (default 60; its first has at least 600); a server has those of --patience more"
    add("--policy-limit", type=seconds, default=60.0, help=limit)
    options = parser.parse_args(arguments)
    parser.refuse_idle_for_policy(options, "execute", "ensemble")
    if options.camera is options.image_size is None:
        parser.refuse_idle("without --camera or --image-size", "other_view")
    if options.cameras is not None and "primary" not in options.cameras:
        parser.refuse_idle("without the primary camera", "camera")
    if options.cameras is not None and not options.cameras:
        parser.refuse_idle("without cameras", "image_size", "other_view", "videos")
    if options.rlds:
        used = ("rlds", "split", "checkpoint", "policy", "task", "step", "dataset", "out", "quiet", "json")
        parser.refuse_idle("with --rlds, which rolls nothing out", *(set(vars(options)) - set(used)))
    else:
        parser.refuse_idle("without --rlds", "split")
    return options


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    held: contextlib.AbstractContextManager[None] = contextlib.nullcontext()  # rollouts hold their folders themselves
    if options.rlds and options.out:
        claim_folder(options.out, "held_out", sources=[options.rlds], make=False)
        held = alone_in(options.out)
    with held, answering(options) as answer:
        answer |= _held_out(options) if options.rlds else _rolled_out(options)


def _rolled_out(options: argparse.Namespace) -> dict[str, Any]:
    """Prints what was measured on each variant; returns it with the pages."""
    from gap_vla.report.evaluation_page import variants_table, write_page
    from gap_vla.rollouts.record import PAGE_FILE
    from gap_vla.rollouts.summary import describe

    found = {}
    with keeping("finished episodes are kept, the same command continues"):
        for folder, summary in _evaluations(options):
            print(describe(summary))
            made, wanted = len(summary["videos"]), min(options.videos, options.episodes)
            if made < wanted and summary["task"]["cameras"]:
                why = "episodes that were played before, or cut short as they began, are not filmed"
                print(f"note: {made} of {wanted} films: {why}; another --out films all", file=sys.stderr)
            page = write_page(folder, summary)
            print(f"→ {folder / 'summary.json'}, {page}", flush=True)
            found[summary["task"]["variant"]] = {**summary, "page": page}
    if len(found) > 1:
        print(f"{variants_table(found)}\n→ {folder.parent / PAGE_FILE}")
    return {"variants": found}


def _held_out(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the held-out error, and writes it to `held_out.json` if `--out` is given; returns it and what it is of."""
    from gap_vla.demos.content import unchanging
    from gap_vla.rollouts import PolicyError
    from gap_vla.rollouts.heldout import held_out
    from gap_vla.rollouts.policy import identity
    from gap_vla.rollouts.record import require_same
    from gap_vla.rollouts.recordings import from_dataset, require_scene
    from gap_vla.training.data import count_learnt, motion_of

    if not options.checkpoint:
        raise PolicyError("--rlds measures a --checkpoint")
    if options.out:
        claim(options.out / HELD_OUT_FILE, "held_out", suffixes=(".json",), named=False)
    loaded = load_policy(options, execute=1)
    of = {"dataset": str(real_path(options.rlds)), "split": options.split, "policy": identity(loaded.policy)}
    if options.out:
        require_same(options.out / HELD_OUT_FILE, of)
    require_scene(options.rlds, loaded.task, loaded.camera)
    with unchanging(options.rlds):
        motions: list[str] = []

        def shown() -> Iterator[Recording]:
            for recording in from_dataset(options.rlds, options.split):
                motions.append(motion_of(recording.proprio, recording.action))
                yield recording

        found = held_out(loaded.policy, shown(), progress=not options.quiet)
    learnt = count_learnt(options.checkpoint, motions)
    parts = [("transition", found.error_transition), ("consistent", found.error_consistent)]
    split = ", ".join(f"{name} steps {value:.3f}" for name, value in parts if value is not None)
    trained = options.split.startswith("train")
    which = "action error" if learnt or trained else "held-out action error"  # of data.mixture nothing is counted
    which = "action error in training" if learnt == found.episodes else which
    print(
        f"{which} {found.error:.3f}" + (f" ({split})" if split else "") + f", {found.steps} steps of "
        f"{found.episodes} episodes; over all steps, 1 is what predicting the mean action gives"
    )
    if learnt is None:
        print("note: the store of its training is not here as it was: whether these episodes are held out is not known")
    if learnt and not (trained and learnt == found.episodes):
        print(f"note: the policy was trained on {learnt} of these {found.episodes} episodes: they are not held out")
    if found.left_out:
        print(found.left_out)
    if not split:
        print("the dataset has no ρ, so transitions are not told apart; `gap-vla annotate` adds it")
    content = {**dataclasses.asdict(found), "learnt": learnt, **of}
    if options.out:
        folder = claim_folder(options.out, "held_out")
        write_output(folder / HELD_OUT_FILE, "held_out", json.dumps(content))
    return content


def _shown(variants: Sequence[str], cameras: Sequence[str], view: str) -> list[str]:
    """The variants that differ from the default in what the policy is given: looks need pictures."""
    from gap_vla.sim import variant_spec

    kept = [name for name in variants if cameras or not variant_spec(name).only_looks]
    for name in kept:
        variant_spec(name).require_view(view)
    return kept


def _evaluations(options: argparse.Namespace) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields (folder, summary) of each variant asked for."""
    from gap_vla.core.marks import made_by
    from gap_vla.core.run_directory import RunDirectory
    from gap_vla.core.typed_config import choose
    from gap_vla.report.evaluation_page import VARIANTS_FILE, write_variants
    from gap_vla.rollouts import PolicyError, evaluate
    from gap_vla.rollouts.evaluation import Limits, evaluated, kept_summary
    from gap_vla.rollouts.policy import require_seen
    from gap_vla.rollouts.record import PAGE_FILE, require_place
    from gap_vla.rollouts.task import sim_task
    from gap_vla.serving.key_mapping import require_shown
    from gap_vla.sim import VARIANT_NAMES, require_rendering, variant_spec

    variants = VARIANT_NAMES if options.variant == "all" else (options.variant,)
    limits = Limits(policy=options.policy_limit)
    seeds = {v: variant_spec(v).first_seed if options.seed is None else options.seed for v in variants}
    loaded = load_policy(
        options,
        seed=options.seed or 0,
        execute=options.execute,
        ensemble=options.ensemble,
        batch_size=options.workers * options.slots,
    )
    if loaded.task is None:
        raise PolicyError(f"{options.checkpoint} does not say for which task it was trained; pass --task")
    if options.seed is not None and getattr(loaded.policy, "layout_seeds", None):
        raise PolicyError(f"--seed has no effect: {options.policy} is played on the layouts that it names")
    recorded = getattr(loaded.policy, "variant", None)
    if recorded is not None:
        choose(recorded, VARIANT_NAMES, f"{options.policy}: its variant", PolicyError)
    if recorded is not None and {*variants} != {recorded}:
        raise PolicyError(
            f"{options.policy} is of variant {recorded}, not {options.variant}; pass --variant {recorded}"
        )
    cameras = loaded.cameras if options.cameras is None else options.cameras
    require_seen(loaded.policy, cameras, options.checkpoint or options.policy)
    if options.keys:
        require_shown(options.keys, [f"image_{camera}" for camera in cameras])
    view = loaded.view(options.camera, options.image_size, other=options.other_view)
    variants = _shown(variants, cameras, view)
    if cameras:
        require_rendering()
    place = loaded.task, "" if options.variant == "default" else f"_{options.variant}"
    root = options.out or default_out(options, "evaluation_{}{}".format(*place), "eval/{}_{{}}{}".format(*place))
    there = real_path(root)
    if len(variants) == 1 and there.name in VARIANT_NAMES and made_by(there.parent) == "variants":
        raise PolicyError(
            f"{root} is a part of {there.parent}, whose page and table would not follow: give --variant all with "
            "--out there, or name another"
        )
    if len(variants) > 1:
        for beside in (PAGE_FILE, VARIANTS_FILE):
            claim(root / beside, "variants", suffixes=(Path(beside).suffix,), named=False)
        claim_folder(root, "variants")
    folders = {variant: root / variant if len(variants) > 1 else root for variant in variants}
    scene = {"image_size": options.image_size or loaded.image_size, "cameras": cameras, "camera": view}
    scene["horizon"] = options.horizon
    tasks = {variant: sim_task(loaded.task, variant=variant, **scene) for variant in variants}
    kept: dict[str, dict[str, Any] | None] = {}
    for variant, folder in folders.items():
        for run in real_path(folder).parents:
            if RunDirectory(run).metrics.is_file() and real_path(folder).is_relative_to(run / "rollouts"):
                raise PolicyError(f"{folder} is where the run {run} has its own rollouts; name another --out")
        claim(folder / PAGE_FILE, "evaluation", suffixes=(".html",), named=False)
        require_place(folder, evaluated(loaded.policy, tasks[variant], seeds[variant]))
        kept[variant] = kept_summary(loaded.policy, tasks[variant], seeds[variant], folder)
    found: dict[str, Any] = {}
    for variant, folder in folders.items():
        found[variant] = summary = evaluate(
            loaded.policy,
            tasks[variant],
            episodes=options.episodes,
            seed=seeds[variant],
            out_dir=folder,
            workers=options.workers,
            slots_per_worker=options.slots,
            videos=options.videos,
            progress=not options.quiet,
            limits=limits,
        )
        if len(variants) > 1:  # also before a stop: an earlier table tells of other episodes than now lie beside it
            write_variants(root, {v: one for v in folders if (one := found.get(v) or kept[v])})
        recorded = zip(getattr(loaded.policy, "succeeded", ()), getattr(loaded.policy, "lengths", ()))
        ended = [steps for (then, steps), now in zip(recorded, summary["outcomes"]) if then and not now]
        if cut := sum(steps > (options.horizon or steps) for steps in ended):
            why = f"--horizon {options.horizon} cut them off"
            print(f"note: {cut} recordings of a success ended without it here: {why}", file=sys.stderr)
        if lost := len(ended) - cut:
            why = "their seeds, actions or steps are not those with which they were recorded"
            print(f"note: {lost} recordings of a success ended without it here: {why}", file=sys.stderr)
        yield folder, summary
