"""Checks demonstrations or a dataset, of whatever origin, and writes a page with pictures.

Exit status 0: usable, 1: something would spoil a training, 2: it could not be checked.

Examples:
    gap-vla check-dataset data/rlds/threading/1.0.0
    gap-vla check-dataset ~/tensorflow_datasets/bridge_dataset/1.0.0 --layout bridge --out bridge_check
    gap-vla check-dataset lerobot/so101_pick
"""

from __future__ import annotations

from pathlib import Path

from gap_vla.cli.arguments import answering, command_parser
from gap_vla.core.errors import command
from gap_vla.core.files import claim
from gap_vla.demos.fields import add_options, fields_from


@command
def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__doc__, answers=True)
    add = parser.add_argument
    add("source", type=Path, help="RLDS version, LeRobot folder, HDF5 file, folder of npz or pickles")
    add("--kind", help="format of the source (default: what it looks like)")
    add("--out", type=Path, help="folder of the page (default: <name>-check)")
    add("--overwrite", action="store_true", help="replace the folder if it is that of an earlier check")
    add("--show", type=int, default=6, help="episodes on the page (default: 6)")
    add("--strict", action="store_true", help="warnings count as errors")
    add_options(parser)
    options = parser.parse_args(argv)
    source = options.source.absolute()
    versioned = (source / "features.json").exists()
    name = f"{source.parent.name}-{source.name}" if versioned else source.stem
    out = claim(options.out or Path(f"{name}-check"), overwrite=options.overwrite, kind="check", sources=[source])
    from gap_vla.rlds.checking.run import check_dataset

    with answering(options) as answer:
        report = check_dataset(options.source, fields_from(options), kind=options.kind, pictures=options.show)
        print(report.text())
        page = report.save(out)
        print(f"page: {page}")
        answer |= {**report.content(), "page": page}
    return report.exit_status(options.strict)
