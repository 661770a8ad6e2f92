"""What a configuration reads from an episode store, before, in and after its training."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import EpisodeStore, StoreSplit
from gap_vla.rlds.windows import Batch
from gap_vla.rollouts.heldout import trained_on
from gap_vla.training.config import Experiment
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.torch import SmallConfig

if TYPE_CHECKING:
    from gap_vla.training.loop import Trainer


def has_rho(store: EpisodeStore) -> bool:
    """Whether every split carries ρ."""
    return all("rho" in split.fields for split in store.splits.values())


def describe_store(store: EpisodeStore) -> str:
    """One line on the data: episodes, steps, change points, ρ."""
    splits = store.splits.values()
    steps = sum(split.steps for split in splits)
    episodes = sum(len(split) for split in splits)
    parts = [f"dataset: {' + '.join(f'{len(split)} {name}' for name, split in store.splits.items())} episodes"]
    parts.append(f"{steps} steps")
    if has_rho(store):
        points = sum(int(split.fields["change_point"].sum()) for split in splits) / episodes
        rho = sum(float(split.fields["rho"].sum()) for split in splits) / steps
        parts.append(f"{points:.1f} change points an episode, mean ρ {rho:.3f}")
    return ", ".join(parts)


def notes_on_learning(trainer: Trainer, config: Experiment, stores: Sequence[EpisodeStore]) -> list[str]:
    """What the policy cannot learn from its data: instructions that it does not read, actions beyond its head."""
    texts = {text for store in stores for text in store.split("train").languages if text.strip()}
    notes = []
    if len(texts) > 1 and not trainer.reads_instructions:
        other = "" if getattr(config.model, "pretrained", "") else "; an Octo of model.pretrained reads them"
        notes.append(f"note: the data have {len(texts)} instructions, and this policy reads none{other}")
    for store in stores if (most := trainer.largest_action) else ():
        actions = store.statistics["action"]
        ends = np.array([actions["min"], actions["max"]])
        furthest = np.abs(normalize(ends, actions, config.data.normalization)).max(0)
        for column in np.flatnonzero(furthest > most):
            notes.append(
                f"note: {store.directory}: normalised action {column} reaches {furthest[column]:.3g} and is learnt as "
                f"at most {most:g}; look for outliers"
            )
    return notes


def make_loader(
    config: FinetuneConfig, store: EpisodeStore, split: str, train: bool, mixture: Sequence[EpisodeStore] = ()
) -> WindowLoader:
    """Windows of one split as this configuration wants them; pictures are changed in training only.

    Args:
        mixture: the stores of `data.mixture`.
    """
    images = tuple(f"image_{camera}" for camera in config.demos.cameras)
    augment, change = {key: one for key, one in config.data.augment.of_images.items() if key in images}, None
    if config.data.shuffle_images and train:
        change = functools.partial(shuffled_images, store.split(split), config.train.seed, augment)
        augment = {}
    stores, weights = [store, *mixture], [1.0, *(weight for _, weight in config.data.mixture)]
    return WindowLoader(
        list(zip(stores, weights, strict=train)),
        split=split,
        window_size=config.model.window_size,
        action_horizon=config.model.action_horizon,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        image_keys=images,
        proprio=config.uses_proprio,
        proprio_history=config.model.proprio_history,
        normalization=config.data.normalization,
        rho=all(map(has_rho, stores)),
        language=bool(config.model.pretrained),
        train=train,
        augment=augment,
        change=change,
    )


def shuffled_images(
    data: StoreSplit, seed: int, augment: Mapping[str, Augmentation], number: int, batch: Batch
) -> Batch:
    """A control that cannot see: the batch with the pictures of an episode drawn at random for each window.

    They are those of the same steps, or the last of a shorter episode; they tell how far an episode has got, nothing of
    this one's layout. Once in as many windows as there are episodes, a window keeps its own.

    Args:
        data: the split that the windows are of.
        seed: of the drawing, together with the batch's `number`.
        augment: `image_<camera>` to the random changes of the pictures that are shown instead.
    """
    timestep, offsets = batch["observation"]["timestep"], data.offsets
    rng = np.random.default_rng([seed, number])
    drawn = rng.integers(len(offsets) - 1, size=len(timestep))
    step = np.minimum(offsets[drawn][:, None] + timestep, offsets[drawn + 1][:, None] - 1)
    cameras = [key for key in batch["observation"] if key.startswith("image_")]
    pictures = {key: np.take(data.fields[key], step, axis=0) for key in cameras}
    if augment:
        draws = rng.random((len(timestep), DRAWS))
        for key, augmentation in augment.items():
            pictures[key] = augmentation(pictures[key], batch["observation"]["timestep_pad_mask"], draws)
    return {**batch, "observation": {**batch["observation"], **pictures}}


def training_rho(run: Any) -> tuple[StoreSplit, Float[np.ndarray, " S"]] | None:
    """The store's training split and ρ of its steps as a run used it; None where the store is not here or the method
    uses no ρ. Nothing is written.

    Args:
        run: as `gap_vla.report.runs` reads it, with `path`, `config`, `summary` and whether it is `small`.
    """
    config: Experiment = (SmallConfig if run.small else FinetuneConfig).from_dict(run.config)
    if not config.schedule.needs_rho or not run.summary:
        return None
    if (store := trained_on(run.summary)) is None:
        print(f"note: the data of {run.path} are not here as it was trained on them", file=sys.stderr)
        return None
    split = store.split("train")
    if run.small:
        from gap_vla.policies.windows import rho_of  # loads torch

        return split, rho_of(config, store, keep=False)["train"]
    return (split, np.asarray(split.fields["rho"])) if "rho" in split.fields else None
