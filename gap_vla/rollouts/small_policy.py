"""A small torch policy in the rollouts: history, normalised proprioception, actions in the robot's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from gap_vla.policies.policy import SmallPolicy
from gap_vla.policies.saving import load_saved_policy, parameter_digest
from gap_vla.rollouts.chunk_policy import ChunkPolicy, EpisodeHistory


class SmallTorchPolicy(ChunkPolicy):
    """Runs a `SmallPolicy` for many episodes at once.

    Args:
        policy: is put into evaluation mode.
        statistics: of the dataset it was trained on.
        threads: processor threads, of the whole process. Small networks gain little by a second one, and on a busy
            machine waiting for it took 27 times the processor time.
        **options: of `ChunkPolicy`.
    """

    def __init__(
        self, policy: SmallPolicy, statistics: Mapping[str, Any], *, name: str = "", threads: int = 1, **options: Any
    ) -> None:
        inputs: dict[str, tuple[int, ...]] = {f"image_{camera}": policy.image_shape for camera in policy.cameras}
        if policy.uses_proprio:
            inputs["proprio"] = (policy.proprio_dim,)
        super().__init__(
            inputs,
            statistics,
            window=policy.config.window_size,
            horizon=policy.config.action_horizon,
            action_dim=policy.action_dim,
            samples=policy.head.samples,
            name=name or policy.method,
            details={"parameters": parameter_digest(policy)},
            **options,
        )
        self.model, self._threads = policy.eval(), threads
        self.image_size = policy.image_shape[0]  # also of a policy that does not look
        self._device = next(policy.parameters()).device

    @classmethod
    def load(cls, run_or_checkpoint: str | Path, *, device: str = "cpu", **options: Any) -> SmallTorchPolicy:
        """From a run directory of the torch backend or its `checkpoint/`.

        Args:
            device: where the network runs.
            **options: of the class.
        """
        path = Path(run_or_checkpoint)
        directory = path / "checkpoint" if (path / "checkpoint").is_dir() else path
        policy, normalization, statistics = load_saved_policy(directory)
        loaded = cls(policy.to(device), statistics, normalization=normalization, source=str(directory), **options)
        loaded.camera = policy.view
        return loaded

    @torch.inference_mode()
    def _normalized_chunks(self, episodes: Sequence[EpisodeHistory]) -> Float[np.ndarray, "B H A"]:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        inputs = [episode.inputs() for episode in episodes]
        features = self._features(episodes, inputs) if self.model.uses_vision else None
        proprio = None
        if self.proprio_dim:
            steps = self.model.config.proprio_history
            proprio = torch.from_numpy(np.stack([one["proprio"][-steps:] for one in inputs])).to(self._device)
        chunk: np.ndarray = self.model.predict(features, proprio, self._generators(episodes)).float().cpu().numpy()
        return chunk

    def _features(
        self, episodes: Sequence[EpisodeHistory], inputs: Sequence[Mapping[str, np.ndarray]]
    ) -> Float[torch.Tensor, "B I D"]:
        """Features of each episode's last I frames; each frame is encoded once, and kept while a window shows it.

        Args:
            inputs: what `EpisodeHistory.inputs` gave for each of them.
        """
        frames = self.model.config.image_history
        missing = {}
        for episode, shown in zip(episodes, inputs):
            steps = [max(0, episode.steps - frames + place) for place in range(frames)]
            episode.kept = {step: episode.kept.get(step) for step in steps}
            for place, step in enumerate(steps):
                if episode.kept[step] is None:
                    missing[episode.number, step] = (episode, shown, place - frames)
        wanted = list(missing.items())
        for start in range(0, len(wanted), self._sizes[-1]):
            some = wanted[start : start + self._sizes[-1]]
            encoded = self._encode([(shown, place) for _, (_, shown, place) in some])
            for ((_, step), (episode, _, _)), feature in zip(some, encoded):
                episode.kept[step] = feature
        windows = [[episode.kept[max(0, episode.steps - frames + n)] for n in range(frames)] for episode in episodes]
        return torch.stack([torch.stack(window) for window in windows])

    def _encode(self, frames: Sequence[tuple[Mapping[str, np.ndarray], int]]) -> Float[torch.Tensor, "N D"]:
        size = next(size for size in self._sizes if size >= len(frames))
        filled = [*frames, *[frames[0]] * (size - len(frames))]
        images = {}
        for key in (f"image_{camera}" for camera in self.cameras):
            stacked = np.stack([shown[key][place] for shown, place in filled])[:, None]
            images[key] = torch.from_numpy(stacked).to(self._device)
        return self.model.features(images)[: len(frames), 0]

    def _generators(self, episodes: Sequence[EpisodeHistory]) -> list[torch.Generator] | None:
        if not self._samples:
            return None
        found = []
        for episode in episodes:
            source = np.random.SeedSequence([self._seed, abs(episode.number), episode.steps])
            found.append(torch.Generator().manual_seed(int(source.generate_state(1, np.uint32)[0])))
        return found
