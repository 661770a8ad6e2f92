"""Windows of a store as batches for training: history of observations, chunks of actions, ρ. No TensorFlow.

The arithmetic is upstream Octo's `chunk_act_obs`, with one correction (see `window_indices`). The order of windows is
shuffled globally, without a buffer, and resumed exactly. Augmentations are drawn for a window, whoever reads it: a
number is a hash of (seed, purpose, epoch, episode, step), so that any batch size draws the same.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gap_vla.core.config import choose
from gap_vla.core.errors import ConfigError, EpisodeError
from gap_vla.core.identity import digest
from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.statistics import NORMALIZATIONS, limits, mask_of, normalize
from gap_vla.rlds.store import EpisodeStore

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class WindowIndices:
    """Which steps make up windows; indices are steps within the episode.

    Attributes:
        observation: int64[B, W], clamped at the episode's first step.
        timestep_pad_mask: bool[B, W], False where the window reaches before the episode.
        action: int64[B, W, H], clamped at the episode's last step.
        action_pad_mask: bool[B, W, H], False where the chunk reaches beyond the episode's last step.
    """

    observation: Int[np.ndarray, "B W"]
    timestep_pad_mask: Bool[np.ndarray, "B W"]
    action: Int[np.ndarray, "B W H"]
    action_pad_mask: Bool[np.ndarray, "B W H"]


def window_indices(
    step: Int[np.ndarray, " B"],
    length: Int[np.ndarray, " B"],
    window_size: int,
    action_horizon: int,
    *,
    upstream_action_mask: bool = False,
) -> WindowIndices:
    """Steps of the windows that end at `step`.

    Args:
        step: the window's last step, in [0, length).
        length: the episode's number of steps.
        window_size: W, observations of steps `step - W + 1 … step`.
        action_horizon: H, for each of them the actions of that step and the H − 1 after it.
        upstream_action_mask: reproduce upstream's mask, which turns False one step late: one repetition of the last
            action still counts there. Off by default.

    Example:
        >>> w = window_indices(np.array([0]), np.array([3]), 2, 2)
        >>> w.observation.tolist(), w.timestep_pad_mask.tolist()
        ([[0, 0]], [[False, True]])
        >>> w.action.tolist()
        [[[0, 1], [0, 1]]]
    """
    step, length = np.asarray(step, np.int64), np.asarray(length, np.int64)  # small ones would overflow
    history = np.arange(1 - window_size, 1)
    raw = step[:, None] + history  # B W
    observation = np.maximum(raw, 0)
    ahead = np.arange(action_horizon)
    last = length[:, None, None] - 1
    action = np.minimum(observation[..., None] + ahead, last)
    if upstream_action_mask:
        valid = raw[..., None] + ahead < last + 2
    else:
        valid = observation[..., None] + ahead <= last
    return WindowIndices(observation, raw >= 0, action, valid)


class Windows:
    """Every window of one split of a store, by number: window i ends at the split's step i.

    Args:
        store: where they are gathered from.
        split: `"train"` or `"val"`.
        window_size, action_horizon: W and H.
        image_keys: cameras to deliver.
        proprio: whether to deliver proprioception.
        proprio_history: states that each step shows side by side, its own last; before the start, the first one.
        normalization: of action and proprioception, see `gap_vla.rlds.normalize`.
        rho: whether to deliver ρ and change points, of each step.
        target_rho: whether to deliver the ρ of each action's step too.
        language: whether to deliver `task.language_instruction`.
        upstream_action_mask: upstream's action mask, one step late (see `window_indices`).
        augment: camera to its random changes.
        seed: augmentations are drawn for (seed, epoch, window) alone.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        split: str,
        window_size: int,
        action_horizon: int,
        image_keys: Sequence[str] = ("image_primary",),
        proprio: bool = True,
        proprio_history: int = 1,
        normalization: str = "normal",
        rho: bool = True,
        target_rho: bool = False,
        language: bool = True,
        upstream_action_mask: bool = False,
        augment: Mapping[str, Augmentation] | None = None,
        seed: int = 0,
    ) -> None:
        choose(normalization, NORMALIZATIONS, "normalization")
        self.store, self.data = store, store.split(split)
        self.image_keys, self.proprio, self.language = tuple(image_keys), proprio, language
        self.augment = dict(augment or {})
        cameras = [key for key in self.data.fields if key.startswith("image_")]
        for key in self.image_keys:
            choose(key, cameras, f"{store.directory}: camera")
        for key in self.augment:
            choose(key, self.image_keys, "augment")
        if rho and "rho" not in self.data.fields:
            raise EpisodeError(f"{store.directory}: the dataset has no rho; annotate it, or load with rho=False")
        self.target_rho = target_rho
        self.labels = tuple(key for key in ("rho", "change_point") if rho and key in self.data.fields)
        self._history = np.arange(1 - proprio_history, 1)
        self._shape = window_size, action_horizon
        self._upstream_mask, self._seed, self._normalization = upstream_action_mask, seed, normalization
        self._texts = np.array([text.encode() for text in self.data.languages], object)
        for key in ("action", "proprio") if proprio else ("action",):
            _require_range(store.statistics[key], normalization, f"{store.directory}: statistics.{key}")

    def __len__(self) -> int:
        return self.data.steps

    def gather(self, windows: Int[np.ndarray, " B"], epoch: Int[np.ndarray, " B"] | None = None) -> Batch:
        """The batch of these windows, in freshly allocated arrays; `epoch` says which draws of each window."""
        windows = np.asarray(windows, np.int64)
        epoch = np.zeros_like(windows) if epoch is None else np.asarray(epoch)
        offsets = self.data.offsets
        episode = np.searchsorted(offsets, windows, side="right") - 1
        start, length = offsets[episode], offsets[episode + 1] - offsets[episode]
        index = window_indices(windows - start, length, *self._shape, upstream_action_mask=self._upstream_mask)
        step = index.observation + start[:, None]
        observation: dict[str, Any] = {key: self._images(key, step) for key in self.image_keys}
        if self.proprio:
            steps = np.maximum(step[..., None] + self._history, start[:, None, None])
            observation["proprio"] = self._normalized("proprio", steps).reshape(*step.shape, -1)
        observation["timestep"] = index.observation.astype(np.int32)
        # As upstream: False only where the dataset has no such picture.
        observation["pad_mask_dict"] = {key: np.ones(step.shape, bool) for key in observation}
        for key in self.data.missing.keys() & {*self.image_keys}:
            observation["pad_mask_dict"][key] &= ~self.data.missing[key][episode][:, None]
        observation["timestep_pad_mask"] = index.timestep_pad_mask
        if self.augment:
            draws = uniform(self._seed, "augment", epoch, episode, windows - start, DRAWS)
            for key, augmentation in self.augment.items():
                observation[key] = augmentation(observation[key], index.timestep_pad_mask, draws)
        task: dict[str, Any] = {"pad_mask_dict": {}}
        if self.language:
            texts = self._texts[self.data.language[windows]]
            task["language_instruction"] = texts
            task["pad_mask_dict"]["language_instruction"] = np.array([len(t) > 0 for t in texts])
        action = self._normalized("action", index.action + start[:, None, None])
        batch = {
            "observation": observation,
            "task": task,
            "action": action,
            "action_pad_mask": np.broadcast_to(index.action_pad_mask[..., None], action.shape).copy(),
        }
        if self.target_rho:
            batch["target_rho"] = self.data.fields["rho"][index.action + start[:, None, None]]
        return batch | {key: self.data.fields[key][step] for key in self.labels}

    def _normalized(self, key: str, steps: np.ndarray) -> np.ndarray:
        return normalize(self.data.fields[key][steps], self.store.statistics[key], self._normalization)

    def _images(self, key: str, step: np.ndarray) -> np.ndarray:
        frames = self.data.fields[key]
        batch = np.empty((*step.shape, *frames.shape[1:]), np.uint8)
        np.take(frames, step, axis=0, out=batch, mode="clip")  # the default mode would copy through a buffer
        return batch


