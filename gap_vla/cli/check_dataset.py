"""Checks an RLDS dataset of whatever origin and writes a page with pictures.

Exit status 0: usable, 1: errors were found, 2: it could not be checked.

Examples:
    gap-vla check-dataset data/rlds/threading/1.0.0
    gap-vla check-dataset ~/tensorflow_datasets/bridge_dataset/1.0.0 --layout bridge --out bridge_check
"""

from __future__ import annotations

import os
from pathlib import Path

from gap_vla.cli.arguments import MANY, answering, command_parser, json_or_name, real, whole
from gap_vla.core.errors import UserError, command, keeping
from gap_vla.core.foreign import Section, real_path


@command
def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__doc__, answers=True)
    add = parser.add_argument
    add("dataset", type=Path, help="version directory, e.g. data/rlds/threading/1.0.0")
    add("--state", help="step field with the robot's state (default: observation/proprio or state)")
    add("--layout", type=json_or_name, help="columns of the state: a name of gap_vla.demos.layout.LAYOUTS, or JSON")
    add("--out", type=Path, help="folder of the page (default: <name>-<version>-check)")
    add("--show", type=whole(0, 1000), default=6, help="episodes on the page (default: 6)")
    add("--episodes", type=whole(1, MANY), help="how many of each split are checked (default: all)")
    largest = "largest action (default: what the dataset was converted with, else 1)"
    add("--action-limit", type=real(1e-6, 1e6), help=largest)
    add("--strict", action="store_true", help="warnings count as errors")
    arguments = parser.parse_args(argv)
    from gap_vla.core.outputs import alone_in, claim, claim_folder
    from gap_vla.rlds.checking import check_dataset

    version = Path(os.path.abspath(arguments.dataset))
    out = arguments.out or Path(f"{version.parent.name}-{version.name}-check")
    claim_folder(out, "check", sources=[arguments.dataset], make=False)
    with alone_in(out), answering(arguments) as answer, keeping("nothing was written"):
        for suffix in (".json", ".html"):
            claim(out / f"check{suffix}", "check", suffixes=(suffix,), named=False)
        if arguments.out is None and (kept := out / "check.json").is_file():
            before = Section.read(kept, UserError).text("dataset")
            if real_path(before) != real_path(arguments.dataset):
                raise UserError(f"{out} holds the check of {before}; name another folder with --out, or move it away")
        report = check_dataset(
            arguments.dataset,
            state_key=arguments.state,
            layout=arguments.layout,
            pictures=arguments.show,
            max_episodes=arguments.episodes,
            action_limit=arguments.action_limit,
        )
        print(report.text())
        page = report.save(claim_folder(out, "check"))
        print(f"page: {page}")
        answer |= {**report.account(), "page": page}
    return report.exit_status(arguments.strict)
