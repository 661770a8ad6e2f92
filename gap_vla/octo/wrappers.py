"""From single observations to windows, and from chunks of actions to single ones, when a policy is rolled out.

The pieces are plain objects without an environment: `History` and the chunk executors. The wrappers around a
gymnasium-like environment (`reset(**kwargs) -> (obs, info)`, `step(action) -> (obs, reward, done, truncated, info)`)
are thin uses of them; gymnasium itself is not needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.octo.images import prepare_image

Observation = dict[str, Any]


class History:
    """The last `window` observations, stacked on a new first axis.

    Example:
        >>> history = History(3)
        >>> history.reset({"proprio": np.zeros(2)})["timestep_pad_mask"]
        array([0., 0., 1.])
    """

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, found {window}")
        self.window = window
        self._frames: deque[Observation] = deque(maxlen=window)
        self._seen = 0

    def reset(self, observation: Observation) -> Observation:
        """Start over: the first observation fills the window, and only the last place counts as real."""
        self._frames.extend([observation] * self.window)
        self._seen = 1
        return self._stacked()

    def step(self, observation: Observation) -> Observation:
        """Shift `observation` in."""
        if not self._seen:
            raise ValueError("History.step before History.reset")
        self._frames.append(observation)
        self._seen += 1
        return self._stacked()

    def _stacked(self) -> Observation:
        stacked = {key: np.stack([frame[key] for frame in self._frames]) for key in self._frames[-1]}
        pad = np.ones(self.window)
        pad[: max(0, self.window - self._seen)] = 0
        return {**stacked, "timestep_pad_mask": pad}


class TemporalEnsemble:
    """Averages what the last `horizon` chunks predicted for now: w_i = exp(-exp_weight * i), i = 0 for the oldest.

    `exp_weight` 0 is the plain mean (Zhao et al. 2023 use 0.01). Chunks are float[H, A] with H >= horizon.
    """

    def __init__(self, horizon: int, exp_weight: float = 0.0) -> None:
        self.horizon = horizon
        self.exp_weight = exp_weight
        self._chunks: deque[np.ndarray] = deque(maxlen=horizon)

    def reset(self) -> None:
        """Forget all chunks."""
        self._chunks.clear()

    def __call__(self, chunk: Float[np.ndarray, "H A"]) -> Float[np.ndarray, " A"]:
        """The action for now, float[A], given the newest chunk."""
        chunk = np.asarray(chunk)
        if chunk.ndim != 2 or len(chunk) < self.horizon:
            raise ValueError(f"expected a chunk (H >= {self.horizon}, A), found {chunk.shape}")
        self._chunks.append(chunk)
        age = np.arange(len(self._chunks) - 1, -1, -1)
        predictions = np.stack([old[steps] for old, steps in zip(self._chunks, age)])
        weights = np.exp(-self.exp_weight * np.arange(len(predictions)))
        return (weights / weights.sum()) @ predictions


def normalize(values: np.ndarray, statistics: Mapping[str, Any]) -> np.ndarray:
    """(x - mean) / (std + 1e-8) where `mask` (all by default); float[..., P]."""
    mean, std = np.asarray(statistics["mean"]), np.asarray(statistics["std"])
    mask = np.asarray(statistics.get("mask", np.ones_like(mean, dtype=bool)), bool)
    return np.where(mask, (values - mean) / (std + 1e-8), values)


class Wrapper:
    """Passes everything on to `env`."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **kwargs: Any) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(**kwargs)
        return self.observation(observation), info

    def step(self, action: np.ndarray) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """One step."""
        observation, reward, done, truncated, info = self.env.step(action)
        return self.observation(observation), reward, done, truncated, info

    def observation(self, observation: Observation) -> Observation:
        """What the outside sees of `observation`."""
        return observation


class HistoryWrapper(Wrapper):
    """Observations with `horizon` steps of history, see `History`."""

    def __init__(self, env: Any, horizon: int) -> None:
        super().__init__(env)
        self._history = History(horizon)
        self._starts = False

    def reset(self, **kwargs: Any) -> tuple[Observation, dict[str, Any]]:
        self._starts = True
        return super().reset(**kwargs)

    def observation(self, observation: Observation) -> Observation:
        update = self._history.reset if self._starts else self._history.step
        self._starts = False
        return update(observation)


