"""Adds ρ and change points to a copy of demonstrations: an RLDS dataset (a new version), HDF5 in robomimic's layout, a
folder of npz, or any other format that can be read (whose copy is a folder of npz). Pictures, actions and all other
arrays stay as they are.

Examples:
    gap-vla annotate data/rlds/threading/1.0.0 --out data/rlds/threading/1.1.0 --report
    gap-vla annotate ~/tensorflow_datasets/bridge_dataset/1.0.0 --layout bridge \\
        --out ~/tensorflow_datasets/bridge_dataset/1.1.0
    gap-vla annotate demos.hdf5 --out demos_rho.hdf5 --method gaussian --option sigma=3
    gap-vla annotate new.hdf5 --out new_rho.hdf5 --annotator demos_rho.hdf5.annotator
"""

from __future__ import annotations

from pathlib import Path

from gap_vla.cli.arguments import Pairs, answering, command_parser
from gap_vla.core.errors import command
from gap_vla.demos.fields import add_options, fields_from


@command
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__doc__, answers=True)
    add = parser.add_argument
    add("source", type=Path, help="file or folder of demonstrations, or the folder of a dataset version")
    add("--out", type=Path, required=True, help="where the annotated copy goes")
    add("--kind", help="format of the source (default: what it looks like)")
    add("--method", default="lstm", help="lstm (default), fixed, change_points, gaussian, hdbscan, ...")
    add("--option", action=Pairs, help="option of the method")
    add("--seed", type=int, default=0, help="of the LSTM (default: 0)")
    add("--annotator", type=Path, help="folder of a saved annotator: annotate with it, fit nothing")
    add("--extra", default="", help="further joints or hand channels that count: arrays joined by +")
    add("--workers", type=int, help="processes (default: by the amount of work)")
    add("--overwrite", action="store_true", help="replace OUT once the new one is complete")
    add("--report", nargs="?", const="", metavar="HTML", help="write a page (default: OUT.report.html)")
    add("--show", type=int, default=3, help="episodes on the page (default: 3)")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.core.files import claim
    from gap_vla.demos.source import open_source
    from gap_vla.phases.measures import describe
    from gap_vla.rlds.annotate import annotate_source, write_report

    page = None if options.report is None else Path(options.report or f"{options.out}.report.html")
    if page:
        claim(page, overwrite=options.overwrite or not options.report, sources=[options.source])
    with answering(options) as answer:
        source = open_source(options.source, fields_from(options), options.kind)
        print(source.account(), flush=True)
        done = annotate_source(
            source,
            options.out,
            method=options.method,
            seed=options.seed,
            options=options.option,
            annotator=options.annotator,
            extra=options.extra,
            workers=options.workers,
            overwrite=options.overwrite,
        )
        print(*describe(done.annotation.report), sep="\n")
        print(f"annotated copy: {done.path}\nannotator:      {done.annotator}")
        answer |= {"copy": done.path, "annotator": done.annotator, "labels": done.annotation.report}
        if page:
            answer["report"] = write_report(done, page, options.show)
            print(f"report:        {page}")
