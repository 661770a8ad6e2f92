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
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.cli.arguments import MANY, answering, command_parser, default_out, layout_seed, load_policy, whole
from gap_vla.core.errors import command, keeping
from gap_vla.core.foreign import Section, real_path
from gap_vla.core.outputs import alone_in, claim, claim_folder, write_output
from gap_vla.core.resources import require_memory

if TYPE_CHECKING:
    from gap_vla.rollouts.recordings import Recording
    from gap_vla.rollouts.task import SimTask

INTERVENTIONS = (
    "images_black",
    "images_frozen",
    "images_swapped",
    "proprio_frozen",
    "proprio_swapped",
    "objects_moved",
)

LIBRARY = 5_000
"""Recordings are of layouts this far behind `--seed`, so that no rollout is shown its own."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    parser = command_parser(__doc__, answers=True)
    parser.add_policy("random", "primary, wrist, or `primary wrist`")
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--demos", type=Path, help="robomimic HDF5 to show (default: the expert in the simulator)")
    source.add_argument("--rlds", type=Path, help="RLDS dataset, .../NAME/VERSION; its validation episodes are shown")
    add("--episodes", type=whole(2, MANY), default=10, help="recorded episodes to show (default 10)")
    closed = "rollouts per intervention (default 0: open loop only)"
    add("--closed-loop", type=whole(0, LIBRARY, "recordings begin there"), default=0, metavar="N", help=closed)
    which = f"of the rollouts (default: all): {', '.join(INTERVENTIONS)}"
    add("--interventions", nargs="+", choices=INTERVENTIONS, metavar="NAME", help=which)
    add("--seed", type=layout_seed, default=100_000, help="first layout seed (default 100000)")
    add("--out", type=Path, help="folder for the results (default: inside the checkpoint's folder, or runs/diagnosis)")
    options = parser.parse_args(arguments)
    parser.refuse_idle_for_policy(options)
    if str(options.policy).partition(":")[0] in ("expert", "replay"):
        parser.error(f"argument --policy: {options.policy} looks at nothing; give random, or ws://HOST:PORT")
    if options.cameras == ():
        parser.error("argument --cameras: a diagnosis alters pictures; give primary, wrist, or `primary wrist`")
    if not options.closed_loop:
        parser.refuse_idle("without --closed-loop", "interventions")
        if options.demos or options.rlds:
            parser.refuse_idle("on recordings without --closed-loop", "seed", "image_size", "cameras", "workers")
    return options


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    out = options.out or default_out(options, "diagnosis", "diagnosis/{}")
    claim_folder(out, "diagnosis", sources=[options.rlds, options.demos], make=False)
    kept = "finished rollouts are kept, the same command continues" if options.closed_loop else "nothing was written"
    with alone_in(out), answering(options) as answer, keeping(kept):
        answer |= _diagnose(options, out)


def _diagnose(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    from gap_vla.drawing.video import working_ffmpeg
    from gap_vla.report.diagnose_report import report, verdict
    from gap_vla.rollouts.diagnose import closed_loop, open_loop, scenes
    from gap_vla.rollouts.evaluation import evaluated
    from gap_vla.rollouts.policy import PolicyError, identity, require_seen
    from gap_vla.rollouts.record import EvaluationError, require_place, require_same
    from gap_vla.rollouts.recordings import require_scene
    from gap_vla.rollouts.task import sim_task
    from gap_vla.serving.key_mapping import require_shown
    from gap_vla.sim import require_rendering
    from gap_vla.training.data import count_learnt, motion_of

    claim(out / "diagnosis.json", "diagnosis", suffixes=(".json",), named=False)
    simulated = not (options.demos or options.rlds)
    if simulated or options.closed_loop:
        require_rendering()
    if options.closed_loop:
        working_ffmpeg(out, PolicyError, writes=True)
    loaded = load_policy(options, execute=1)
    task = None
    if loaded.task:
        size = options.image_size or loaded.image_size
        cameras = options.cameras or loaded.cameras
        require_seen(loaded.policy, cameras, options.checkpoint or options.policy)
        task = sim_task(loaded.task, image_size=size, cameras=cameras, camera=loaded.view(size=options.image_size))
    if (simulated or options.closed_loop) and task is None:
        raise PolicyError("the task is not known; pass --task (or --demos / --rlds, and no --closed-loop)")
    of = {"policy": identity(loaded.policy), "recordings": _told(options, task)}
    require_same(before := out / "diagnosis.json", of)
    chosen = options.interventions or INTERVENTIONS
    if before.exists():
        _require_more(Section.read(before, PolicyError, "move it away"), options, chosen)
    if data := options.rlds or options.demos:
        require_scene(data, loaded.task, loaded.camera)
    if options.keys and (simulated or options.closed_loop):
        require_shown(options.keys, [f"image_{camera}" for camera in cameras])
    playing = None
    if options.closed_loop and task is not None:
        playing = load_policy(options).policy
        require_place(out / "none", evaluated(playing, task, options.seed))
    recordings = _recordings(options, task)
    if before.exists() and (more := Section.read(before, PolicyError).whole("episodes", 2, MANY)) > len(recordings):
        raise PolicyError(f"{before} is of {more} recordings, and here are {len(recordings)}; give another --out")
    if options.keys:
        require_shown(options.keys, recordings[0].images if recordings else (), "give recordings that have it")
    if recordings and not recordings[0].images:
        what = "has no pictures, and a diagnosis alters them"
        raise EvaluationError(f"{recordings[0].name} {what}; give recordings with pictures")
    if playing is not None and task is not None:
        for name, shown, where in scenes(playing, task, recordings, chosen):
            require_place(out / name, evaluated(shown, where, options.seed))
    learnt: int | None = None
    if options.checkpoint and data:
        learnt = count_learnt(options.checkpoint, [motion_of(one.proprio, one.action) for one in recordings])
    if learnt:
        told = f"note: the policy was trained on {learnt} of these {len(recordings)} recordings"
        print(f"{told}, where its undisturbed error is smaller as a rule, and multiples of it larger")
    opened = open_loop(loaded.policy, recordings, progress=not options.quiet)
    claim_folder(out, "diagnosis")
    closed: tuple[Any, ...] = ()
    if playing is not None and task is not None:
        print(f"{report(opened)}\n\nrollouts follow", flush=True)
        closed = closed_loop(
            playing,
            task,
            recordings,
            episodes=options.closed_loop,
            seed=options.seed,
            out_dir=out,
            interventions=chosen,
            workers=options.workers,
            progress=not options.quiet,
        )
    print(report(opened, closed))
    content = {
        **of,
        "episodes": len(recordings),
        "learnt": learnt,
        "open_loop": dataclasses.asdict(opened),
        "closed_loop": [dataclasses.asdict(entry) for entry in closed],
        "verdict": verdict(opened, closed),
    }
    write_output(out / "diagnosis.json", "diagnosis", json.dumps(content))
    print(f"→ {out / 'diagnosis.json'}")
    return content


def _require_more(before: Section, options: argparse.Namespace, chosen: Sequence[str]) -> None:
    """Raises its error if an earlier diagnosis, which is replaced, has recordings or rollouts that this lacks."""
    if (more := before.whole("episodes", 2, MANY)) > options.episodes:
        raise before.error(f"{before.where} is of {more} recordings; give --episodes {more} or more, or another --out")
    for entry in before.list("closed_loop", Section.section):
        name, played = entry.text("intervention"), entry.whole("episodes", 1, LIBRARY)
        if name != "none" and (played > options.closed_loop or name not in chosen):
            again = f"give --closed-loop {played} or more with {name} among --interventions, or another --out"
            raise before.error(f"{before.where} has {played} rollouts of {name}; {again}")


def _told(options: argparse.Namespace, task: SimTask | None) -> dict[str, Any]:
    """Which recordings are shown, for those who find the diagnosis."""
    if data := options.rlds or options.demos:
        return {"path": str(real_path(data))}
    return {"seed": options.seed, **(task.identity() if task else {})}


def _recordings(options: argparse.Namespace, task: SimTask | None) -> list[Recording]:
    from gap_vla import demos
    from gap_vla.demos.content import unchanging
    from gap_vla.rollouts.policy import PolicyError
    from gap_vla.rollouts.recordings import from_dataset, from_episode, from_simulator, has_own_layouts

    if options.demos and os.path.isdir(options.demos):
        advice = "make a dataset of it (gap-vla build-dataset --kind KIND), for --rlds"
        raise PolicyError(f"{options.demos} is a folder, and --demos takes an HDF5 file; {advice}")
    if data := options.demos or options.rlds:
        episodes: Iterator[Recording]
        with unchanging(data):
            if options.demos:
                source = demos.open_source(options.demos)
                print(source.account(), flush=True)
                episodes = map(from_episode, source)
            else:
                episodes = from_dataset(options.rlds, "val")
            found = list(itertools.islice(episodes, options.episodes))
        for one in found if has_own_layouts(data) else ():
            if one.layout in range(options.seed, options.seed + options.closed_loop):
                said = f"is of layout {one.layout}, which rollouts are played on"
                raise PolicyError(f"{one.name} {said}; give another --seed")
        if len(found) < options.episodes:
            print(f"note: --episodes is {options.episodes}, {len(found)} are there")
        return found
    assert task is not None
    steps = options.episodes * task.horizon / 2
    pictures = 2 * steps * 3.0 * len(task.cameras) * task.image_size**2  # as they are, and with the objects moved
    require_memory({f"pictures of {options.episodes} recordings": pictures}, "lower --episodes or --image-size")
    print(f"recording the expert in {options.episodes} layouts …", file=sys.stderr, flush=True)
    seeds = [options.seed + LIBRARY + number for number in range(options.episodes)]
    return from_simulator(task, seeds, workers=options.workers)
