"""Shows one episode: camera images with a slider, ρ, change points, motion signals and the expert's true switches, in
one HTML page that needs no network; or as a video or a picture.

Examples:
    gap-vla show-episode data/rlds/threading/1.0.0 --episode 3 --out episode.html
    gap-vla show-episode demos.hdf5 --out episode.html --method lstm     # labels it first, writes no labels
    gap-vla show-episode demos_rho.hdf5 --out episode.mp4 --fps 20
    gap-vla show-episode demos_rho.hdf5 --out episode.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gap_vla.cli.arguments import command_parser, real, whole
from gap_vla.core.errors import command, keeping


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_source()
    add = parser.add_argument
    add("--episode", type=whole(0, 2**31 - 1), default=0, help="its number (default: 0)")
    add("--split", default="train", help="RLDS: split (default: train)")
    add("--out", type=Path, default=Path("episode.html"), help=".html (default), .mp4 or .png")
    add("--camera", help="image to show, such as image_wrist (default: the first)")
    add("--fps", type=real(0.1, 1000, "pictures per second"), default=20, help="of a video (default: 20)")
    add("--method", help="label the episode with this method, fitted on it alone, instead of its stored labels")
    add("--annotator", type=Path, help="label the episode with this saved annotator")
    arguments = parser.parse_args(argv)
    if arguments.annotator:
        parser.refuse_idle("with --annotator, which knows its own", "method")
    if arguments.out.suffix.lower() != ".mp4":
        parser.refuse_idle("unless --out is a video, .mp4", "fps")
    parser.refuse_idle_for_source(arguments, "split")
    return arguments


@command
def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    from gap_vla.rlds.annotating.files import show_episode

    with keeping("nothing was written"):
        where = show_episode(**vars(arguments))
    print(where)
