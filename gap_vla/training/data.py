"""What a configuration reads from an episode store, before, in and after its training."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, blaming, one_line, real_path
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.typed_config import ConfigError
from gap_vla.report.runs import Run
from gap_vla.rlds import EpisodeStore, WindowLoader
from gap_vla.rlds.augmentation import DRAWS, Augmentation
from gap_vla.rlds.checking.dataset_checks import SHARED
from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import StoreSplit
from gap_vla.rlds.windows import Batch
from gap_vla.sim import task_spec
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


def unlearnt(trainer: Trainer, config: Experiment, stores: Sequence[EpisodeStore]) -> list[str]:
    """Notes on what the policy cannot learn from its data: instructions that it does not read, or will be told first in
    rollouts, and actions that its head does not predict.

    Raises ConfigError: a column of the actions that is not normalised lies beyond what the head predicts.
    """
    texts = {text for store in stores for text in store.split("train").languages if text.strip()}
    notes = []
    if len(texts) > 1 and not trainer.reads_instructions:
        told = f"the data have {len(texts)} instructions, and this policy reads none: it learns them as one task"
        other = "" if getattr(config.model, "pretrained", "") else " (an Octo of model.pretrained reads them)"
        notes.append(f"note: {told}{other}")
    told = task_spec(config.task).instruction
    if trainer.reads_instructions and config.eval.episodes and told not in texts:
        notes.append(f"note: rollouts tell the policy {told!r}, which no demonstration does")
    for store in stores if trainer.largest_action else ():
        of_actions, most = store.statistics["action"], trainer.largest_action
        alone = ~np.broadcast_to(of_actions.get("mask", True), np.shape(of_actions["min"]))
        low, high = (of_actions.get(key, 0) * alone for key in ("p01", "p99"))
        usual = np.where(-low > high, low, high)
        if (far := np.flatnonzero(np.abs(usual) > most)).size:
            raise ConfigError(
                f"{store.directory}: action {far[0]} is {usual[far[0]]:g} and is not normalised, as it stands still or "
                f"is taken for a gripper; head {config.model.head} predicts -{most:g} to {most:g} there, so that the "
                "robot would be sent elsewhere: bring it to [-1, 1], or leave it out (docs/RLDS.md)"
            )
        ends = np.array([of_actions["min"], of_actions["max"]])
        furthest = np.abs(normalize(ends, of_actions, config.data.normalization)).max(0)
        if (beyond := np.flatnonzero(furthest > most)).size:
            reach = [f"{furthest[c]:.3g} in column {c}{' (in its own unit)' * bool(alone[c])}" for c in beyond]
            told = f"the head predicts none beyond {most:g}"
            notes.append(f"note: {store.directory}: normalised actions reach {', '.join(reach)}; {told}")
    return notes


def make_loader(
    config: FinetuneConfig, store: EpisodeStore, split: str, train: bool, mixture: Sequence[EpisodeStore] = ()
) -> WindowLoader:
    """Windows of one split as this configuration wants them; pictures are changed in training only.

    Args:
        mixture: the stores of `data.mixture`.

    Raises:
        ConfigError: an episode that is held out would be trained on, in this dataset or another of the mixture.
    """
    require_held_out(store, dict(zip(dict(config.data.mixture), mixture)))
    augment, change = config.data.augment.of_images, None
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
        image_keys=tuple(f"image_{camera}" for camera in config.demos.cameras),
        proprio=config.uses_proprio,
        proprio_history=config.model.proprio_history,
        normalization=config.data.normalization,
        rho=all(map(has_rho, stores)),
        language=bool(config.model.pretrained),
        train=train,
        augment=augment,
        change=change,
    )


def require_held_out(store: EpisodeStore, mixture: Mapping[str, EpisodeStore]) -> None:
    """Raises ConfigError: an episode of its `val`, or a copy that was cut off, is trained on, in its own `train` or in
    that of another dataset."""
    held = [*_episodes(store, "val")]
    known: dict[str, list[int]] = {}
    for place, episode in enumerate(held):
        for key in _keys(*episode):
            known.setdefault(key, []).append(place)
    for path, other in {"": store, **mixture}.items():
        for index, episode in enumerate(_episodes(other, "train")):
            places = {place for key in _keys(*episode) for place in known.get(key, ())}
            for place in sorted(places):
                if not (alike := _shared_beginning(held[place], episode)):
                    continue
                parts = [len(held[place][0]), len(episode[0])]
                of = "" if [alike] * 2 == parts else f" in its first {alike} steps"
                if path:
                    raise ConfigError(
                        f"data.mixture: train[{index}] of {path} is val[{place}] of the main dataset{of}, which is "
                        "held out; make it of other episodes"
                    )
                raise ConfigError(
                    f"{store.source}: train[{index}] has the states and actions of val[{place}]{of}, "
                    "which is held out; make it anew with each episode once (gap-vla check-dataset lists them)"
                )


def _keys(proprio: np.ndarray, action: np.ndarray) -> set[str]:
    """By what copies of an episode are found: all of it, and its beginning, unless that is short or stands still."""
    begins = len(proprio) >= SHARED and (np.ptp(proprio[:SHARED], 0).any() or np.ptp(action[:SHARED], 0).any())
    return {motion_of(proprio, action), *([motion_of(proprio[:SHARED], action[:SHARED])] if begins else ())}


def _shared_beginning(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> int:
    """Steps that two episodes begin with alike; 0 if they are less than half of the shorter one, as from home in a
    simulation."""
    shorter = min(len(one[0]), len(other[0]))
    same = [(mine[:shorter] == others[:shorter]).all(1) for mine, others in zip(one, other)]
    alike = int(np.append(np.logical_and(*same), False).argmin())
    return alike if alike >= shorter / 2 else 0


def _motions(store: EpisodeStore, name: str) -> Iterator[str]:
    """`motion_of` each episode of a split."""
    return (motion_of(*episode) for episode in _episodes(store, name))


def _episodes(store: EpisodeStore, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """States and actions of each episode of a split; none of one that is not there."""
    for split in (one for one in store.splits.values() if one.name == name):
        for begin, end in itertools.pairwise(split.offsets):
            yield split.fields["proprio"][begin:end], split.fields["action"][begin:end]


def motion_of(proprio: Float[np.ndarray, "T P"], action: Float[np.ndarray, "T A"]) -> str:
    """A hash of an episode's states and actions."""
    return hashlib.sha256(proprio.tobytes() + action.tobytes()).hexdigest()


