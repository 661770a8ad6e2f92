"""What demonstrations alone say about a policy that will be trained on them: how well each of its possible inputs
predicts the next actions, in transitions and between, on episodes held out.

The same regression for all inputs stands for the policy: ridge on random Fourier features of a radial kernel, whose
width is the inputs' own spread. Pictures are seen by the small policies' encoder with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.looks.probe import features_of
from experiments.looks.ridge import held_out
from gap_vla.phases.targets import is_transition

HISTORY = 5
"""Steps of proprioception, as the map's policies with history see."""

FOURIER = 600
"""Random features of each input."""


def action_errors(
    inputs: Mapping[str, Float[np.ndarray, "n d"]],
    actions: Float[np.ndarray, "n k"],
    transition: np.ndarray,
    episodes: Int[np.ndarray, " n"],
) -> dict[str, dict[str, float]]:
    """Mean squared errors on held-out episodes, as a share of the actions' variance in the same steps.

    Args:
        actions: of the following steps, side by side.
        transition: bool[n].
        episodes: number of each row's episode.

    Returns:
        input to part (`all`, `transitions`, `between`; those without steps are left out) to error: 0 where the actions
        follow from the input, 1 where the mean would do as well.
    """
    spread = actions.std(0, dtype=np.float64)
    target = (actions - actions.mean(0, dtype=np.float64)) / np.where(spread > 1e-6, spread, 1.0)
    rows_of = {"all": np.ones(len(target), bool), "transitions": transition, "between": ~transition}
    rows_of = {part: rows for part, rows in rows_of.items() if rows.any()}
    found: dict[str, dict[str, float]] = {}
    for name, values in inputs.items():
        wrong = ((target - held_out(fourier_features(values), target, episodes)) ** 2).sum(1)
        about = {part: ((target[rows] - target[rows].mean(0)) ** 2).sum() for part, rows in rows_of.items()}
        found[name] = {
            part: float(wrong[rows].sum() / about[part]) for part, rows in rows_of.items() if about[part] > 0
        }
    return found


def fourier_features(values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n m"]:
    """The standardised values, and cosines of random projections of them: Rahimi and Recht, NIPS 2007."""
    from sklearn.kernel_approximation import RBFSampler

    values = values.astype(np.float64)  # summed up in float32, what stands still varies by its rounding
    spread = values.std(0)
    scaled = (values[:, spread > 1e-6] - values.mean(0)[spread > 1e-6]) / spread[spread > 1e-6]
    rng = np.random.default_rng([0, 3])
    first, second = rng.integers(len(scaled), size=(2, 2000))
    squared = np.median(((scaled[first] - scaled[second]) ** 2).sum(1))
    sampler = RBFSampler(gamma=1 / max(float(squared), 1e-6), n_components=FOURIER, random_state=0)
    return np.concatenate([scaled, sampler.fit_transform(scaled)], axis=1)


def predictors(config: Any, store: Any) -> dict[str, dict[str, float]]:
    """`action_errors` of every second step of the training episodes in the `EpisodeStore` (with ρ) of a `SmallConfig`.

    The input `time` is the number of the step alone: how alike episodes are.
    """
    split = store.split("train")
    horizon = config.model.action_horizon
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("time", "state", "history", "actions", "rho", "number")}
    pictures: dict[str, list[np.ndarray]] = {}
    for number in range(len(split)):
        episode = split.episode(number)
        steps = np.arange(0, len(episode) - horizon + 1, 2)
        back = np.maximum(steps[:, None] - np.arange(HISTORY), 0)
        parts["time"].append(steps[:, None].astype(float))
        parts["state"].append(episode.proprio[steps])
        parts["history"].append(episode.proprio[back].reshape(len(steps), -1))
        parts["actions"].append(episode.action[steps[:, None] + np.arange(horizon)].reshape(len(steps), -1))
        parts["rho"].append(episode.rho[steps])
        parts["number"].append(np.full(len(steps), number))
        for camera in config.demos.cameras:
            pictures.setdefault(f"image_{camera}", []).append(episode.images[f"image_{camera}"][steps])
    of = {name: np.concatenate(values) for name, values in parts.items()}
    seen = _untrained_features(config, {name: np.concatenate(values) for name, values in pictures.items()}, of)
    inputs = {"time": of["time"], "state": of["state"], "history": of["history"], "pictures": seen}
    inputs |= {f"{name}+pictures": np.concatenate([of[name], seen], axis=1) for name in ("state", "history")}
    return action_errors(inputs, of["actions"].astype(float), is_transition(of["rho"]), of["number"])


def _untrained_features(config: Any, images: Mapping[str, np.ndarray], of: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the configuration's encoder makes of the pictures with the weights of seed 0."""
    import torch

    from gap_vla.policies.methods import build_policy

    height, width, channels = next(iter(images.values())).shape[1:]
    sizes = (height, width, channels), of["state"].shape[1], of["actions"].shape[1] // config.model.action_horizon
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = build_policy(config.model, "vision", *sizes, config.demos.cameras).eval()
    return features_of(policy, images).astype(float)
