"""Adds ρ and change points to demonstrations: an RLDS dataset (a new version), a robomimic/MimicGen HDF5, or a folder
of npz. Everything else in the copy, but for notes of where ρ is from, is the same byte for byte; the source is not
touched.

Examples:
    gap-vla annotate data/rlds/threading/1.0.0 --out data/rlds/threading/1.1.0 --report
    gap-vla annotate ~/tensorflow_datasets/bridge_dataset/1.0.0 --layout bridge --state observation/state \\
        --out ~/tensorflow_datasets/bridge_dataset/1.1.0
    gap-vla annotate demos.hdf5 --out demos_rho.hdf5 --method gaussian --option sigma=3
    gap-vla annotate new.hdf5 --out new_rho.hdf5 --annotator demos_rho.hdf5.annotator
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from gap_vla.cli.arguments import Pairs, answering, command_parser, processes, seed, whole
from gap_vla.core.errors import command, keeping


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__, answers=True)
    parser.add_source()
    add = parser.add_argument
    add("--out", type=Path, required=True, help="where the annotated copy goes")
    add("--method", help="lstm (default), fixed, change_points, gaussian, hdbscan, ...")
    add("--option", action=Pairs, help="option of the method")
    add("--seed", type=seed, default=0, help="of the LSTM (default: 0)")
    add("--annotator", type=Path, help="folder of a saved annotator: annotate with it, fit nothing")
    add("--extra", default="", help="further joints or hand channels that count: names joined by +")
    add("--workers", type=processes, help="processes (default: by the amount of work)")
    add("--overwrite", action="store_true", help="replace OUT once the new one is complete")
    add("--report", nargs="?", const="", metavar="HTML", help="write a page (default: OUT.report.html)")
    add("--show", type=whole(1, 1000), default=3, help="episodes on the page (default: 3)")
    arguments = parser.parse_args(argv)
    if arguments.method not in (None, "lstm") and arguments.option.get("rho") != "lstm":
        parser.refuse_idle(f"with --method {arguments.method}, which draws nothing", "seed")
    if arguments.annotator:
        parser.refuse_idle("with --annotator, which fits nothing", "method", "option", "seed")
    if arguments.report is None:
        parser.refuse_idle("without --report", "show")
    parser.refuse_idle_for_source(arguments)
    return arguments


@command
def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    from gap_vla.core.outputs import claim, require_apart
    from gap_vla.phases.measures import describe
    from gap_vla.rlds.annotating import AnnotationJob, annotate_files

    said = {**vars(arguments), "method": arguments.method or "lstm", "options": arguments.option}
    job = AnnotationJob(**{field.name: said[field.name] for field in dataclasses.fields(AnnotationJob)})
    page = Path(arguments.report or f"{arguments.out}.report.html")
    if arguments.report is not None:
        require_apart(page, arguments.out, f"{arguments.out}.annotator", why="written too")
        claim(
            page,
            "report",
            overwrite=arguments.overwrite,
            sources=[arguments.source, arguments.annotator],
            suffixes=(".html",),
            named=arguments.report != "",
        )
    with answering(arguments) as answer:
        with keeping(f"{arguments.out} is as it was"):
            done = annotate_files(arguments.source, arguments.out, job)
        print(*describe(done.annotation.report), sep="\n")
        print(f"annotated copy: {done.path}\nannotator:      {done.annotator}")
        answer |= {"copy": done.path, "annotator": done.annotator, "labels": done.annotation.report}
        if arguments.report is not None:
            from gap_vla.rlds.annotating.files import write_report

            with keeping(f"the annotated copy {done.path} is whole"):
                answer["report"] = write_report(done, page, arguments.show)
            print(f"report:        {answer['report']}")
