"""What small policies read from an episode store: ρ of every step, and windows as batches of torch tensors.

`config` is an experiment's (`gap_vla.training.torch.SmallConfig`). Batches hold images of as many steps as the policy
sees, and no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from gap_vla.adjustment.account import target_steps
from gap_vla.core.errors import ConfigError
from gap_vla.core.files import replacing
from gap_vla.core.identity import digest
from gap_vla.phases.targets import distance_to, is_transition
from gap_vla.policies.methods import method_of
from gap_vla.policies.registry import FROZEN, OF_THE_DATASET, WINDOWS_AT_ONCE, find
from gap_vla.rlds.augmentation import DRAWS
from gap_vla.rlds.loader import Windows, uniform
from gap_vla.rlds.store import EpisodeStore, StoreSplit

FAR = 2**24
"""Steps to a change point that is not there: more than any episode has, and finite, as what a batch should hold."""


class SmallWindows:
    """The windows of one split; window i ends at the split's step i.

    Which windows make up training batch `step` depends on the seed and on `step` alone, so a resumed run needs to know
    nothing but its step.

    Args:
        rho: float32[S], ρ of every step of the split.
        vision, proprio: which inputs the policy has.

    Attributes:
        statistics: of the store.
        data: the split.
    """

    def __init__(
        self,
        config: Any,
        store: EpisodeStore,
        split: str,
        rho: np.ndarray,
        *,
        vision: bool = True,
        proprio: bool = True,
    ):
        self._windows = Windows(
            store,
            split=split,
            window_size=config.model.window_size,
            action_horizon=config.model.action_horizon,
            image_keys=(),
            proprio=proprio,
            normalization=config.data.normalization,
            rho=False,
            language=False,
        )
        self.statistics = store.statistics
        self.data = store.split(split)
        self.rho = np.asarray(rho, np.float32)
        # of measurements: the dataset's own ρ, whatever ρ a method trains with
        self._transition = is_transition(np.asarray(self.data.fields.get("rho", self.rho)))
        self._distance = _change_distances(self.data)
        self._phase = _phase_codes(store, split)
        self._shuffle_images = config.data.shuffle_images and split == "train"
        self._cameras = tuple(f"image_{camera}" for camera in config.demos.cameras) if vision else ()
        self._augment = config.data.augment.of_images
        self._seen = {key: self.data.fields[key] for key in self._cameras}
        if (encoder := config.model.encoder) in FROZEN:  # its maps of pictures that never change are kept
            for key in set(self._cameras) - set(self._augment):
                maps = find(FROZEN, encoder)(store, split, key, config.train.device)
                self._seen[key.replace("image_", "maps_")] = maps
        self._horizon = config.model.action_horizon
        self._frames, self._steps = config.model.image_history, config.model.proprio_history
        self._batch, self._seed = config.train.batch_size, config.train.seed
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def transitions(self) -> np.ndarray:
        """int64[n], the windows whose present step lies in a transition."""
        return np.flatnonzero(self._transition)

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a 0-based training step; every window once per epoch."""
        numbers = self._numbers(step)
        drawn = None
        if self._shuffle_images:
            drawn = np.random.default_rng([self._seed, step, 1]).integers(len(self.data), size=len(numbers))
        return self.gather(numbers, drawn, self._epochs(step))

    def in_order(self, size: int = WINDOWS_AT_ONCE) -> Iterator[dict[str, Any]]:
        """Every window once."""
        for start in range(0, len(self), size):
            yield self.gather(np.arange(start, min(start + size, len(self))))

    def gather(
        self, numbers: np.ndarray, pictures_of: np.ndarray | None = None, epochs: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The batch of these windows; see `gap_vla.policies.policy.Batch`.

        Args:
            pictures_of: take the pictures from these episodes instead, at the same steps: a control that cannot see.
            epochs: which random changes of the pictures each window gets, where the configuration wants them.
        """
        found = self._windows.gather(numbers)
        offsets, start = self.data.offsets, self._starts(numbers)
        frames = np.maximum(numbers[:, None] + np.arange(1 - self._frames, 1), start[:, None])
        steps = np.maximum(numbers[:, None] + np.arange(1 - self._steps, 1), start[:, None])
        arrays = {
            "action": found["action"][:, -1],
            "action_pad_mask": found["action_pad_mask"][:, -1, :, 0],
            "rho": self.rho[steps],
            "target_rho": self.rho[self._targets(numbers)],
            "transition": self._transition[numbers],
            "change_distance": self._distance[numbers],
            "phase": self._phase[numbers],
            "window": numbers,
        }
        if self._windows.proprio:
            arrays["proprio"] = found["observation"]["proprio"][:, -self._steps :]
        if pictures_of is not None:
            first, end = offsets[pictures_of][:, None], offsets[pictures_of + 1][:, None]
            frames = np.minimum(first + frames - start[:, None], end - 1)
        for key, stored in self._seen.items():
            images = np.empty((*frames.shape, *stored.shape[1:]), stored.dtype)
            np.take(stored, frames, axis=0, out=images, mode="clip")  # "raise" would copy through a buffer
            if epochs is not None and key in self._augment:
                address = epochs, np.searchsorted(offsets, start), numbers - start
                draws = uniform(self._seed, "augment", *address, DRAWS)
                images = self._augment[key](images, np.ones(frames.shape, bool), draws)
            arrays[key] = images
        return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}

    def beside_pictures(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the step behind each picture of these windows: ρ, float32[n, frames], and whether the episode has that
        step, bool[n, frames]; what it has not is padding, which repeats its first.
        """
        steps, start = numbers[:, None] + np.arange(1 - self._frames, 1), self._starts(numbers)[:, None]
        return self.rho[np.maximum(steps, start)], steps >= start

    def _targets(self, numbers: np.ndarray) -> np.ndarray:
        """The steps that the actions of these windows are about, int[n, H]; the episode's last beyond its end."""
        ends = self.data.offsets[np.searchsorted(self.data.offsets, numbers, side="right")]
        return target_steps(numbers, ends, self._horizon)[0]

    def _starts(self, numbers: np.ndarray) -> np.ndarray:
        offsets = self.data.offsets
        return offsets[np.searchsorted(offsets, numbers, side="right") - 1]

    def _epochs(self, step: int) -> np.ndarray:
        """The epoch that each window of a batch belongs to."""
        return np.arange(step * self._batch, (step + 1) * self._batch) // len(self)

    def _numbers(self, step: int) -> np.ndarray:
        positions, epochs = np.arange(step * self._batch, (step + 1) * self._batch), self._epochs(step)
        return np.concatenate(
            [self._permutation(int(epoch))[positions[epochs == epoch] % len(self)] for epoch in np.unique(epochs)]
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self))
        return self._order[1]


