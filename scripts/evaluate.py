"""Roll a policy out in simulation and report its success rate with an interval.

    python scripts/evaluate.py --checkpoint runs/threading/NAME --episodes 100            # a run of ours
    python scripts/evaluate.py --checkpoint DIR --task assembly                           # any folder in Octo's layout
    python scripts/evaluate.py --policy expert --task threading                           # also: random, replay:FILE
    python scripts/evaluate.py --policy ws://localhost:8000 --keys keys.json --task stack # a VLA behind a server
    python scripts/evaluate.py --checkpoint DIR --ood all                                 # every variant of the scene
    python scripts/evaluate.py --checkpoint DIR --rlds data/rlds/NAME/1.0.0               # no simulator: held-out error

The folder given by --out receives summary.json, episodes.jsonl (a line per episode, written as it finishes), videos/
(failures first) and index.html. A killed evaluation continues when the same command is given again.
"""

import argparse
import sys
from pathlib import Path

from gap_vla.cli.arguments import (
    MANY,
    command_parser,
    pixels,
    processes,
    real,
    refuse_idle,
    saved_step,
    seconds,
    seed,
    whole,
)
from gap_vla.core.errors import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    from gap_vla.sim import TASK_NAMES, VARIANT_NAMES

    parser = command_parser(__doc__)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME")
    what.add_argument("--policy", help="expert, random, replay:FILE, or ws://HOST:PORT (a server of openpi's protocol)")
    add("--task", choices=TASK_NAMES, metavar="TASK", help=f"one of {', '.join(TASK_NAMES)}")
    add("--episodes", type=whole(1, MANY), default=20, help="rollouts (default 20; take 100 for results)")
    add("--seed", type=seed, help="first layout seed (default: where the variant's own seeds begin)")
    add(
        "--ood", default="default", metavar="NAME|all", help=f"variant of the scene: {', '.join(VARIANT_NAMES)}; or all"
    )
    add("--rlds", type=Path, help="no rollouts: the action error on this RLDS dataset's held-out episodes, split by ρ")
    add("--split", default="val", help="which episodes of --rlds (default val)")
    add("--out", type=Path, help="folder for the results (default: inside the checkpoint's folder, or runs/eval)")
    add("--step", type=saved_step, help="which step of the checkpoint (default: the latest)")
    add("--execute", type=whole(1, 256), help="actions executed of each predicted chunk (default: as trained)")
    add("--ensemble", action="store_true", default=None, help="average overlapping chunks instead")
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the server's (only for ws://)")
    add("--patience", type=real(0, 86_400), default=60.0, help="seconds to wait for a server that is away (default 60)")
    add("--image_size", type=pixels, help="pixels, square (default: the checkpoint's, or 64)")
    add(
        "--cameras",
        nargs="*",
        choices=("primary", "wrist"),
        help="default: the checkpoint's, or primary; no name after it: nothing is drawn (expert, random, replay)",
    )
    add("--camera", help="view of the primary camera (default: the one of training, or near)")
    add("--other_view", action="store_true", help="let --camera be another view than the policy was trained through")
    add("--horizon", type=whole(1, MANY), help="control steps per episode (default: the task's)")
    add("--workers", type=processes, default=2, help="simulator processes (default 2)")
    add(
        "--slots",
        type=whole(1, 256),
        default=4,
        help="environments per process; a batch is workers * slots (default 4)",
    )
    add("--videos", type=whole(0, MANY), default=4, help="rollouts to film, failures first (default 4)")
    add("--policy_limit", type=seconds, default=60.0, help="seconds for one answer of the policy (default 60)")
    add("--quiet", action="store_true", help="no progress line")
    options = parser.parse_args(arguments)
    if options.checkpoint:
        refuse_idle(parser, options, "with --checkpoint: they are for a server, ws://", "keys", "patience")
    else:
        refuse_idle(parser, options, "without --checkpoint", "step", "execute", "ensemble", "dataset")
    rollouts = "episodes seed ood execute ensemble image_size cameras camera other_view horizon workers slots videos"
    if options.rlds:
        refuse_idle(parser, options, "with --rlds, which rolls nothing out", *rollouts.split(), "policy_limit")
    else:
        refuse_idle(parser, options, "without --rlds", "split")
    return options


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from gap_vla.cli.evaluate import evaluate_command

    evaluate_command(options)


if __name__ == "__main__":
    sys.exit(main())
