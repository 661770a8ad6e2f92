"""Shows one episode: camera images with a slider, ρ, change points, motion signals and the expert's true switches, in
one HTML page that needs no network; or as a video or a picture.

Examples:
    gap-vla show-episode data/rlds/threading/1.0.0 --episode 3 --out episode.html
    gap-vla show-episode demos.hdf5 --out episode.html --method lstm     # labels it first, writes no labels
    gap-vla show-episode demos_rho.hdf5 --out episode.mp4 --fps 20
    gap-vla show-episode demos_rho.hdf5 --out episode.png
"""

from __future__ import annotations

from pathlib import Path

from gap_vla.cli.arguments import command_parser
from gap_vla.core.errors import command
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
    add("--method", help="label the episode with this method, fitted on it alone, instead of its stored labels")
    add("--annotator", type=Path, help="label the episode with this saved annotator")
    add_options(parser)
    options = parser.parse_args(argv)
    from gap_vla.demos.source import kind_of, open_source
    from gap_vla.rlds.annotate import show_episode
    from gap_vla.rlds.source import RLDS

    fields = fields_from(options)
    if (options.kind or kind_of(options.source)) == "rlds":
        source = RLDS(options.source, fields, split=options.split)
    else:
        source = open_source(options.source, fields, options.kind)
    print(source.account(), flush=True)
    how = {name: getattr(options, name) for name in ("episode", "camera", "fps", "method", "annotator")}
    print(show_episode(source, options.out, **how))
