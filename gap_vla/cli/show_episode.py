"""Shows one episode: camera images with a slider, ρ, change points, motion signals and the expert's true switches, in
one HTML page that needs no network; or as a video or a picture.

Examples:
    gap-vla show-episode data/rlds/threading/1.0.0 --episode 3 --out episode.html
    gap-vla show-episode demos.hdf5 --out episode.html        # finds ρ as `annotate` does, if none is stored
    gap-vla show-episode demos.hdf5 --method gaussian         # by another method than the stored one
    gap-vla show-episode demos_rho.hdf5 --out episode.mp4 --fps 20
    gap-vla show-episode demos_rho.hdf5 --out episode.png
"""

from __future__ import annotations

from pathlib import Path

from gap_vla.cli.arguments import command_parser
from gap_vla.core.errors import EpisodeError, command
from gap_vla.demos.fields import add_options, fields_from


@command
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("source", type=Path, help="file or folder of demonstrations, or the folder of a dataset version")
    add("--episode", type=int, default=0, help="its number (default: 0)")
    add("--out", type=Path, default=Path("episode.html"), help=".html (default), .mp4 or .png")
    add("--kind", help="format of the source (default: what it looks like)")
    add("--split", help="RLDS: number the episodes of this split alone")
    add("--camera", help="image to show, such as image_wrist (default: the first)")
    add("--fps", type=float, default=20, help="of a video (default: 20)")
    add("--method", help="find ρ by this method, fitted on all episodes, instead of what is stored")
    add("--annotator", type=Path, help="find ρ by this saved annotator")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.demos.source import open_source
    from gap_vla.rlds.annotate import show_episode

    source = open_source(options.source, fields_from(options), options.kind)
    print(source.account(), flush=True)
    how = {name: getattr(options, name) for name in ("camera", "fps", "method", "annotator")}
    number = options.episode
    if options.split:
        numbers = [i for i, split in enumerate(getattr(source, "splits", ())) if split == options.split]
        if not 0 <= number < len(numbers):
            raise EpisodeError(f"{options.source}: split {options.split} has {len(numbers)} episodes; no {number}")
        number = numbers[number]
    print(show_episode(source, options.out, episode=number, **how))