def _require_range(statistics: Mapping[str, Any], normalization: str, where: str) -> None:
    """Raises ConfigError: a dimension rests in nearly all steps, and its few others would all become -1 or 1."""
    if normalization not in ("normal", "none"):
        low, high = limits(statistics, normalization)
        resting = np.flatnonzero(mask_of(statistics, low) & (high - low <= 1e-8))
        if len(resting):
            raise ConfigError(f"{where}: dimension {resting[0]} rests in nearly all steps; take normalization normal")


class WindowLoader:
    """Iterates over batches of windows in Octo's layout.

    B, W, H are batch, window and action horizon; P, A the widths of proprioception (of all states shown) and action:
    `observation`: {image_* uint8[B, W, h, w, 3], proprio float32[B, W, P] normalised, timestep int32[B, W],
    timestep_pad_mask bool[B, W] (False = before the episode's start), pad_mask_dict};
    `task`: {language_instruction object[B] of bytes, pad_mask_dict}; `action` float32[B, W, H, A] normalised;
    `action_pad_mask` bool[B, W, H, A] (False = beyond the episode's end); `rho` float32[B, W];
    `change_point` bool[B, W]; `target_rho` float32[B, W, H], of the steps that the actions are about, where wanted.

    With `train=True` it is endless: every window once per epoch, in an order that depends on `seed` and the epoch
    only. With `train=False` it is one ordered pass, the last batch possibly smaller.

    Args:
        store: where windows are gathered from.
        split: `"train"` or `"val"`.
        batch_size: B.
        seed: of the shuffling, and of what is drawn for a window.
        train: endless and shuffled, or one ordered pass.
        augment: as of `Windows`; used if `train`.
        change: the number of a batch, and the batch, to what is delivered in its place.
        threads: threads that gather ahead; 0 gathers when asked.
        **windows: of `Windows`: window_size, action_horizon, image_keys, normalization, …
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        split: str,
        batch_size: int,
        seed: int,
        train: bool = True,
        augment: Mapping[str, Augmentation] | None = None,
        change: Callable[[int, Batch], Batch] | None = None,
        threads: int = 0,
        **windows: Any,
    ) -> None:
        import grain

        windows |= {"split": split, "seed": seed, "augment": augment if train else None}
        own = Windows(store, **windows)
        self._identity = digest(  # the same as of states that were saved while several datasets could be mixed
            {
                "stores": [[store.source_hash, 1.0]],
                "split": split,
                "batch_size": batch_size,
                "seed": seed,
                "train": train,
                "process": [0, 1],
            }
        )
        order = grain.MapDataset.range(len(own))
        order = order.seed(seed).shuffle().repeat() if train else order
        order = order.map_with_index(lambda at, window: (at // len(own), window))
        batches = order.batch(batch_size, drop_remainder=train, batch_fn=np.asarray)
        batches = batches.map(lambda rows: own.gather(rows[:, 1], rows[:, 0]))
        batches = batches if change is None else batches.map_with_index(change)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        self._batches = batches.to_iter_dataset(options)
        self._iterator = iter(self._batches)
        self._train = train

    def __iter__(self) -> Iterator[Batch]:
        if not self._train:  # a new pass
            self._iterator = iter(self._batches)
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def peek(self) -> Batch:
        """The next batch, without moving on; for shapes and pictures before training."""
        position = self._iterator.get_state()
        batch = next(self._iterator)
        self._iterator.set_state(position)
        return batch

    def state(self) -> dict[str, Any]:
        """The position after the last delivered batch, JSON-able."""
        return {"loader": self._identity, "position": self._iterator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly behind `state`. Raises ConfigError: it is of other data, another seed or batch size."""
        if state.get("loader") != self._identity:
            raise ConfigError("the data position is of other data, another seed or another batch size")
        self._iterator.set_state(state["position"])


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(
    seed: int,
    purpose: str,
    epoch: Int[np.ndarray, " B"],
    episode: Int[np.ndarray, " B"],
    step: Int[np.ndarray, " B"],
    count: int,
) -> Float[np.ndarray, "B n"]:
    """`count` numbers in [0, 1) for each window (splitmix64).

    Those of different purposes are independent. A window is the one that ends at `step` of episode `episode`.
    """
    state = np.full(len(step), (int(seed) << 32 ^ zlib.crc32(purpose.encode())) % 2**64, np.uint64)
    with np.errstate(over="ignore"):
        upper = [int(seed) >> 32] if seed >= 2**32 else []  # of a seed that the state does not hold
        for part in (*upper, epoch, episode, step):
            state = _mix(state + _GOLDEN + np.asarray(part).astype(np.uint64))
        numbers = _mix(state[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))
