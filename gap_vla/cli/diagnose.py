"""Does the policy look? Tamper with its pictures and its proprioception, and see how far actions and success change.

    gap-vla diagnose --checkpoint runs/assembly/NAME    # the expert's episodes, in simulation
    gap-vla diagnose --checkpoint DIR --demos demos.hdf5    # recorded demonstrations, no simulator
    gap-vla diagnose --checkpoint DIR --rlds data/rlds/NAME/1.0.0    # a dataset with ρ
    gap-vla diagnose --checkpoint DIR --closed-loop 20    # success under each intervention too
    gap-vla diagnose --policy ws://localhost:8000 --task stack --keys k.json   # somebody else's VLA

Prints a table and a sentence; --out receives diagnosis.json and the rollouts.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.cli.arguments import add_policy, answering, command_parser, default_out, load_policy, seed, whole
from gap_vla.core.errors import UserError, command

if TYPE_CHECKING:
    from gap_vla.rollouts.recordings import RecordedEpisode
    from gap_vla.rollouts.task import SimTask

LIBRARY = 5_000
"""Recordings are of layouts this far behind `--seed`, so that no rollout is shown its own."""

INTERVENTIONS = "images_black images_frozen images_swapped proprio_frozen proprio_swapped objects_moved".split()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from gap_vla.demos.fields import add_options

    # of two --image-size, the policy's counts, and --episodes may be a number too
    parser = command_parser(__doc__, answers=True, conflict_handler="resolve")
    add_options(parser)
    add_policy(parser, "random")
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group().add_argument
    source("--demos", type=Path, help="demonstrations to show, of any kind (default: the expert in the simulator)")
    source("--rlds", type=Path, help="RLDS dataset, .../NAME/VERSION; its validation episodes are shown")
    shown = 'recorded episodes to show (default 10), or which of --demos, as "0:10,12"'
    add("--episodes", default="10", metavar="N|SELECTION", help=shown)
    closed = "rollouts per intervention (default 0: open loop only)"
    add("--closed-loop", type=whole(0, LIBRARY), default=0, metavar="N", help=closed)
    which = f"of the rollouts (default: all): {', '.join(INTERVENTIONS)}"
    add("--interventions", nargs="+", choices=INTERVENTIONS, default=INTERVENTIONS, metavar="NAME", help=which)
    add("--seed", type=seed, default=100_000, help="first layout seed (default 100000)")
    add("--out", type=Path, help="folder for the results (default: inside the checkpoint's folder, or runs/diagnosis)")
    return parser.parse_args(arguments)


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    out = options.out or default_out(options, "diagnosis", "diagnosis/{}")
    with answering(options) as answer:
        answer |= diagnose(options, out)


def diagnose(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    from gap_vla.core.files import write_json
    from gap_vla.report.diagnose_report import report, verdict
    from gap_vla.rollouts.diagnose import closed_loop, open_loop
    from gap_vla.rollouts.heldout import count_learnt
    from gap_vla.rollouts.policy import identity
    from gap_vla.rollouts.records import require_same
    from gap_vla.rollouts.task import sim_task
    from gap_vla.sim.rendering import require_rendering

    loaded = load_policy(options, execute=1)
    task = None
    if loaded.task and (options.closed_loop or not (options.demos or options.rlds)):
        require_rendering()
        size, cameras = options.image_size or loaded.image_size, options.cameras or loaded.cameras
        task = sim_task(loaded.task, image_size=size, cameras=cameras, camera=loaded.view(size=options.image_size))
    of = {"policy": identity(loaded.policy), "recordings": _told(options, task)}
    require_same(out / "diagnosis.json", of)
    shown = recordings(options, loaded, task)
    learnt = None
    if options.checkpoint and (options.demos or options.rlds):
        learnt = count_learnt(options.checkpoint, shown)
    if learnt:
        told = f"note: the policy was trained on {learnt} of these {len(shown)} recordings"
        print(f"{told}, where its undisturbed error is smaller as a rule, and multiples of it larger")
    opened = open_loop(loaded.policy, shown, progress=not options.quiet)
    closed: tuple[Any, ...] = ()
    if options.closed_loop:
        if task is None:
            raise UserError("the task is not known; pass --task, or no --closed-loop")
        print(f"{report(opened)}\n\nrollouts follow", flush=True)
        closed = closed_loop(
            load_policy(options).policy,
            task,
            shown,
            episodes=options.closed_loop,
            seed=options.seed,
            out_dir=out,
            interventions=options.interventions,
            workers=options.workers,
            progress=not options.quiet,
        )
    print(report(opened, closed))
    content = {
        **of,
        "episodes": len(shown),
        "learnt": learnt,
        "open_loop": dataclasses.asdict(opened),
        "closed_loop": [dataclasses.asdict(entry) for entry in closed],
        "verdict": verdict(opened, closed),
    }
    write_json(out / "diagnosis.json", content)
    print(f"→ {out / 'diagnosis.json'}")
    return content


def _told(options: argparse.Namespace, task: SimTask | None) -> dict[str, Any]:
    """Which recordings are shown, for those who find the diagnosis."""
    if data := options.rlds or options.demos:
        return {"path": str(data.resolve())}
    return {"seed": options.seed, **(task.identity() if task else {})}


def recordings(options: argparse.Namespace, loaded: Any, task: SimTask | None) -> list[RecordedEpisode]:
    """What the policy is shown: demonstrations, or the expert's episodes."""
    from gap_vla.demos.fields import fields_from
    from gap_vla.demos.source import open_source
    from gap_vla.rollouts.recordings import from_episode, from_simulator, require_task

    number = int(options.episodes) if options.episodes.isdigit() else None
    if data := options.demos or options.rlds:
        selection = "val" if options.rlds else "" if number else options.episodes
        said = {**vars(options), "image_size": None, "episodes": selection}
        source = open_source(data, fields_from(argparse.Namespace(**said)))
        print(source.account())
        require_task(source, loaded.task, loaded.camera)
        return [from_episode(episode) for episode in itertools.islice(source, number)]
    if task is None or number is None:
        raise UserError("without recordings, give --task and a number of --episodes")
    print(f"recording the expert in {number} layouts …", file=sys.stderr, flush=True)
    return from_simulator(task, [options.seed + LIBRARY + n for n in range(number)], workers=options.workers)