def _change_distances(data: StoreSplit) -> np.ndarray:
    """float32[S]: steps to the episode's nearest change point; `FAR` without any."""
    points = data.fields.get("change_point")
    if points is None:
        return np.full(data.steps, FAR, np.float32)
    episodes = (points[start:end] for start, end in itertools.pairwise(data.offsets))
    found = [np.zeros(0, np.float32), *(distance_to(np.flatnonzero(e), len(e)) for e in episodes)]
    return np.minimum(np.concatenate(found), np.float32(FAR))


def _phase_codes(store: EpisodeStore, split: str) -> np.ndarray:
    """int64[S]: phase of every step, numbered as in the training split; zeros where the dataset names none."""
    data = store.split(split)
    if "phase" not in data.fields:
        return np.zeros(data.steps, np.int64)
    names = phase_names(store)
    return np.array([names.index(name) for name in data.phases], np.int64)[np.asarray(data.fields["phase"])]


def phase_names(store: EpisodeStore) -> list[str]:
    """Every phase of the dataset, those of the first split, which is trained on, first."""
    return list(dict.fromkeys(name for split in store.splits.values() for name in split.phases))


def rho_of(config: Any, store: EpisodeStore, keep: bool = True) -> dict[str, np.ndarray]:
    """ρ of every step, by split: float32[S].

    The dataset's own, permuted or its mean (zeros if there is none and the method does not need it), or labels of
    `gap_vla.phases`, which are kept beside the store unless `keep` is False; of some controls moved (`to_middle`).

    Raises:
        ConfigError: the method needs the dataset's ρ and it has none.
    """
    found = _rho_at_changes(config, store, keep)
    if not method_of(config.method).moves_rho:
        return found
    splits = ((name, store.split(name)) for name in found)
    return {name: to_middle(found[name], data.fields["change_point"], data.offsets) for name, data in splits}


