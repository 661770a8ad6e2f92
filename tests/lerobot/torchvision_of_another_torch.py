"""Imports torchvision, whose compiled part is built for another torch than the one that pip installs for CPUs.

`make test-lerobot` puts it into LeRobot's environment, where every Python starts with it. LeRobot's policies use none
of the compiled part.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):  # its import describes these operators, so they must have a name
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [n for n in sys.modules if n.startswith("torchvision.") or n == "torchvision"]:
        del sys.modules[name]
    import torchvision  # noqa: F401
