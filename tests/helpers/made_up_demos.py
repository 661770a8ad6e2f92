"""Demonstrations that need no simulator."""

import numpy as np

from gap_vla.core.episode import Episode


def made_up_episodes(count: int = 6, steps: int = 12, size: int = 32, seed: int = 0) -> list[Episode]:
    """A dot moves towards a target that only the picture shows."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        target, position = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
        frames, states, actions = [], [], []
        for _ in range(steps):
            frame = np.zeros((size, size, 3), np.uint8)
            column, row = ((target + 1) / 2 * (size - 4)).astype(int)
            frame[row : row + 4, column : column + 4, 0] = 255
            action = np.clip(target - position, -0.2, 0.2)
            frames.append(frame)
            states.append(np.r_[position, 0, 1, 0, 0, 0, 0.04, -0.04])
            actions.append(np.r_[action / 0.2, np.zeros(4), 1.0])
            position = position + action
        made.append(
            Episode(
                {"image_primary": np.stack(frames)},
                np.stack(states).astype(np.float32),
                np.stack(actions).astype(np.float32),
                "reach the dot",
                rho=rng.uniform(0, 1, steps).astype(np.float32),
                change_point=np.arange(steps) == steps // 2,
                metadata={"episode_id": number, "file_path": "made up"},
            )
        )
    return made
