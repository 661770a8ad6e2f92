"""Collects demonstrations of a scripted expert in simulation and writes them in robomimic's HDF5 layout.

Example (about 90 s on two free cores):
    gap-vla collect-demos --task threading --episodes 100 --out data/threading.hdf5
"""

from __future__ import annotations

from pathlib import Path

from gap_vla.cli.arguments import Cameras, command_parser, pixels, processes, real, seed, whole
from gap_vla.core.errors import command


@command
def main(argv: list[str] | None = None) -> None:
    from gap_vla.sim import TASK_NAMES, VARIANT_NAMES

    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--task", required=True, help=f"one of: {', '.join(TASK_NAMES)}")
    kept = "number of successful episodes to keep (default: 100)"
    add("--episodes", type=whole(1), default=100, help=kept)
    add("--out", type=Path, required=True, help="HDF5 file to write")
    add("--overwrite", action="store_true", help="replace the file, its contact sheet and its video")
    add("--seed", type=seed, default=0, help="seed of the collection (default: 0)")
    add("--image-size", type=pixels, default=64, help="height and width in pixels (default: 64)")
    recorded = "pictures to record: primary, wrist, `primary wrist`, or none (default: primary)"
    add("--cameras", action=Cameras, default=("primary",), help=recorded)
    add("--camera", default="near", help="view of the primary camera: near, or a stock camera's name (default: near)")
    noise = (
        "standard deviation of the disturbance of executed actions, in action units; the recorded label stays the "
        "expert's clean action (default: 0)"
    )
    add("--action-noise", type=real(0, 1), default=0.0, help=noise)
    add("--variant", default="default", help=f"one of: {', '.join(VARIANT_NAMES)} (default: default)")
    add("--workers", type=processes, default=2, help="parallel processes (default: 2)")
    shown = "episodes in the contact sheet and the video beside the file; 0 for none"
    add("--show", type=whole(0), default=4, help=shown)
    add("--quiet", action="store_true", help="no progress on stderr")
    options = parser.parse_args(argv)
    from gap_vla.core.files import claim
    from gap_vla.sim.collection import collect_demos, contact_sheet, video

    sheet, film = options.out.with_suffix(".png"), options.out.with_suffix(".mp4")
    if draw := bool(options.show and options.cameras):
        for path in (sheet, film):
            claim(path, overwrite=options.overwrite)
    asked = {name: value for name, value in vars(options).items() if name not in ("episodes", "show", "quiet")}
    print(collect_demos(**asked, n=options.episodes, progress=not options.quiet))
    if draw:
        print(contact_sheet(options.out, sheet, options.show), video(options.out, film, options.show), sep="\n")
