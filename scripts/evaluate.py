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

from gap_vla.core.errors import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; nothing heavy is imported for it."""
    from gap_vla.sim import TASK_NAMES, VARIANT_NAMES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", help="run directory, checkpoint directory in Octo's layout, or hf://OWNER/NAME")
    what.add_argument("--policy", help="expert, random, replay:FILE, or ws://HOST:PORT (a server of openpi's protocol)")
    add("--task", choices=TASK_NAMES, metavar="TASK", help=f"one of {', '.join(TASK_NAMES)}")
    add("--episodes", type=int, default=20, help="rollouts (default 20; take 100 for results)")
    add("--seed", type=int, help="first layout seed (default: where the variant's own seeds begin)")
    add(
        "--ood", default="default", metavar="NAME|all", help=f"variant of the scene: {', '.join(VARIANT_NAMES)}; or all"
    )
    add("--rlds", type=Path, help="no rollouts: the action error on this RLDS dataset's held-out episodes, split by ρ")
    add("--split", default="val", help="which episodes of --rlds (default val)")
    add("--out", type=Path, help="folder for the results (default: inside the checkpoint's folder, or runs/eval)")
    add("--step", type=int, help="which step of the checkpoint (default: the latest)")
    add("--execute", type=int, help="actions executed of each predicted chunk (default: as trained)")
    add("--ensemble", action="store_true", default=None, help="average overlapping chunks instead")
    add("--dataset", help="whose statistics, if the checkpoint carries several")
    add("--keys", type=Path, help="JSON file: our observation keys to the server's (only for ws://)")
    add("--patience", type=float, default=60.0, help="seconds to wait for a server that is away (default 60)")
    add("--image_size", type=int, help="pixels, square (default: the checkpoint's, or 64)")
    add(
        "--cameras",
        nargs="*",
        choices=("primary", "wrist"),
        help="default: the checkpoint's, or primary; no name after it: nothing is drawn (expert, random, replay)",
    )
    add("--camera", help="view of the primary camera (default: the one of training, or near)")
    add("--other_view", action="store_true", help="let --camera be another view than the policy was trained through")
    add("--horizon", type=int, help="control steps per episode (default: the task's)")
    add("--workers", type=int, default=2, help="simulator processes (default 2)")
    add("--slots", type=int, default=4, help="environments per process; a batch is workers * slots (default 4)")
    add("--videos", type=int, default=4, help="rollouts to film, failures first (default 4)")
    add("--policy_limit", type=float, default=60.0, help="seconds for one answer of the policy (default 60)")
    add("--quiet", action="store_true", help="no progress line")
    return parser.parse_args(arguments)


@command
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from gap_vla.evaluation.command import evaluate_command

    evaluate_command(options)


if __name__ == "__main__":
    sys.exit(main())
