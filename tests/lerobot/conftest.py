"""LeRobot imports torchvision, which may be built for another torch than pip installed: the one for CPUs."""

import importlib.util

from tests.helpers.lerobot_policies import load_torchvision

if importlib.util.find_spec("torchvision"):
    load_torchvision()