def to_middle(
    rho: Float[np.ndarray, " S"], change_point: Bool[np.ndarray, " S"], offsets: Int[np.ndarray, " O"]
) -> Float[np.ndarray, " S"]:
    """ρ, turned by half the length of each segment: what stood at its ends comes to its middle.

    Args:
        offsets: where episodes begin, and the end.

    >>> to_middle(np.array([1, 0.5, 0, 0.5, 1, 0]), np.array([0, 0, 0, 0, 1, 0], bool), np.array([0, 6]))
    array([0. , 0.5, 1. , 0.5, 0. , 1. ])
    """
    bounds = np.union1d(offsets, np.flatnonzero(change_point))
    parts = [rho[a:b] for a, b in itertools.pairwise(bounds)]
    return np.concatenate([np.roll(part, len(part) // 2) for part in parts])


def _rho_at_changes(config: Any, store: EpisodeStore, keep: bool) -> dict[str, np.ndarray]:
    method = method_of(config.method)
    if method.rho_source not in OF_THE_DATASET:
        return _labelled(config, store, method.rho_source, keep)
    if all("rho" in split.fields for split in store.splits.values()):
        found = {name: np.asarray(split.fields["rho"], np.float32) for name, split in store.splits.items()}
        if method.rho_source == "mean":
            return {name: np.full_like(rho, rho.mean()) for name, rho in found.items()}
        if method.rho_source == "shuffled":
            return {name: np.random.default_rng(config.train.seed).permutation(rho) for name, rho in found.items()}
        return found
    if method.schedule(config.adjustment).needs_rho:
        raise ConfigError(
            f"the dataset in {store.directory} has no steps/rho, which method {config.method} needs; add it with "
            "`gap-vla annotate`, or train with gap_gaussian, which computes ρ from the stored proprioception"
        )
    return {name: np.zeros(split.steps, np.float32) for name, split in store.splits.items()}


def _labelled(config: Any, store: EpisodeStore, source: str, keep: bool) -> dict[str, np.ndarray]:
    """ρ of a method of `gap_vla.phases` that is fitted on the training split."""
    from gap_vla.phases.annotation import annotate, options_of
    from gap_vla.phases.methods import LABELS_VERSION

    options, seed = options_of(source, config.phases.options, config.phases.seed)
    identity = {"store": store.source_hash, "method": source, "seed": seed, "options": options, "fit": "train"}
    identity["labels_version"] = LABELS_VERSION
    kept = store.directory.with_name(f"{store.directory.name}.rho") / f"{source}-{digest(identity)}.npy"
    if kept.exists():
        flat = np.load(kept)
    else:
        places = [(split, index) for split, held in store.splits.items() for index in range(len(held))]
        print(f"rho: labelling {len(places)} episodes with {source}{f' → {kept}' if keep else ''}", flush=True)
        episodes = [store.split(split).episode(index) for split, index in places]
        train = [place for place, (split, _) in enumerate(places) if split == "train"]
        annotation = annotate(episodes, method=source, seed=seed, workers=1, fit=train, **options)
        flat = np.concatenate(annotation.rho).astype(np.float32)
        if keep:
            with replacing(kept) as temporary, open(temporary, "wb") as file:
                np.save(file, flat)
    ends = np.cumsum([split.steps for split in store.splits.values()])
    return dict(zip(store.splits, np.split(flat, ends[:-1])))
