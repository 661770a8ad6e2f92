"""Small demonstrations for the tests of this folder: an arm that walks around right-angled corners."""

from pathlib import Path

import h5py
import numpy as np

from gap_vla.core.episode import Episode
from gap_vla.rlds.annotating import AnnotationJob
from gap_vla.rlds.annotating.files import KINDS, kind_of


def demos(number: int, arms: int = 1, leg: int = 20) -> list[Episode]:
    """Each of four legs of so many steps."""
    return [_demo(seed, arms, leg) for seed in range(number)]


def _demo(seed: int, arms: int, leg: int, turns: int = 4) -> Episode:
    rng = np.random.default_rng(seed)
    steps = turns * leg
    blocks = []
    for _ in range(arms):
        corners = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        path = np.cumsum(0.01 * np.repeat(corners[np.arange(turns) % 3], leg, axis=0), axis=0)
        path = np.concatenate([np.zeros((1, 3)), path[:-1]])
        fingers = np.where(np.arange(steps) <= steps // 2, 0.04, 0.0)[:, None] * [[1, -1]]
        blocks += [path, np.tile([1.0, 0, 0, 0], (steps, 1)), fingers]
    return Episode(
        images={"image_primary": rng.integers(0, 255, (steps, 16, 16, 3), dtype=np.uint8)},
        proprio=np.concatenate(blocks, axis=1).astype(np.float32),
        action=rng.uniform(-1, 1, (steps, 7 * arms)).astype(np.float32),
        language_instruction="walk around the corners",
        phase=np.repeat([f"leg {k}" for k in range(turns)], leg),
        metadata={"file_path": "memory", "episode_id": str(seed)},
    )


def read_episode(source: Path, index: int, split: str = "train", job: AnnotationJob | None = None) -> Episode:
    """Episode `index` of annotated or other files, with its images and, where there are, its labels."""
    return KINDS[kind_of(source)].read(source, index, job or AnnotationJob(), split)


def write_hdf5(path: Path, episodes: list[Episode]) -> Path:
    """robomimic's layout (quaternions xyzw)."""
    with h5py.File(path, "w") as file:
        for index, episode in enumerate(episodes):
            group = file.create_group(f"data/demo_{index}")
            group.attrs["num_samples"] = len(episode)
            group["actions"] = episode.action
            group["phase"] = [name.encode() for name in episode.phase]
            group["obs/image_primary"] = episode.images["image_primary"]
            for number, arm in enumerate(episode.arms):
                group[f"obs/robot{number}_eef_pos"] = arm.position
                group[f"obs/robot{number}_eef_quat"] = np.roll(arm.quaternion, -1, axis=1)
                group[f"obs/robot{number}_gripper_qpos"] = arm.gripper
    return path


def write_npz(folder: Path, episodes: list[Episode]) -> Path:
    folder.mkdir()
    for index, episode in enumerate(episodes):
        np.savez(folder / f"episode_{index}.npz", proprio=episode.proprio, phase=episode.phase, note=np.array("kept"))
    return folder
