"""What every network that predicts chunks of actions needs in rollouts: history, normalisation, batches, execution."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.core.identity import digest
from gap_vla.demos.arrays import resized
from gap_vla.rlds.statistics import normalize, unnormalize


class EpisodeHistory:
    """What one episode remembers: the last W observations, and what is left to execute of its chunk.

    The first observation fills the window, marked as padding, as in training.
    """

    def __init__(self, number: int, window: int) -> None:
        self.number, self.steps, self.instruction = number, 0, ""
        self.actions: deque[np.ndarray] = deque()  # to execute before the next prediction
        self.kept: dict[int, Any] = {}  # step to what a policy has computed of it
        self._window = window
        self._history: deque[dict[str, np.ndarray]] = deque(maxlen=window)

    def see(self, observation: dict[str, np.ndarray], instruction: str = "") -> None:
        self.instruction = instruction
        self._history.extend([observation] * (1 if self._history else self._window))
        self.steps += 1

    def inputs(self) -> dict[str, np.ndarray]:
        """The window: each observation [W, ...], `timestep` int32[W] and `timestep_pad_mask` bool[W]."""
        seen = np.arange(self._window) >= self._window - self.steps
        timestep = np.maximum(np.arange(self._window) + self.steps - self._window, 0).astype(np.int32)
        stacked = {key: np.stack([moment[key] for moment in self._history]) for key in self._history[0]}
        return {**stacked, "timestep": timestep, "timestep_pad_mask": seen}


class ChunkPolicy(abc.ABC):
    """Runs a network for many episodes at once; a subclass says how a batch of windows becomes normalised chunks.

    The network sees two batch sizes only (`batch_size` and a quarter of it, filled up with copies), so that compiled
    code is compiled twice at most. Heads that sample draw from (seed, episode, step), so an episode does not depend on
    which others run beside it.

    Args:
        inputs: shape of one step of each input: `image_<camera>` → (H, W, 3) and, if it is taken, `proprio` → (P,).
        statistics: of the training data, `action` and, if it is taken, `proprio`.
        normalization: of actions and proprioception in training.
        window: observations that the network looks back on, the present one included.
        horizon: actions in a predicted chunk.
        execute: actions executed of each predicted chunk.
        action_dim: dimensions that the network predicts; those beyond the statistics' are dropped.
        samples: whether the head draws its actions.
        details: entries for `identity`.
        source: the directory that it comes from, for messages and for whoever reads the result.

    Attributes:
        cameras: through which the policy looks: `primary`, `wrist`.
        image_size: height of the largest picture that the network takes (pixels); smaller ones are made from it.
        camera: the primary camera's view in training, where the checkpoint tells.

    Raises:
        UserError: more actions to execute than a chunk has, or statistics that lack what is needed.
    """

    def __init__(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        statistics: Mapping[str, Any],
        *,
        window: int,
        horizon: int,
        action_dim: int,
        samples: bool,
        normalization: str = "normal",
        execute: int = 1,
        batch_size: int = 8,
        seed: int = 0,
        name: str = "",
        details: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> None:
        if execute > horizon:
            raise UserError(f"execute is {execute}; the model predicts {horizon} actions at a time")
        self.name, self.source = name, source
        self.camera: str | None = None
        self.reads_instructions = False
        sizes = {key.removeprefix("image_"): shape[0] for key, shape in inputs.items() if key.startswith("image_")}
        self.cameras = tuple(sizes)
        self.image_size = max(sizes.values(), default=None)
        self.proprio_dim = inputs["proprio"][0] if "proprio" in inputs else None
        known = {key: len(found["mean"]) for key, found in statistics.items() if key in ("action", "proprio")}
        if "action" not in known or self.proprio_dim not in (None, known.get("proprio")):
            needed = "action" if self.proprio_dim is None else f"action and of {self.proprio_dim} columns of proprio"
            raise UserError(f"{source or name} needs statistics of {needed}; its dataset_statistics.json has {known}")
        self.action_dim = min(known["action"], action_dim)
        self.action_horizon, self.window_size = horizon, window
        self._inputs, self._statistics, self._normalization = dict(inputs), statistics, normalization
        self._samples, self._seed = samples, seed
        self._sizes = sorted({-(-batch_size // 4), batch_size})
        self._execute = execute
        widths = {"action": self.action_dim, **({"proprio": self.proprio_dim} if self.proprio_dim else {})}
        scales = {
            key: unnormalize(np.eye(2)[:, :1] * np.ones(n), statistics[key], normalization) for key, n in widths.items()
        }
        self.identity: dict[str, Any] = {
            "execute": execute,
            "normalization": normalization,
            "statistics": digest({key: scale.tobytes().hex() for key, scale in scales.items()}, 16),  # by what they do
            **({"sampling_seed": seed} if samples else {}),
            **(details or {}),
        }
        self._episodes: dict[int, EpisodeHistory] = {}

    @abc.abstractmethod
    def _normalized_chunks(self, episodes: Sequence[EpisodeHistory]) -> Float[np.ndarray, "B H A"]:
        """The network's prediction for the present step of each episode; their number is one of the batch sizes."""

    def warm_up(self) -> None:
        """Runs every batch size once, so that no later call has to wait for compilation or other preparations."""
        for size in self._sizes:
            rows = {
                key: np.zeros((size, *shape), np.uint8 if key.startswith("image_") else np.float32)
                for key, shape in self._inputs.items()
            }
            rows["language_instruction"] = np.array([""] * size)
            numbers = [-1 - row for row in range(size)]
            self.reset(numbers)
            self.predict(rows, numbers)
            self.forget(numbers)

    def reset(self, episode_ids: Sequence[int]) -> None:
        """These episodes begin."""
        self.forget(episode_ids)
        for episode in episode_ids:
            self._episodes[episode] = EpisodeHistory(episode, self.window_size)

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """One action per row, in the units of the training data.

        Raises UserError: an input of the network is missing or has another shape than in training (pictures are
        resized).
        """
        episodes = self._see(observations, episode_ids)
        asking = [episode for episode in episodes if not episode.actions]
        for episode, chunk in zip(asking, self._predict(asking)):
            episode.actions.extend(chunk[: self._execute])
        return np.stack([episode.actions.popleft() for episode in episodes]).astype(np.float32)

    def predict(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B H A"]:
        """The whole chunk for each row, predicted anew; history as in `act`, executed chunks untouched."""
        return np.stack(self._predict(self._see(observations, episode_ids)))

    def forget(self, episode_ids: Sequence[int]) -> None:
        """These episodes are over."""
        for episode in episode_ids:
            self._episodes.pop(episode, None)

    def _see(self, observations: Mapping[str, np.ndarray], episode_ids: Sequence[int]) -> list[EpisodeHistory]:
        """The episodes, which remember these observations."""
        taken = {*self._inputs, *(["language_instruction"] if self.reads_instructions else [])}
        if missing := sorted(taken - observations.keys()):
            raise UserError(
                f"{self.name} takes {', '.join(missing)} too, it is given {', '.join(sorted(observations))}: was it "
                "trained for this task, with these cameras?"
            )
        prepared = {key: self._prepared(key, shape, observations[key]) for key, shape in self._inputs.items()}
        texts = observations.get("language_instruction", [""] * len(episode_ids))
        episodes = [self._episodes[episode] for episode in episode_ids]
        for row, episode in enumerate(episodes):
            now = {key: value[row].copy() for key, value in prepared.items()}  # a robot may fill one array again
            text = str(texts[row])
            if self.reads_instructions and episode.steps and episode.instruction != text:
                episode.actions.clear()  # they are of another instruction
            episode.see(now, text)
        return episodes

    def _prepared(self, key: str, shape: tuple[int, ...], value: np.ndarray) -> np.ndarray:
        """One input for all rows, as the network takes it."""
        if key.startswith("image_"):
            height, width = value.shape[1:3] if value.ndim == 4 else (0, 1)
            fits = value.dtype == np.uint8 and value.shape[3:] == (3,) and height * shape[1] == width * shape[0]
        else:
            fits = value.shape[1:] == shape
        if not fits:
            form = f"{'uint8' if key.startswith('image_') else 'float32'}{[*shape]}"
            raise UserError(f"{key} is {value.dtype}{[*value.shape[1:]]}; {self.name} was trained on {form}")
        if key.startswith("image_"):
            return resized(value, (shape[0], shape[1]))
        return normalize(value, self._statistics["proprio"], self._normalization)

    def _predict(self, episodes: Sequence[EpisodeHistory]) -> list[Float[np.ndarray, "H A"]]:
        chunks: list[np.ndarray] = []
        for start in range(0, len(episodes), self._sizes[-1]):
            some = episodes[start : start + self._sizes[-1]]
            size = next(size for size in self._sizes if size >= len(some))
            normalized = self._normalized_chunks([*some, *[some[0]] * (size - len(some))])[: len(some)]
            chunks.extend(unnormalize(normalized, self._statistics["action"], self._normalization))
        return chunks
