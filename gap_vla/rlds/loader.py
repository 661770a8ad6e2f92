"""Batches of windows for training: global shuffle without a buffer, exact resume, shards per host. No TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gap_vla.core.errors import ConfigError
from gap_vla.core.identity import differences, digest, in_words
from gap_vla.rlds.augmentation import Augmentation
from gap_vla.rlds.store import EpisodeStore
from gap_vla.rlds.windows import Batch, Windows


def gathered(parts: Sequence[Windows], addresses: np.ndarray) -> Batch:
    """The batch of these addresses (int[B, 3]: store, epoch, window) in their order."""
    if len(parts) == 1:
        return parts[0].gather(addresses[:, 2], addresses[:, 1])
    batches, rows = [], []
    for number, part in enumerate(parts):
        mine = np.flatnonzero(addresses[:, 0] == number)
        if len(mine):
            batches.append(part.gather(addresses[mine, 2], addresses[mine, 1]))
            rows.append(mine)
    order = np.argsort(np.concatenate(rows), kind="stable")
    return _concatenate(batches, order)


def require_alike(parts: Sequence[Windows]) -> None:
    """Raises ConfigError: the datasets of a mixture differ in pictures' sizes, or in widths."""
    first, *others = parts
    keys = [*first.image_keys, *(["proprio"] if first.proprio else []), "action"]
    wanted = {key: first.data.fields[key].shape[1:] for key in keys}
    for other in others:
        if changed := differences(wanted, {key: other.data.fields[key].shape[1:] for key in keys}):
            raise ConfigError(f"{other.store.directory} is unlike {first.store.directory} ({in_words(changed)})")


def _concatenate(batches: list[Any], order: np.ndarray) -> Any:
    if isinstance(batches[0], dict):
        return {key: _concatenate([b[key] for b in batches], order) for key in batches[0]}
    return np.concatenate(batches)[order]


class WindowLoader:
    """Iterates over batches of windows in Octo's layout.

    B, W, H are batch, window and action horizon; P, A the widths of proprioception (of all states shown) and action:
    `observation`: {image_* uint8[B, W, h, w, 3], proprio float32[B, W, P] normalised, timestep int32[B, W],
    timestep_pad_mask bool[B, W] (False = before the episode's start), pad_mask_dict};
    `task`: {language_instruction object[B] of bytes, pad_mask_dict}; `action` float32[B, W, H, A] normalised;
    `action_pad_mask` bool[B, W, H, A] (False = beyond the episode's end); `rho` float32[B, W];
    `change_point` bool[B, W].

    With `train=True` it is endless: every window once per epoch, in an order that depends on `seed` and the epoch
    only. With `train=False` it is one ordered pass, the last batch possibly smaller.

    Args:
        store: an `EpisodeStore`, or several with weights `[(store, 0.7), (other, 0.3)]`: windows are drawn in these
            proportions, each normalised with its own dataset's statistics. Picture sizes and widths must agree.
        split: `"train"` or `"val"`.
        batch_size: B, of this process.
        seed: of the shuffling, and of what is drawn for a window.
        train: endless and shuffled, or one ordered pass.
        process_index: this host …
        process_count: … of so many; each sees its own share of the windows.
        augment: as of `Windows`; used if `train`.
        change: the number of a batch, and the batch, to what is delivered in its place.
        threads: threads that gather ahead; 0 gathers when asked.
        **windows: of `gap_vla.rlds.windows.Windows`: window_size, action_horizon, image_keys, normalization, …
    """

    def __init__(
        self,
        store: EpisodeStore | Sequence[tuple[EpisodeStore, float]],
        *,
        split: str,
        batch_size: int,
        seed: int,
        train: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        augment: Mapping[str, Augmentation] | None = None,
        change: Callable[[int, Batch], Batch] | None = None,
        threads: int = 0,
        **windows: Any,
    ) -> None:
        import grain

        stores = [(store, 1.0)] if isinstance(store, EpisodeStore) else list(store)
        windows |= {"split": split, "seed": seed, "augment": augment if train else None}
        parts = [Windows(one, **windows) for one, _ in stores]
        require_alike(parts)
        self._identity = digest(
            {
                "stores": [[one.source_hash, weight] for one, weight in stores],
                "split": split,
                "batch_size": batch_size,
                "seed": seed,
                "train": train,
                "process": [process_index, process_count],
            }
        )
        orders = []
        for number, part in enumerate(parts):
            order = grain.MapDataset.range(process_index, len(part), process_count)
            epoch = len(order)
            order = order.seed(seed).shuffle().repeat() if train else order
            orders.append(order.map_with_index(lambda at, window, n=number, epoch=epoch: (n, at // epoch, window)))
        if len(orders) == 1:
            order = orders[0]
        elif train:
            order = grain.MapDataset.mix(orders, [weight for _, weight in stores])
        else:
            order = grain.MapDataset.concatenate(orders)
        batches = order.batch(batch_size, drop_remainder=train, batch_fn=np.asarray)
        batches = batches.map(functools.partial(gathered, parts))
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
            raise ConfigError("the data position is of other data, another seed, batch size or number of processes")
        self._iterator.set_state(state["position"])
