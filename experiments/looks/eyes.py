"""Does a frozen encoder see enough? The wrench's place on disassemble, read off the far camera's 80 pixels.

    python -m experiments.looks.eyes

Five times 96 pictures fit a linear map and 24 others are asked, each of another layout: with the hand where an episode
begins, and after it has moved up to 20 steps at random. Prints the mean distance in mm.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8

from experiments.looks.ridge import probe_positions
from gap_vla.drawing.markup import markdown_table
from gap_vla.policies.pretrained import lite0_maps
from gap_vla.sim import make

PICTURES, PIXELS, FIRST_LAYOUT, MOST_STEPS = 120, 80, 1000, 20


def pictures_and_places(moved: bool) -> tuple[UInt8[np.ndarray, "n h w 3"], Float[np.ndarray, "n 2"]]:
    """Pictures, and x and y of the wrench's ring (m), which turns in no layout."""
    env, rng = make("disassemble", image_size=PIXELS, camera="corner2"), np.random.default_rng(0)
    pictures, places = [], []
    for layout in range(FIRST_LAYOUT, FIRST_LAYOUT + PICTURES):
        observation = env.reset(seed=layout)[0]
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        action[2] = abs(action[2]) / 2  # up, away from the table
        for _ in range(rng.integers(MOST_STEPS) if moved else 0):
            observation = env.step(action)[0]
        pictures.append(observation["image_primary"])
        places.append(env.unwrapped.world.landmarks()["ring"][:2])
    return np.array(pictures), np.array(places)


def main() -> None:
    rows = [["hand", "mean place", "raw pixels", "`efficientnet_lite0`"]]
    for moved in (False, True):
        pictures, places = pictures_and_places(moved)
        maps = lite0_maps(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()).numpy()
        of_pixels, of_maps = (
            probe_positions(x.reshape(PICTURES, -1), places, np.arange(PICTURES)) for x in (pictures, maps)
        )
        errors = of_maps["mean_error"], of_pixels["error"], of_maps["error"]
        rows.append(["moved" if moved else "at its start", *(f"{1000 * error:.1f}" for error in errors)])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
