"""What is done to the senses of a policy to find out whether it needs them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.errors import UserError
from gap_vla.demos.arrays import resized
from gap_vla.rollouts.policy import Policy, forget, identity
from gap_vla.rollouts.recordings import RecordedEpisode

Observation = Mapping[str, Any]
"""One moment: `image_<camera>` uint8[h, w, 3], `proprio` float32[P], perhaps `language_instruction`."""

Altered = Callable[[Observation, Observation, Observation, Collection[str]], dict[str, np.ndarray]]

INTERVENTIONS: dict[str, Altered] = {
    "images_black": lambda now, first, other, pictures: {key: np.zeros_like(now[key]) for key in pictures},
    "images_frozen": lambda now, first, other, pictures: {key: first[key] for key in pictures},
    "images_swapped": lambda now, first, other, pictures: {key: other[key] for key in pictures if key in other},
    "proprio_frozen": lambda now, first, other, pictures: {"proprio": first["proprio"]},
    "proprio_swapped": lambda now, first, other, pictures: {"proprio": other["proprio"]},
}
"""Name to what replaces the present observation's entries, given the present moment, the episode's first moment, the
same step of another episode, and which entries are pictures."""

OBJECTS_MOVED = "objects_moved"
"""The objects lie elsewhere while the robot is where it was. Needs the simulator, not only a recording."""

EVERYTHING = "everything_swapped"
"""What the swaps are compared with: all that the same step of another episode shows."""

ALL_INTERVENTIONS = (*INTERVENTIONS, OBJECTS_MOVED)

DESCRIPTIONS = {
    "images_black": "all pictures black",
    "images_frozen": "pictures stay those of the first step",
    "images_swapped": "pictures of another episode (same step, or its last)",
    "proprio_frozen": "proprioception stays that of the first step",
    "proprio_swapped": "proprioception of another episode (same step, or its last)",
    OBJECTS_MOVED: "objects shifted by some centimetres, robot untouched; open loop until a gripper first closes",
}


class IntervenedPolicy:
    """A policy that is shown altered observations throughout its episodes.

    Args:
        library: recorded episodes that the altered entries are taken from; episode e uses number e + 1, cyclically.
    """

    def __init__(self, policy: Policy, intervention: str, library: Sequence[RecordedEpisode]) -> None:
        self.name = f"{policy.name}, {intervention}"
        self.identity = {**identity(policy), "intervention": intervention}
        del self.identity["name"]
        if intervention.endswith("_swapped"):
            self.identity["recordings"] = _digest(library)
        self._policy, self._alter, self._library = policy, INTERVENTIONS[intervention], library
        for optional in ("warm_up", "layout_seeds", "privileged"):
            if hasattr(policy, optional):
                setattr(self, optional, getattr(policy, optional))
        self._first: dict[int, dict[str, np.ndarray]] = {}
        self._step: dict[int, int] = {}

    @property
    def forgotten(self) -> Collection[int]:
        """Episodes of which a server has lost what it kept."""
        return getattr(self._policy, "forgotten", ())

    def reset(self, episode_ids: Sequence[int]) -> None:
        self._policy.reset(episode_ids)
        for episode in episode_ids:
            self._step[episode] = 0
            self._first.pop(episode, None)

    def forget(self, episode_ids: Sequence[int]) -> None:
        forget(self._policy, episode_ids)
        for episode in episode_ids:
            self._first.pop(episode, None)

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        altered = {key: value.copy() for key, value in observations.items()}
        for row, episode in enumerate(episode_ids):
            now = {key: value[row] for key, value in observations.items()}
            if episode not in self._first:
                self._first[episode] = copy.deepcopy(now)  # a robot's camera may fill one array again and again
            first = self._first[episode]
            other = self._library[(episode + 1) % len(self._library)].observation(self._step[episode])
            pictures = [key for key in now if key.startswith("image_")]
            for key, value in self._alter(now, first, other, pictures).items():
                altered[key][row] = _as_shown(key, value, now[key].shape)
            self._step[episode] += 1
        return self._policy.act(altered, episode_ids)


def _as_shown(key: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What a recording showed, in the form in which the task shows it."""
    if key.startswith("image_"):
        return resized(value[None], (shape[0], shape[1]))[0]
    if value.shape != shape:
        raise UserError(f"{key} is {[*value.shape]} in the recordings, {[*shape]} in the task; give recordings of it")
    return value


def _digest(library: Sequence[RecordedEpisode]) -> str:
    """Of what recordings show: two libraries swap other moments in."""
    shown = hashlib.sha256()
    for recording in library:
        for _, values in sorted({**recording.images, "proprio": recording.proprio}.items()):
            shown.update(values.tobytes())
    return shown.hexdigest()[:16]
