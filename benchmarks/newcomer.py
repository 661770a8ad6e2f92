"""How long a newcomer waits, once the packages are installed: for a picture, for ρ of a LeRobot folder, for a policy.

    python benchmarks/newcomer.py               # in a new empty folder; about ten minutes with --policy

Every line is a command of the README or of the tutorial about one's own data, in a process of its own. The LeRobot
folder is `tests/data/lerobot/v30_image`, two episodes of 12 and 9 steps that LeRobot's own code wrote.
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
    "ρ in a LeRobot folder": (f"gap-vla build-dataset {ROOT}/tests/data/lerobot/v30_image --kind lerobot --name mine",),
    "a trained policy": (f"gap-vla finetune --config {ROOT}/finetune_configs/threading.py",),
}
BOUNDS = {"a first picture": 3, "ρ in a LeRobot folder": 2, "a trained policy": 10}
"""Minutes."""


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="store_true", help="also the main job, with its 20 rollouts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for what, words in PATHS.items():
            if what == "a trained policy" and not options.policy:
                continue
            started = time.monotonic()
            for line in words:
                name, *rest = line.split()
                call = [str(Path(sys.executable).with_name(name)), *rest]
                found = subprocess.run(call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                if found.returncode:
                    raise UserError(f"{line} ended with status {found.returncode}: {found.stdout[-2000:]}")
            print(f"{what:24} {time.monotonic() - started:6.0f} s   bound {60 * BOUNDS[what]} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
