"""A small torch policy in the rollouts: history, normalised proprioception, actions in the robot's units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from gap_vla.config import ConfigError
from gap_vla.evaluation.chunks import ChunkExecutor, RecedingHorizon, TemporalEnsemble
from gap_vla.evaluation.frame_features import FrameFeatures
from gap_vla.evaluation.history import EpisodeHistory
from gap_vla.evaluation.octo_policy import _resized
from gap_vla.evaluation.policy import PolicyError
from gap_vla.policies.policy import SmallPolicy
from gap_vla.policies.saving import load_saved_policy, parameter_digest
from gap_vla.rlds.statistics import normalize, unnormalize


class SmallTorchPolicy:
    """Runs a `SmallPolicy` for many episodes at once.

    The network is called with two batch sizes only (`batch_size` and a quarter of it, filled up with copies). Heads
    that sample draw from (seed, episode, step), so an episode does not depend on which others run beside it.

    Args:
        policy: in evaluation mode.
        statistics: of the dataset it was trained on.
        normalization: of proprioception and actions in training.
        execute: actions executed of each predicted chunk.
        ensemble: predict at every step and average the chunks instead.
        threads: processor threads, of the whole process. Small networks gain little by a second one, and on a busy
            machine waiting for it took 27 times the processor time.

    Raises:
        PolicyError: an impossible `execute`.
    """

    def __init__(
        self,
        policy: SmallPolicy,
        statistics: Mapping[str, Any],
        *,
        normalization: str = "normal",
        execute: int = 1,
        ensemble: bool = False,
        ensemble_decay: float = 0.0,
        batch_size: int = 8,
        seed: int = 0,
        name: str = "",
        threads: int = 1,
    ) -> None:
        horizon = policy.config.action_horizon
        if not 1 <= execute <= horizon:
            raise PolicyError(f"execute={execute}: the model predicts {horizon} actions at a time")
        self.name = name or policy.method
        self.source: str | None = None
        self._policy, self._statistics, self._normalization = policy, statistics, normalization
        self._window, self._horizon, self._seed, self._threads = policy.config.window_size, horizon, seed, threads
        self._sizes = sorted({-(-batch_size // 4), batch_size})
        self._features = FrameFeatures(policy, self._sizes)
        self._device = next(policy.parameters()).device
        self._keys = [f"image_{camera}" for camera in policy.cameras] + ["proprio"] * policy.uses_proprio
        self._new_chunks: Callable[[], ChunkExecutor] = (
            (lambda: TemporalEnsemble(horizon, ensemble_decay)) if ensemble else (lambda: RecedingHorizon(execute))
        )
        self.identity: dict[str, Any] = {
            "execute": "ensemble" if ensemble else execute,
            "normalization": normalization,
            **({"sampling_seed": seed} if policy.head.samples else {}),
            "parameters": parameter_digest(policy),
        }
        self._episodes: dict[int, EpisodeHistory] = {}

    @classmethod
    def load(cls, run_or_checkpoint: str | Path, *, device: str = "cpu", **options: Any) -> SmallTorchPolicy:
        """From a run directory of `train_small` or its `checkpoint/`.

        Args:
            device: where the network runs.
            **options: of the class.

        Raises:
            PolicyError: no small policy there, or a damaged one.
        """
        path = Path(run_or_checkpoint)
        directory = path / "checkpoint" if (path / "checkpoint").is_dir() else path
        try:
            policy, account, statistics = load_saved_policy(directory)
        except ConfigError as error:
            raise PolicyError(str(error)) from error
        loaded = cls(policy.to(device), statistics, normalization=account["normalization"], **options)
        loaded.source = str(run_or_checkpoint)
        return loaded

    @property
    def model(self) -> SmallPolicy:
        """The network, for probes."""
        return self._policy

    @property
    def action_dim(self) -> int:
        return self._policy.action_dim

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that the policy looks through: `primary`, `wrist`."""
        return self._policy.cameras

    @property
    def image_size(self) -> int:
        return self._policy.image_shape[0]

    @property
    def uses_proprio(self) -> bool:
        return self._policy.uses_proprio

    @property
    def action_horizon(self) -> int:
        """Actions in a predicted chunk."""
        return self._horizon

    @property
    def window_size(self) -> int:
        """Observations that the policy looks back on, the present one included."""
        return self._window

    def warm_up(self) -> None:
        """Runs every batch size once, so that no later call has to wait for torch's preparations."""
        shapes = {key: self._shape(key) for key in self._keys}
        for size in self._sizes:
            rows = {
                key: np.zeros((size, *shape), np.uint8 if key.startswith("image_") else np.float32)
                for key, shape in shapes.items()
            }
            numbers = [-1 - row for row in range(size)]
            self.reset(numbers)
            self.predict(rows, numbers)
            self.forget(numbers)

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            self._features.forget(episode)
            self._episodes[episode] = EpisodeHistory(episode, self._window, self._new_chunks())

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """One action per row, in the units of the training data.

        Raises:
            PolicyError: an input is missing, or has another shape than in training.
        """
        episodes = self._show(observations, episode_ids)
        asking = [episode for episode in episodes if episode.chunks.wants_chunk]
        for episode, chunk in zip(asking, self._predict(asking)):
            episode.chunks.add(chunk)
        return np.stack([episode.chunks.next() for episode in episodes]).astype(np.float32)

    def predict(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B H A"]:
        """The whole chunk for each row, predicted anew; history as in `act`, executed chunks untouched."""
        return np.stack(self._predict(self._show(observations, episode_ids)))

    def forget(self, episode_ids: Sequence[int]) -> None:
        """These episodes are over."""
        for episode in episode_ids:
            self._features.forget(episode)
            self._episodes.pop(episode, None)

    def _shape(self, key: str) -> tuple[int, ...]:
        return self._policy.image_shape if key.startswith("image_") else (self._policy.proprio_dim,)

    def _show(self, observations: Mapping[str, np.ndarray], episode_ids: Sequence[int]) -> list[EpisodeHistory]:
        prepared = {}
        for key in self._keys:
            if key not in observations:
                raise PolicyError(
                    f"the policy takes {key}, the task gives {sorted(observations)}; "
                    "was it trained for this task, with these cameras?"
                )
            value = observations[key]
            if key.startswith("image_"):
                value = _resized(value, self._shape(key))
            elif value.shape[1:] != self._shape(key):
                raise PolicyError(
                    f"the policy takes {key} of width {self._shape(key)[0]}, the task gives {value.shape[1]}: "
                    "it was trained for another task or robot"
                )
            if key == "proprio":
                value = normalize(value, self._statistics["proprio"], self._normalization)
            prepared[key] = value
        episodes = [self._episodes[episode] for episode in episode_ids]
        for row, episode in enumerate(episodes):
            episode.see({key: value[row] for key, value in prepared.items()})
        return episodes

    def _predict(self, episodes: Sequence[EpisodeHistory]) -> list[Float[np.ndarray, "H A"]]:
        chunks: list[np.ndarray] = []
        for start in range(0, len(episodes), self._sizes[-1]):
            chunks.extend(self._predict_batch(episodes[start : start + self._sizes[-1]]))
        return chunks

    @torch.inference_mode()
    def _predict_batch(self, episodes: Sequence[EpisodeHistory]) -> Float[np.ndarray, "B H A"]:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        size = next(size for size in self._sizes if size >= len(episodes))
        filled = [*episodes, *[episodes[0]] * (size - len(episodes))]
        inputs = [episode.inputs() for episode in filled]
        features = self._features.of(filled, inputs) if self._policy.uses_vision else None
        proprio = None
        if self.uses_proprio:
            steps = self._policy.config.proprio_history
            proprio = torch.from_numpy(np.stack([one["proprio"][-steps:] for one in inputs])).to(self._device)
        chunk = self._policy.predict(features, proprio, self._generators(filled))
        normalized = chunk.float().cpu().numpy()[: len(episodes)]
        return unnormalize(normalized, self._statistics["action"], self._normalization)

    def _generators(self, episodes: Sequence[EpisodeHistory]) -> Any:
        if not self._policy.head.samples:
            return None
        found = []
        for episode in episodes:
            source = np.random.SeedSequence([self._seed, abs(episode.number), episode.steps])
            found.append(torch.Generator().manual_seed(int(source.generate_state(1, np.uint32)[0])))
        return found
