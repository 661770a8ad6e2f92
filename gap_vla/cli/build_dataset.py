"""Converts demonstrations of any known format to an RLDS dataset with ρ, readable by every TFDS/RLDS tool.

Examples:
    gap-vla build-dataset demos.hdf5 --name my_task --data-dir data/rlds
    gap-vla build-dataset demos.hdf5 --name my_task --dry-run      # what would be written, with a picture
    gap-vla build-dataset demos.hdf5 --name my_task --instruction "text=stack the blocks"
    gap-vla build-dataset my_lerobot_dataset --name my_task --columns "joints:6 gripper_01" --method none

A dataset that is RLDS already needs no conversion: training reads it (data.rlds), `gap-vla annotate` adds ρ.
"""

from __future__ import annotations

import functools
import shlex
from pathlib import Path

from gap_vla.cli.arguments import Pairs, command_parser
from gap_vla.core.errors import command
from gap_vla.demos.fields import add_options, fields_from


@command
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("source", type=Path, help="file or folder of demonstrations")
    add("--kind", help="format of the source (default: what it looks like)")
    add("--name", required=True, help="dataset name: small letters, digits, underscores; a letter first")
    add("--data-dir", type=Path, default=Path("data/rlds"), help="default: data/rlds")
    add("--version", default="1.0.0", help="default: 1.0.0")
    add("--method", default="lstm", help="annotator of ρ; 'none' writes a dataset without (default: lstm)")
    add("--seed", type=int, default=0, help="of the annotator (default: 0)")
    add("--val-fraction", type=float, default=0.1, help="default: 0.1")
    add("--option", action=Pairs, help="option of the annotator")
    add("--annotator", type=Path, help="folder of a saved annotator: label with it, fit nothing")
    add("--fit-episodes", type=int, help="fit the annotator on so many of `train` (default: all)")
    add("--workers", type=int, default=2, help="processes (default: 2)")
    add("--overwrite", action="store_true", help="replace a dataset that was made differently")
    add("--dry-run", action="store_true", help="write nothing but a picture of the first episode with ρ")
    add("--beam", nargs="*", metavar="FLAG", help="run on Apache Beam; flags go to its runner")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.demos.source import open_source
    from gap_vla.rlds.convert import build_dataset, dry_run
    from gap_vla.rlds.shards import run_on_beam

    source = open_source(options.source, fields_from(options), options.kind)
    how = {name: getattr(options, name) for name in ("method", "seed", "val_fraction")}
    how["options"] = options.option
    if options.dry_run:
        print(dry_run(source, Path(f"{options.name}_dry_run.png"), **how))
        return
    flags = [f"--{flag.lstrip('-')}" for flag in options.beam or ()]
    beam = None if options.beam is None else functools.partial(run_on_beam, options=flags)
    path = build_dataset(
        source,
        options.data_dir,
        options.name,
        version=options.version,
        annotator=options.annotator,
        fit_episodes=options.fit_episodes,
        workers=options.workers,
        overwrite=options.overwrite,
        runner=beam,
        **how,
    )
    print(f"dataset: {path}")
    print(f"check it: gap-vla check-dataset {shlex.quote(str(path))}")
