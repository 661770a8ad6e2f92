"""Whether a change of the code leaves every number as it was: the same commands at two commits, results compared.

    python scripts/same_numbers.py main HEAD                           # about ten minutes on two idle cores
    python scripts/same_numbers.py main HEAD --only labels,vp_gap,gap
    python scripts/same_numbers.py main HEAD --short --keep runs/same  # longer runs; main's digests are used again
    python scripts/same_numbers.py main HEAD --cells                   # recorded cells mean the same training

Each commit is checked out into a temporary git worktree. Exit status 0: all is equal; 1: something differs.
"""

import argparse
import functools
from pathlib import Path

from experiments.cli.reproduce import names
from gap_vla.cli.arguments import command_parser
from gap_vla.core.errors import NEGATIVE, command
from gap_vla.core.outputs import claim_folder


def parse(arguments: list[str] | None) -> argparse.Namespace:
    from experiments.same_numbers import PROFILES

    parser = command_parser(__doc__)
    parser.add_argument("old", help="commit, branch or tag")
    parser.add_argument("new", help="another one")
    size = parser.add_mutually_exclusive_group()
    add = functools.partial(size.add_argument, dest="profile", action="store_const", default="debug")
    add("--short", const="short", help="a short run of either model instead of the debug profiles")
    add(
        "--cells",
        const="cells",
        help="two recorded cells of the evidence, whole; about 20 minutes a commit on one core",
    )
    parser.add_argument(
        "--only", type=names, default=[], metavar="PART[,PART]", help=f"of {', '.join(PROFILES['debug'])}"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep outputs there, and use digests that lie there"
    )
    options = parser.parse_args(arguments)
    known = list(PROFILES[options.profile])
    options.parts = options.only or known
    if unknown := [part for part in options.parts if part not in known]:
        parser.error(f"--only {','.join(options.only)}: no part {unknown[0]!r} here; there are {', '.join(known)}")
    return options


@command
def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    from experiments.same_numbers import Checkouts, commit_of, compare, table

    commits = [commit_of(name) for name in (options.old, options.new)]
    if options.keep:
        claim_folder(options.keep, "same_numbers")
    with Checkouts(options.profile, options.keep) as checkouts:
        rows = compare(commits, options.parts, checkouts.digests)
    print(table(rows))
    return 0 if all(row.equal for row in rows) else NEGATIVE
