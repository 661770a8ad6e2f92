"""How often does a policy succeed? Rolls it out in simulation, with intervals, phases and films.

    gap-vla evaluate --checkpoint runs/threading/NAME --episodes 100
    gap-vla evaluate --policy expert --task stack
    gap-vla evaluate --policy replay:demos.hdf5 --task threading --episodes 50
    gap-vla evaluate --policy ws://localhost:8000 --keys keys.json --task stack # a VLA behind a server
    gap-vla evaluate --checkpoint DIR --variant all                             # every variant of the scene
    gap-vla evaluate --checkpoint DIR --rlds data/rlds/NAME/1.0.0               # no simulator: held-out error

The folder given by --out receives summary.json, episodes.jsonl (a line per episode, written as it finishes), videos/
(failures first) and index.html. A killed evaluation continues when the same command is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import add_policy, answering, command_parser, default_out, load_policy, real, seed, whole
from gap_vla.core.errors import UserError, command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from gap_vla.sim.variants import VARIANT_NAMES

    parser = command_parser(__doc__, answers=True)
    add_policy(parser, "expert, random, replay:FILE")
    add = parser.add_argument
    add("--episodes", type=whole(1), default=20, help="rollouts (default 20; take 100 for results)")
    layouts = "first layout seed (default: where the variant's own seeds begin); given, `random` also draws by it"
    add("--seed", type=seed, help=layouts)
    variants = f"variant of the scene: {', '.join(VARIANT_NAMES)}; or all"
    add("--variant", default="default", metavar="NAME|all", help=variants)
    add("--rlds", type=Path, help="no rollouts: the action error on this RLDS dataset's held-out episodes, split by ρ")
    add("--split", default="val", help="which episodes of --rlds (default val)")
    place = "inside the checkpoint's folder, or runs/eval; with --rlds: none, they are printed"
    add("--out", type=Path, help=f"folder for the results (default: {place})")
    chunks = parser.add_mutually_exclusive_group()
    executed = "actions executed of each predicted chunk (default: as trained)"
    chunks.add_argument("--execute", type=whole(1), help=executed)
    chunks.add_argument("--ensemble", action="store_true", default=None, help="average overlapping chunks instead")
    add("--camera", help="view of the primary camera (default: the one of training, or near)")
    add("--other-view", action="store_true", help="let --camera or --image-size be others than in training")
    add("--horizon", type=whole(1), help="control steps per episode, at most and by default the task's")
    add("--slots", type=whole(1), default=4, help="environments per process; a batch is workers * slots (default 4)")
    add("--videos", type=whole(0), default=4, help="rollouts to film, failures first (default 4)")
    add("--policy-limit", type=real(0), default=600.0, help="seconds that a server has for an answer (default 600)")
    return parser.parse_args(arguments)


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    with answering(options) as answer:
        answer |= held_out_error(options) if options.rlds else rollouts(options)


def rollouts(options: argparse.Namespace) -> dict[str, Any]:
    """Prints what was measured on each variant; returns it with the pages."""
    from gap_vla.report.evaluation_page import variants_table, write_page, write_variants
    from gap_vla.rollouts.evaluation import evaluate_variants
    from gap_vla.rollouts.records import describe
    from gap_vla.sim.rendering import require_rendering
    from gap_vla.sim.variants import VARIANT_NAMES

    of_checkpoint = {"ensemble": options.ensemble, "batch_size": options.workers * options.slots}
    loaded = load_policy(options, seed=options.seed or 0, execute=options.execute, **of_checkpoint)
    if loaded.task is None:
        raise UserError(f"{options.checkpoint} does not say for which task it was trained; pass --task")
    cameras = loaded.cameras if options.cameras is None else options.cameras
    if cameras:
        require_rendering()
    variants = VARIANT_NAMES if options.variant == "all" else (options.variant,)
    suffix = "" if options.variant == "default" else f"_{options.variant}"
    names = f"evaluation_{loaded.task}{suffix}", f"eval/{loaded.task}_{{}}{suffix}"
    out = options.out or default_out(options, *names)
    scene = {
        "image_size": options.image_size or loaded.image_size,
        "cameras": cameras,
        "camera": loaded.view(options.camera, options.image_size, other=options.other_view),
        "horizon": options.horizon,
    }
    how = {"episodes": options.episodes, "workers": options.workers, "slots_per_worker": options.slots}
    how |= {"videos": options.videos, "progress": not options.quiet}
    found: dict[str, Any] = {}
    for folder, summary in evaluate_variants(
        loaded.policy, loaded.task, variants, out, seed=options.seed, scene=scene, **how
    ):
        page = write_page(folder, summary)
        found[summary["task"]["variant"]] = {**summary, "page": page}
        if len(variants) > 1:
            write_variants(out, found)
        print(f"{describe(summary)}\n→ {folder / 'summary.json'}, {page}", flush=True)
    if len(found) > 1:
        print(f"{variants_table(found)}\n→ {out / 'index.html'}")
    return {"variants": found}


def held_out_error(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the held-out error, and writes it to `held_out.json` if `--out` is given; returns it and what it is of."""
    from gap_vla.core.files import write_json
    from gap_vla.demos.fields import Fields
    from gap_vla.demos.source import open_source
    from gap_vla.rollouts.heldout import held_out
    from gap_vla.rollouts.policy import identity
    from gap_vla.rollouts.recordings import from_episode, require_task
    from gap_vla.rollouts.records import require_same

    loaded = load_policy(options, execute=1)
    of = {"dataset": str(options.rlds.resolve()), "split": options.split, "policy": identity(loaded.policy)}
    if options.out:
        require_same(options.out / "held_out.json", of)
    source = open_source(options.rlds, Fields(episodes=options.split))
    require_task(source, loaded.task, loaded.camera)
    found = held_out(
        loaded.policy, map(from_episode, source), checkpoint=options.checkpoint, progress=not options.quiet
    )
    print(found.describe())
    content = {**dataclasses.asdict(found), **of}
    if options.out:
        write_json(options.out / "held_out.json", content)
    return content
