"""Image features of the last frames of every episode, each computed once: a history of five costs one frame a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gap_vla.policies.policy import SmallPolicy
from gap_vla.rollouts.history import EpisodeHistory


class FrameFeatures:
    """Remembers features by episode and step; frames that no window shows any more are forgotten.

    Args:
        policy: in evaluation mode, so that a frame's features do not depend on the other frames.
        sizes: the numbers of frames that are encoded at once (filled up with copies), ascending.
    """

    def __init__(self, policy: SmallPolicy, sizes: Sequence[int]) -> None:
        self._policy, self._sizes = policy, sizes
        self._known: dict[int, dict[int, torch.Tensor]] = {}

    def forget(self, episode: int) -> None:
        self._known.pop(episode, None)

    def of(self, episodes: Sequence[EpisodeHistory], inputs: Sequence[Mapping[str, np.ndarray]]) -> torch.Tensor:
        """Features of each episode's window.

        Args:
            inputs: what `EpisodeHistory.inputs` gave for each of them.

        Returns:
            float32[B, I, D], I frames.
        """
        frames = self._policy.config.image_history
        windows, missing = [], {}
        for episode, shown in zip(episodes, inputs):
            steps = [max(0, episode.steps - frames + place) for place in range(frames)]
            known = self._known.setdefault(episode.number, {})
            for gone in [step for step in known if step < steps[0]]:
                del known[gone]
            for place, step in enumerate(steps):
                if step not in known:
                    missing[episode.number, step] = (shown, place - frames)
            windows.append((known, steps))
        wanted = list(missing)
        for start in range(0, len(wanted), self._sizes[-1]):
            some = wanted[start : start + self._sizes[-1]]
            for (number, step), feature in zip(some, self._encode([missing[key] for key in some])):
                self._known[number][step] = feature
        return torch.stack([torch.stack([known[step] for step in steps]) for known, steps in windows])

    def _encode(self, frames: Sequence[tuple[Mapping[str, np.ndarray], int]]) -> torch.Tensor:
        size = next(size for size in self._sizes if size >= len(frames))
        filled = [*frames, *[frames[0]] * (size - len(frames))]
        device = next(self._policy.parameters()).device
        images = {}
        for camera in self._policy.cameras:
            stacked = np.stack([shown[f"image_{camera}"][place] for shown, place in filled])[:, None]
            images[f"image_{camera}"] = torch.from_numpy(stacked).to(device)
        return self._policy.features(images)[: len(frames), 0]
