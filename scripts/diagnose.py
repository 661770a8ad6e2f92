"""Does the policy look? Tamper with its pictures and its proprioception, and see how far actions and success change.

    python scripts/diagnose.py --checkpoint runs/assembly/NAME    # the expert's episodes, in simulation
    python scripts/diagnose.py --checkpoint DIR --demos demos.hdf5    # recorded demonstrations, no simulator
    python scripts/diagnose.py --checkpoint DIR --rlds data/rlds/NAME/1.0.0    # a dataset with ρ
    python scripts/diagnose.py --checkpoint DIR --closed_loop 20    # success under each intervention too
    python scripts/diagnose.py --policy ws://localhost:8000 --task stack --keys k.json   # somebody else's VLA

Prints a table and a sentence; --out receives diagnosis.json and the rollouts.
"""

import argparse
import sys
from pathlib import Path

from gap_vla.cli.arguments import MANY, command_parser, pixels, processes, real, refuse_idle, saved_step, seed, whole
from gap_vla.core.errors import command

INTERVENTIONS = (
    "images_black",
    "images_frozen",
    "images_swapped",
    "proprio_frozen",
    "proprio_swapped",
    "objects_moved",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    from gap_vla.sim import TASK_NAMES

    parser = command_parser(__doc__)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME")
    what.add_argument("--policy", help="random, or ws://HOST:PORT (a server of openpi's protocol)")
    add("--task", choices=TASK_NAMES, metavar="TASK", help=f"one of {', '.join(TASK_NAMES)} (default: as trained)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--demos", type=Path, help="demonstration file to show (default: the expert in the simulator)")
    source.add_argument("--rlds", type=Path, help="RLDS dataset, .../NAME/VERSION; its validation episodes are shown")
    add("--episodes", type=whole(1, MANY), default=10, help="recorded episodes to show (default 10)")
    add(
        "--closed_loop",
        type=whole(0, MANY),
        default=0,
        metavar="N",
        help="rollouts per intervention (default 0: open loop only)",
    )
    add(
        "--interventions",
        nargs="+",
        choices=INTERVENTIONS,
        metavar="NAME",
        help=f"of the rollouts (default: all): {', '.join(INTERVENTIONS)}",
    )
    add("--seed", type=seed, default=100_000, help="first layout seed (default 100000)")
    add("--out", type=Path, help="folder for the results (default: inside the checkpoint's folder, or runs/diagnosis)")
    add("--step", type=saved_step, help="which step of the checkpoint (default: the latest)")
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the server's (only for ws://)")
    add("--patience", type=real(0, 86_400), default=60.0, help="seconds to wait for a server that is away (default 60)")
    add("--image_size", type=pixels, help="pixels, square (default: the checkpoint's, or 64)")
    add("--cameras", nargs="+", choices=("primary", "wrist"), help="default: the checkpoint's, or primary")
    add("--workers", type=processes, default=2, help="simulator processes (default 2)")
    add("--quiet", action="store_true", help="no progress line")
    options = parser.parse_args(arguments)
    if options.checkpoint:
        refuse_idle(parser, options, "with --checkpoint: they are for a server, ws://", "keys", "patience")
    else:
        refuse_idle(parser, options, "without --checkpoint", "step", "dataset")
    if not options.closed_loop:
        refuse_idle(parser, options, "without --closed_loop", "interventions")
        if options.demos or options.rlds:
            refuse_idle(
                parser, options, "on recordings without --closed_loop", "seed", "image_size", "cameras", "workers"
            )
    return options


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from gap_vla.cli.diagnose import diagnose_command

    diagnose_command(options)


if __name__ == "__main__":
    sys.exit(main())
