"""How long a newcomer waits: for a picture, from `pip install` to ρ of an SO-101's recordings, for a policy.

    python benchmarks/newcomer.py               # in a new empty folder; about ten minutes with --policy

Every line is a command of the README, of docs/YOUR_ROBOT.md or of the first tutorial, in a process of its own. The
recordings are a LeRobot folder of 20 made-up episodes with pictures, as the suite's reader is tested with: 5 joints in
degrees and a gripper. What pip has downloaded before is in its cache, if it has one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gap_vla.core.errors import UserError, command

ROOT = Path(__file__).parents[1]
PATHS = {
    "a first picture": (
        "gap-vla collect-demos --task assembly --episodes 6 --image-size 32 --out demos.hdf5",
        "gap-vla show-episode demos.hdf5 --method lstm --out episode.html",
    ),
    "pip install to ρ, SO-101": (
        "python -m venv new",
        f"new/bin/pip install --quiet -c {ROOT}/constraints.txt -e {ROOT}[phases]",
        "new/bin/gap-vla annotate so101",
    ),
    "a trained policy": (f"gap-vla finetune --config {ROOT}/finetune_configs/threading.py",),
}
BOUNDS = {"a first picture": 3, "pip install to ρ, SO-101": 3, "a trained policy": 10}
"""Minutes."""


def write_so101(folder: Path) -> None:
    """20 episodes of about 100 steps."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers.demonstrations import write_lerobot
    from tests.helpers.layouts import SO101, moves, so101_joints

    recorded = [moves(seed) for seed in range(20)]
    front = "observation.images.front"
    episodes = [{"task": "pick up", "columns": so101_joints(one), "images": {front: one.frames}} for one in recorded]
    names = {"observation.state": SO101, "action": SO101}
    write_lerobot(folder, episodes, names, fps=30, robot_type="so101_follower")


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="store_true", help="also the main job, with its 20 rollouts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_so101(Path(folder) / "so101")
        for what, words in PATHS.items():
            if what == "a trained policy" and not options.policy:
                continue
            started = time.monotonic()
            for line in words:
                name, *rest = line.split()
                call = [name if "/" in name else str(Path(sys.executable).with_name(name)), *rest]
                found = subprocess.run(call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                if found.returncode:
                    raise UserError(f"{line} ended with status {found.returncode}: {found.stdout[-2000:]}")
            print(f"{what:24} {time.monotonic() - started:6.0f} s   bound {60 * BOUNDS[what]} s", flush=True)
            if what == "a trained policy":
                print(*found.stdout.splitlines()[-5:], sep="\n", flush=True)  # how often it succeeds


if __name__ == "__main__":
    sys.exit(main())
