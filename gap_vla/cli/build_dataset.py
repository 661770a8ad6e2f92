"""Converts demonstrations to an RLDS dataset with ρ, readable by every TFDS/RLDS tool.

The builder in `rlds_builders/<name>` writes it, if there is one of that name; its settings hold where nothing is said.

Examples:
    gap-vla build-dataset demos.hdf5 --name my_task --data-dir data/rlds
    gap-vla build-dataset demos.hdf5 --name my_task --dry-run      # what would be written, with a picture
    gap-vla build-dataset demos.hdf5 --name my_task --reader language_instruction="stack the blocks"

An RLDS dataset that is there already gets ρ from `gap-vla annotate`.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import MANY, Pairs, Parser, command_parser, processes, real, seed, whole
from gap_vla.core.errors import UserError, command, keeping


def parse(argv: list[str] | None) -> tuple[Parser, argparse.Namespace]:
    from gap_vla.demos import READERS

    parser = command_parser(__doc__)
    add = parser.add_argument
    add("source", type=Path, help="file or folder of demonstrations")
    add("--kind", help=f"{', '.join(READERS)} (default: what the builder of this name reads, else robomimic_hdf5)")
    add("--name", required=True, help="dataset name: small letters, digits, underscores; a letter first")
    add("--data-dir", type=Path, default=Path("data/rlds"), help="default: data/rlds")
    add("--version", help="default: 1.0.0")
    add("--method", help="annotator of ρ; 'none' writes a dataset without (default: lstm)")
    add("--seed", type=seed, help="of the annotator (default: 0)")
    add("--val-fraction", type=real(0, 0.9), help="default: 0.1")
    add("--reader", action=Pairs, help="option of the reader")
    add("--option", action=Pairs, help="option of the annotator, on top of those of the builder of this name")
    add("--annotator", type=Path, help="folder of a saved annotator: label with it, fit nothing")
    add("--fit-episodes", type=whole(1, MANY), help="fit the annotator on so many of `train` (default: all)")
    add("--workers", type=processes, default=2, help="processes (default: 2)")
    add("--overwrite", action="store_true", default=None, help="replace a dataset that was made differently")
    add("--dry-run", action="store_true", help="write nothing but a picture of the first episode with ρ")
    add("--beam", nargs="*", metavar="FLAG", help="run on Apache Beam; flags go to its runner")
    arguments = parser.parse_args(argv)
    if arguments.annotator:
        parser.refuse_idle("with --annotator, which fits nothing", "method", "seed", "option", "fit_episodes")
    if arguments.beam is not None and arguments.annotator:
        parser.refuse_idle("with --beam, whose runner has its own", "workers")
    if arguments.dry_run:
        parser.refuse_idle("with --dry-run", "overwrite", "beam", "fit_episodes", "annotator", "data_dir", "version")
    if arguments.method:
        _refuse_idle(parser, arguments, arguments.method, f"--method {arguments.method}", arguments.option)
    return parser, arguments


def _refuse_idle(
    parser: Parser, arguments: argparse.Namespace, method: str, told: str, options: Mapping[str, Any]
) -> None:
    """Ends the command if an option was given that has no effect with a method and its options."""
    if method != "lstm" and options.get("rho") != "lstm":
        parser.refuse_idle(f"with {told}, which draws nothing", "seed")
    if method == "none":
        parser.refuse_idle(f"with {told}, which writes no ρ", "seed", "option", "fit_episodes")
        if arguments.beam is not None:
            parser.refuse_idle("with --beam, whose runner has its own", "workers")
        if arguments.dry_run:
            parser.refuse_idle(f"with --dry-run and {told}", "val_fraction", "workers")
    if method in ("fixed", "column") and options.get("rho") != "lstm":
        parser.refuse_idle(f"with {told}, which fits nothing", "fit_episodes")


def _said(**options: Any) -> dict[str, Any]:
    """What something was said about; the builder's own settings hold where nothing was."""
    return {key: value for key, value in options.items() if value is not None}


@command
def main(argv: list[str] | None = None) -> None:
    parser, arguments = parse(argv)
    from gap_vla.core.outputs import claim, require_apart
    from gap_vla.core.resources import require_writable
    from gap_vla.rlds import BeamRunner, dataset_builder

    labels = _said(
        method=arguments.method,
        seed=arguments.seed,
        options=arguments.option or None,
        val_fraction=arguments.val_fraction,
        workers=arguments.workers,
    )
    if odd := [flag for flag in arguments.beam or () if not re.fullmatch(r"-*\w[^=]*(=.+)?", flag)]:
        raise UserError(f"--beam {odd[0]!r} is no flag of Beam; give NAME or NAME=VALUE")
    beam = None if arguments.beam is None else BeamRunner([f"--{flag.lstrip('-')}" for flag in arguments.beam])
    writing = _said(
        annotator=arguments.annotator, fit_episodes=arguments.fit_episodes, overwrite=arguments.overwrite, runner=beam
    )
    builder = dataset_builder(arguments.name, arguments.data_dir, kind=arguments.kind, version=arguments.version)
    if not (arguments.method or arguments.annotator):
        told = f"METHOD {builder.METHOD} of rlds_builders/{arguments.name}"
        _refuse_idle(parser, arguments, builder.METHOD, told, {**builder.OPTIONS, **arguments.option})
    if arguments.dry_run:
        picture = claim(
            f"{arguments.name}_dry_run.png", "dry_run", sources=[arguments.source], suffixes=(".png",), named=False
        )
        print(builder.dry_run(arguments.source, picture, reader=arguments.reader, **labels))
        return
    require_apart(Path(builder.data_dir), arguments.source, arguments.annotator)
    # a finished one is found, also where nothing may be written
    if arguments.overwrite or not Path(builder.data_dir).is_dir():
        require_writable(arguments.data_dir, "--data-dir")
    with keeping("what is finished is kept, the same command continues"):
        path = builder.convert(arguments.source, reader=arguments.reader, **labels, **writing)
    print(f"dataset: {path}")
    print(f"check it: gap-vla check-dataset {shlex.quote(str(path))}")