class RHCWrapper(Wrapper):
    """Receding horizon control: executes the first `exec_horizon` actions of a chunk float[H, A].

    Rewards are summed, execution stops when the episode ends; `info` holds a list per key, and the lists `rewards`
    and `observations`.
    """

    def __init__(self, env: Any, exec_horizon: int) -> None:
        super().__init__(env)
        self.exec_horizon = exec_horizon

    def step(self, actions: np.ndarray) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        if len(actions) < self.exec_horizon:
            raise ValueError(f"the chunk has {len(actions)} actions, {self.exec_horizon} are to be executed")
        observations, rewards, infos = [], [], []
        for action in actions[: self.exec_horizon]:
            observation, reward, done, truncated, info = self.env.step(action)
            observations.append(observation)
            rewards.append(reward)
            infos.append(info)
            if done or truncated:
                break
        merged: dict[str, Any] = {key: [info[key] for info in infos if key in info] for key in infos[0]}
        merged.update(rewards=rewards, observations=observations)
        return observations[-1], np.sum(rewards), done, truncated, merged


class TemporalEnsembleWrapper(Wrapper):
    """Executes the ensemble of the last chunks, see `TemporalEnsemble`."""

    def __init__(self, env: Any, pred_horizon: int, exp_weight: float = 0.0) -> None:
        super().__init__(env)
        self.ensemble = TemporalEnsemble(pred_horizon, exp_weight)

    def reset(self, **kwargs: Any) -> tuple[Observation, dict[str, Any]]:
        self.ensemble.reset()
        return super().reset(**kwargs)

    def step(self, actions: np.ndarray) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        return super().step(self.ensemble(actions))


class NormalizeProprio(Wrapper):
    """(x - mean) / (std + 1e-8) on the dimensions of `mask`, with the statistics the model was trained with."""

    def __init__(self, env: Any, action_proprio_metadata: Mapping[str, Any]) -> None:
        super().__init__(env)
        self.statistics = action_proprio_metadata.get("proprio")

    def observation(self, observation: Observation) -> Observation:
        if "proprio" not in observation:
            return observation
        if self.statistics is None:
            raise ValueError("the environment gives proprio, but the statistics have no entry 'proprio'")
        return {**observation, "proprio": normalize(observation["proprio"], self.statistics)}


class ResizeImageWrapper(Wrapper):
    """Resizes images to what the model was trained on, and crops as its augmentation did on average.

    Args:
        resize_size: (height, width) for all images, or a dictionary from key to that.
        augmented_keys: images trained with random crops; of these the central `avg_scale` of the area is kept.
    """

    def __init__(
        self,
        env: Any,
        resize_size: tuple[int, int] | Mapping[str, tuple[int, int]] | None = None,
        augmented_keys: Sequence[str] = ("image_primary",),
        avg_scale: float = 0.9,
    ) -> None:
        super().__init__(env)
        self.resize_size = resize_size
        self.augmented_keys = tuple(augmented_keys)
        self.avg_scale = avg_scale

    def observation(self, observation: Observation) -> Observation:
        images = {key: value for key, value in observation.items() if key.startswith("image_")}
        return {**observation, **{key: self._image(key, value) for key, value in images.items()}}

    def _image(self, key: str, image: np.ndarray) -> np.ndarray:
        size = self.resize_size.get(key) if isinstance(self.resize_size, Mapping) else self.resize_size
        return prepare_image(image, size, self.avg_scale if key in self.augmented_keys else None)


def add_octo_env_wrappers(
    env: Any,
    config: Mapping[str, Any],
    dataset_statistics: Mapping[str, Any],
    resize_size: tuple[int, int] | Mapping[str, tuple[int, int]] | None = None,
    exec_horizon: int | None = None,
    exp_weight: float = 0.0,
) -> Wrapper:
    """Around `env` what a model with this config expects: normalised proprio, images, history, then chunks.

    Args:
        config: the model's; `window_size` and the action head's `action_horizon` are read.
        exec_horizon: actions of a chunk to execute; None ensembles chunks, with `exp_weight`.
    """
    horizon = config["model"]["heads"]["action"]["kwargs"]["action_horizon"]
    env = ResizeImageWrapper(NormalizeProprio(env, dataset_statistics), resize_size)
    env = HistoryWrapper(env, config["window_size"])
    if exec_horizon is not None:
        return RHCWrapper(env, exec_horizon)
    return TemporalEnsembleWrapper(env, horizon, exp_weight)
