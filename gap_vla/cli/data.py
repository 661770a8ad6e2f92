"""The commands that make, show and check data."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

from gap_vla.cli.arguments import Cameras, Parser, command_parser, pair, real, seed, whole
from gap_vla.core.errors import command
from gap_vla.core.files import claim
from gap_vla.demos.fields import add_options, fields_from


def _add_source(parser: Parser, help: str) -> None:
    parser.add_argument("source", type=Path, help=help)
    parser.add_argument("--kind", help="format of the source (default: what it looks like)")


def _source(options: Any) -> Any:
    from gap_vla.demos.source import open_source

    source = open_source(options.source, fields_from(options), options.kind)
    print(source.account(), flush=True)
    return source


@command
def collect_demos(argv: list[str] | None = None) -> None:
    """Collects demonstrations of a scripted expert in simulation and writes them in robomimic's HDF5 layout.

    Example (about 90 s on two free cores):
        gap-vla collect-demos --task threading --episodes 100 --out data/threading.hdf5
    """
    from gap_vla.sim import TASK_NAMES, VARIANT_NAMES

    parser = command_parser(collect_demos)
    add = parser.add_argument
    add("--task", required=True, help=f"one of: {', '.join(TASK_NAMES)}")
    add("--episodes", type=whole(1), default=100, help="number of successful episodes to keep (default: 100)")
    add("--out", type=Path, required=True, help="HDF5 file to write")
    add("--overwrite", action="store_true", help="replace the file")
    add("--seed", type=seed, default=0, help="seed of the collection (default: 0)")
    add("--image-size", type=whole(16), default=64, help="height and width in pixels (default: 64)")
    recorded = "pictures to record: primary, wrist, `primary wrist`, or none (default: primary)"
    add("--cameras", action=Cameras, default=("primary",), help=recorded)
    add("--camera", default="near", help="view of the primary camera: near, or a stock camera's name (default: near)")
    noise = (
        "standard deviation of the disturbance of executed actions, in action units; the recorded label stays the "
        "expert's clean action (default: 0)"
    )
    add("--action-noise", type=real(0, 1), default=0.0, help=noise)
    add("--variant", default="default", help=f"one of: {', '.join(VARIANT_NAMES)} (default: default)")
    add("--workers", type=whole(1), default=2, help="parallel processes (default: 2)")
    add("--quiet", action="store_true", help="no progress on stderr")
    options = parser.parse_args(argv)
    from gap_vla.sim import collection

    asked = {name: value for name, value in vars(options).items() if name not in ("episodes", "quiet")}
    print(collection.collect_demos(**asked, n=options.episodes, progress=not options.quiet))


@command
def show_episode(argv: list[str] | None = None) -> None:
    """Shows one episode: camera images with a slider, ρ, change points, motion signals and the expert's true switches,
    in one HTML page that needs no network; or as a picture.

    Examples:
        gap-vla show-episode data/rlds/threading/1.0.0 --episode 3 --out episode.html
        gap-vla show-episode demos.hdf5 --out episode.html        # finds ρ as `annotate` does, if none is stored
        gap-vla show-episode demos.hdf5 --method gaussian         # by another method than the stored one
        gap-vla show-episode demos_rho.hdf5 --out episode.png
    """
    parser = command_parser(show_episode)
    add = parser.add_argument
    _add_source(parser, "file or folder of demonstrations, or the folder of a dataset version")
    add("--episode", type=int, default=0, help="its number (default: 0)")
    add("--out", type=Path, default=Path("episode.html"), help=".html (default) or .png")
    add("--camera", help="image to show, such as image_wrist (default: the first)")
    add("--method", help="find ρ by this method, fitted on all episodes, instead of what is stored")
    add("--annotator", type=Path, help="find ρ by this saved annotator")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.rlds import annotate

    how = {name: getattr(options, name) for name in ("episode", "camera", "method", "annotator")}
    print(annotate.show_episode(_source(options), options.out, **how))


@command
def annotate(argv: list[str] | None = None) -> None:
    """Adds ρ and change points to a copy of demonstrations: an RLDS dataset (a new version), HDF5 in robomimic's
    layout, a folder of npz, or any other format that can be read (whose copy is a folder of npz). Pictures, actions and
    all other arrays stay as they are. A LeRobot folder needs no copy: ρ goes beside its data, into gap_rho.parquet.

    Examples:
        gap-vla annotate my_lerobot_dataset                       # my_lerobot_dataset/gap_rho.parquet
        gap-vla annotate data/rlds/threading/1.0.0 --out data/rlds/threading/1.1.0 --report
        gap-vla annotate ~/tensorflow_datasets/bridge_dataset/1.0.0 --layout bridge \\
            --out ~/tensorflow_datasets/bridge_dataset/1.1.0
        gap-vla annotate demos.hdf5 --out demos_rho.hdf5 --method gaussian --option sigma=3
        gap-vla annotate new.hdf5 --out new_rho.hdf5 --annotator demos_rho.hdf5.annotator
    """
    parser = command_parser(annotate)
    add = parser.add_argument
    _add_source(parser, "file or folder of demonstrations, or the folder of a dataset version")
    beside = "LeRobot: a folder, or a .parquet file for ρ alone (default: gap_rho.parquet in SOURCE)"
    add("--out", type=Path, help=f"where the annotated copy goes; {beside}")
    add("--method", default="lstm", help="lstm (default), fixed, change_points, gaussian, hdbscan, ...")
    add("--option", type=pair, action="append", default=[], metavar="KEY=VALUE", help="option of the method")
    add("--seed", type=int, default=0, help="of the LSTM (default: 0)")
    add("--annotator", type=Path, help="folder of a saved annotator: annotate with it, fit nothing")
    add("--extra", default="", help="further joints or hand channels that count: arrays joined by +")
    add("--workers", type=int, help="processes (default: by the amount of work)")
    add("--overwrite", action="store_true", help="replace OUT once the new one is complete")
    add("--report", action="store_true", help="write a page, OUT.report.html")
    add("--show", type=int, default=3, help="episodes on the page (default: 3)")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.phases.measures import describe
    from gap_vla.rlds.annotate import annotate_source, write_report

    how = {name: getattr(options, name) for name in ("method", "seed", "annotator", "extra", "workers", "overwrite")}
    done = annotate_source(_source(options), options.out, options=dict(options.option), **how)
    print(*describe(done.annotation.report), sep="\n")
    print(f"written:   {done.path}\nannotator: {done.annotator}")
    if options.report:
        page = done.path.with_name(f"{done.path.name}.report.html")
        print(f"report:    {write_report(done, page, options.show)}")


@command
def build_dataset(argv: list[str] | None = None) -> None:
    """Converts demonstrations of any known format to an RLDS dataset with ρ, readable by every TFDS/RLDS tool.

    Examples:
        gap-vla build-dataset demos.hdf5 --name my_task --data-dir data/rlds
        gap-vla build-dataset demos.hdf5 --name my_task --dry-run      # what would be written, with a picture
        gap-vla build-dataset demos.hdf5 --name my_task --instruction "text=stack the blocks"
        gap-vla build-dataset my_lerobot_dataset --name my_task --columns "joints:6 gripper_01" --method none

    A dataset that is RLDS already needs no conversion: training reads it (data.rlds), `gap-vla annotate` adds ρ.
    """
    parser = command_parser(build_dataset)
    add = parser.add_argument
    _add_source(parser, "file or folder of demonstrations")
    add("--name", required=True, help="dataset name: small letters, digits, underscores; a letter first")
    add("--data-dir", type=Path, default=Path("data/rlds"), help="default: data/rlds")
    add("--version", default="1.0.0", help="default: 1.0.0")
    add("--method", default="lstm", help="annotator of ρ; 'none' writes a dataset without (default: lstm)")
    add("--seed", type=int, default=0, help="of the annotator (default: 0)")
    add("--val-fraction", type=float, default=0.1, help="default: 0.1")
    add("--option", type=pair, action="append", default=[], metavar="KEY=VALUE", help="option of the annotator")
    add("--annotator", type=Path, help="folder of a saved annotator: label with it, fit nothing")
    add("--fit-episodes", type=int, help="fit the annotator on so many of `train` (default: all)")
    add("--workers", type=int, default=2, help="processes (default: 2)")
    add("--overwrite", action="store_true", help="replace a dataset that was made differently")
    add("--dry-run", action="store_true", help="write nothing but a picture of the first episode with ρ")
    add("--beam", nargs="*", metavar="FLAG", help="run on Apache Beam; flags go to its runner")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.demos.source import open_source
    from gap_vla.rlds import annotate, convert
    from gap_vla.rlds.shards import run_on_beam

    source = open_source(options.source, fields_from(options), options.kind)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("method", "seed", "val_fraction")}
    how["options"] = dict(options.option)
    if options.dry_run:
        print(source.account(), flush=True)
        picture, given = Path(f"{options.name}_dry_run.png"), {"seed": options.seed, **how["options"]}
        annotate.show_episode(source, picture, method=options.method, annotator=options.annotator, options=given)
        print(f"picture: {picture}")
        return
    flags = [f"--{flag.lstrip('-')}" for flag in options.beam or ()]
    path = convert.build_dataset(
        source,
        options.data_dir,
        options.name,
        version=options.version,
        annotator=options.annotator,
        fit_episodes=options.fit_episodes,
        workers=options.workers,
        overwrite=options.overwrite,
        runner=None if options.beam is None else functools.partial(run_on_beam, options=flags),
        **how,
    )
    print(f"dataset: {path}")
    print(f"check it: gap-vla check-dataset {shlex.quote(str(path))}")


@command
def convert(argv: list[str] | None = None) -> None:
    """Writes demonstrations of any known format as a LeRobot dataset or as robomimic's HDF5, with their ρ if they have
    one. LeRobot's own writer decides the format: 0.3.3 writes v2.1, 0.4 and later v3.

    Examples:
        gap-vla convert data/rlds/threading/1.0.0 --out threading_lerobot --fps 20
        gap-vla convert demos.hdf5 --out demos_lerobot --tables       # pictures as PNG, not as films
        gap-vla convert lerobot/pusht --out pusht.hdf5

    RLDS is written by build-dataset; its --method none keeps the ρ that is stored.
    """
    parser = command_parser(convert)
    add = parser.add_argument
    _add_source(parser, "file or folder of demonstrations, the folder of a dataset version, or a name on the hub")
    add("--out", type=Path, required=True, help="folder of a LeRobot dataset, or a file .hdf5")
    add("--fps", type=float, help="steps a second (default: as the source says, else 20)")
    add("--tables", action="store_true", help="LeRobot's pictures as PNG in its tables, not as films")
    add("--overwrite", action="store_true", help="replace OUT once the new one is complete")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.demos import export

    how = {"fps": options.fps, "films": not options.tables, "overwrite": options.overwrite}
    print(f"written: {export.convert(_source(options), options.out, **how)}")


@command
def check_dataset(argv: list[str] | None = None) -> int:
    """Checks demonstrations or a dataset, of whatever origin, and writes a page with pictures.

    Exit status 0: usable, 1: something would spoil a training, 2: it could not be checked.

    Examples:
        gap-vla check-dataset data/rlds/threading/1.0.0
        gap-vla check-dataset ~/tensorflow_datasets/bridge_dataset/1.0.0 --layout bridge --out bridge_check
        gap-vla check-dataset lerobot/so101_pick
    """
    parser = command_parser(check_dataset)
    add = parser.add_argument
    _add_source(parser, "RLDS version, LeRobot folder, HDF5 file, folder of npz or pickles")
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
    from gap_vla.demos.source import open_source
    from gap_vla.rlds.checking import check_source

    report = check_source(open_source(options.source, fields_from(options), options.kind), options.show)
    print(report.text())
    print(f"page: {report.save(out)}")
    return report.exit_status(options.strict)
