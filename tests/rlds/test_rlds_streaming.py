"""Streaming gives the windows of the random-access reader, with their goals and augmentations, and resumes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_demos import make_episode, same

from gap_vla.core.episode import EpisodeError
from gap_vla.rlds import EpisodeStore, StreamingLoader, WindowLoader, write_rlds

OPTIONS: dict[str, Any] = {"split": "train", "window_size": 2, "action_horizon": 3, "batch_size": 16, "seed": 0}


CHANGES: list[dict[str, Any]] = [
    {},
    {"upstream_action_mask": True, "rho": "current", "normalization": "bounds"},
    {"goal": "uniform", "max_goal_distance": 4, "seed": 3},
    {"goal": "uniform", "language": False, "proprio": False},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_streaming_gives_the_loaders_windows(store: EpisodeStore, version_dir: Path, changes: dict[str, Any]) -> None:
    options = {**OPTIONS, **changes, "train": False, "image_keys": ("image_primary", "image_wrist")}
    count = 0
    for ours, streamed in zip(WindowLoader(store, **options), StreamingLoader(version_dir, **options), strict=True):
        same(ours, streamed)
        count += len(ours["rho"])
    assert count == store.split("train").steps


def test_goals_and_augmentation_in_training_are_those_of_the_window(store: EpisodeStore, version_dir: Path) -> None:
    steps = store.split("train").steps
    batch_size = next(n for n in (7, 5, 3, 2, 1) if steps % n == 0)
    augment = {"image_primary": {"crop_scale": (0.5, 0.9), "brightness": 0.2, "hue": 0.1}}
    options = {**OPTIONS, "batch_size": batch_size, "goal": "uniform", "augment": augment, "seed": 5}
    epochs = []
    for loader in (WindowLoader(store, **options), StreamingLoader(version_dir, **options, shuffle_windows=1)):
        for _ in range(2):
            epochs.append(one_epoch(loader, steps // batch_size))
    (random_1, random_2, streamed_1, streamed_2) = epochs
    same(random_1, streamed_1)
    same(random_2, streamed_2)
    assert (random_1["goal"] != random_2["goal"]).any(), "another epoch, other goals"
    assert (random_1["image"] != random_2["image"]).any()


def one_epoch(loader: Any, batches: int) -> dict[str, np.ndarray]:
    """What is drawn at random in the next batches, in the order of the windows."""
    rows: list[tuple[bytes, Any, Any, Any]] = []
    for batch in itertools.islice(loader, batches):
        observation, task = batch["observation"], batch["task"]
        for i in range(len(batch["rho"])):
            window = batch["rho"][i].tobytes() + observation["timestep"][i].tobytes()
            rows.append((window, observation["image_primary"][i], task["image_primary"][i], task["timestep"][i]))
    rows.sort(key=lambda row: row[0])
    image, goal_image, goal = (np.stack([row[i] for row in rows]) for i in (1, 2, 3))
    return {"image": image, "goal_image": goal_image, "goal": goal}


@pytest.mark.parametrize("changes", [{}, {"goal": "uniform", "augment": {"image_primary": {"brightness": 0.1}}}])
def test_streaming_resumes(version_dir: Path, changes: dict[str, Any]) -> None:
    stream = StreamingLoader(version_dir, **OPTIONS, **changes)
    for _ in range(3):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    expected = next(stream)
    again = StreamingLoader(version_dir, **OPTIONS, **changes)
    again.restore(state)
    same(next(again), expected)
    with pytest.raises(ValueError, match="other data, seed, batch size or settings"):
        StreamingLoader(version_dir, **{**OPTIONS, "seed": 1}).restore(state)


def test_several_datasets_can_be_streamed(store: EpisodeStore, version_dir: Path, tmp_path: Path) -> None:
    other = write_rlds([make_episode(i + 50) for i in range(4)], tmp_path, "other", val_fraction=0.0)
    options = {**OPTIONS, "goal": "uniform"}
    both = [(store, 0.75), (EpisodeStore.build(other), 0.25)]
    streamed = StreamingLoader([(version_dir, 0.75), (other, 0.25)], **options, train=False)
    for ours, theirs in zip(WindowLoader(both, **options, train=False), streamed, strict=True):
        same(ours, theirs)
    assert len(streamed.statistics) == 2
    texts = [
        t
        for b in itertools.islice(StreamingLoader([(version_dir, 0.8), (other, 0.2)], **options), 20)
        for t in b["rho"]
    ]
    own = set(store.split("train").fields["rho"].tolist())
    share = np.mean([float(rho[-1]) in own for rho in texts])
    assert 0.7 < share < 0.9
    small = write_rlds([make_episode(1, size=8)], tmp_path, "small")
    with pytest.raises(ValueError, match=r"observation/image_primary is \(2, 8, 8, 3\)"):
        StreamingLoader([(version_dir, 0.5), (small, 0.5)], **options)
    plain = write_rlds([make_episode(1, annotated=False)], tmp_path, "plain")
    with pytest.raises(EpisodeError, match="no rho"):
        StreamingLoader([(version_dir, 0.5), (plain, 0.5)], **options)


def test_processes_share_the_episodes_of_a_stream(store: EpisodeStore, version_dir: Path) -> None:
    options = {**OPTIONS, "train": False, "process_count": 2}
    parts = [
        np.concatenate([b["rho"][:, -1] for b in StreamingLoader(version_dir, **options, process_index=i)])
        for i in (0, 1)
    ]
    assert sorted(np.concatenate(parts).tolist()) == sorted(store.split("train").fields["rho"].tolist())
    assert not set(parts[0].tolist()) & set(parts[1].tolist())