def count_learnt(checkpoint: str | Path, motions: Iterable[str]) -> int | None:
    """How many of some episodes, by `motion_of`, are among those that the run which made a checkpoint was trained on
    (but for those of `data.mixture`); None where its store is not here, or not as it was, or the run is not finished.
    """
    place = real_path(checkpoint)
    run = RunDirectory(place.parent if place.name == "checkpoint" else place)
    learnt: set[str] | None = None
    # what is wrong with a run or a store concerns who trains on it, and these files may be somebody else's
    with contextlib.suppress(UserError, OSError), blaming(run.path, "no run"):
        if run.config.is_file() and run.summary.is_file():
            made = Run(run.path, run.read_config(), Section.read(run.summary).values)
            store = EpisodeStore.open(made.store) if made.store else None
            if store and made.summary.get("dataset", {}).get("hash") == store.source_hash:
                learnt = {*_motions(store, "train")}
    return None if learnt is None else sum(motion in learnt for motion in motions)


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


def store_of(run: Run) -> EpisodeStore | None:
    """What a run was trained on; None where it is not here, or, after a line on stderr, is made from other data."""
    if (directory := run.store) is None:
        return None
    store = EpisodeStore.open(directory)
    if (trained_on := run.summary.get("dataset", {}).get("hash", store.source_hash)) != store.source_hash:
        other = f"holds dataset {store.source_hash}, {run.path} was trained on {one_line(trained_on, 40)}"
        print(f"{directory} {other}; nothing of it is shown", file=sys.stderr)
        return None
    return store


def training_rho(run: Run) -> tuple[StoreSplit, Float[np.ndarray, " S"]] | None:
    """The store's training split and ρ of its steps as this run used it; None where the store is not here, the method
    uses no ρ, or, after a line on stderr, the store is made from other data. Nothing is written.
    """
    with blaming(run.path / "config.json", "no settings of a run"):
        config: Experiment = (SmallConfig if run.small else FinetuneConfig).from_dict(run.config)
    if not config.schedule.needs_rho or (store := store_of(run)) is None:
        return None
    split = store.split("train")
    if run.small:
        from gap_vla.policies.windows import rho_of  # loads torch

        return split, rho_of(config, store, keep=False)["train"]
    return (split, np.asarray(split.fields["rho"])) if "rho" in split.fields else None
