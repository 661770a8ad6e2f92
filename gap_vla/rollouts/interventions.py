"""What is done to the senses of a policy to find out whether it needs them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.demos.fields import resized
from gap_vla.rollouts.measuring import cameras_of
from gap_vla.rollouts.policy import Policy, PolicyError, forget, identity
from gap_vla.rollouts.recordings import Recording

Observation = Mapping[str, np.ndarray]
"""One moment: `image_<camera>` uint8[h, w, 3], `proprio` float32[P], perhaps `language_instruction`."""


def _is_picture(key: str, value: Any) -> bool:
    """Of one moment; recordings and tasks of others may call theirs as they like."""
    return key.startswith("image_") or (np.ndim(value) == 3 and value.dtype == np.uint8 and value.shape[2] in (3, 4))


_Altered = Callable[[Observation, Observation, Observation, Collection[str]], dict[str, np.ndarray]]

INTERVENTIONS: dict[str, _Altered] = {
    "images_black": lambda now, first, other, pictures: {key: np.zeros_like(now[key]) for key in pictures},
    "images_frozen": lambda now, first, other, pictures: {key: first[key] for key in pictures},
    "images_swapped": lambda now, first, other, pictures: {k: other[k] for k in pictures if k in other},
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

    def __init__(self, policy: Policy, intervention: str, library: Sequence[Recording]) -> None:
        self.name = f"{policy.name}, {intervention}"
        own = {key: value for key, value in identity(policy).items() if (key, value) != ("name", policy.name)}
        self.identity = {**own, "intervention": intervention}
        if intervention.endswith("_swapped"):
            self.identity["recordings"] = _digest(library)
        self._policy, self._kind, self._library = policy, intervention, library
        self._pictures = {*library[0].images} if library else set()
        self.undisturbed = policy
        # of a server, the layouts that it knows, and whether it is shown what the expert does
        for asked in ("patience", "warm_up", "layout_seeds", "privileged"):
            if hasattr(policy, asked):
                setattr(self, asked, getattr(policy, asked))
        self._first: dict[int, dict[str, np.ndarray]] = {}
        self._step: dict[int, int] = {}

    @property
    def forgotten(self) -> set[int]:
        """Episodes of which a server has lost what it kept."""
        return {*getattr(self._policy, "forgotten", ())}

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
            other = self._library[(episode + 1) % len(self._library)].observation(self._step[episode])
            for key, value in self._altered(now, self._first[episode], other).items():
                altered[key][row] = value
            self._step[episode] += 1
        return self._policy.act(altered, episode_ids)

    def _altered(self, now: Observation, first: Observation, other: Observation) -> dict[str, np.ndarray]:
        """Entries of the present moment as they are shown. Raises PolicyError: there is nothing to alter in it, or the
        recordings lack what the policy may see, or have it in another form."""
        pictures = [key for key, value in now.items() if key in self._pictures or _is_picture(key, value)]
        keys = pictures if self._kind.startswith("images_") else ["proprio"] if "proprio" in now else []
        advice = f"call it alike in both, or leave {self._kind} out of the interventions"
        if not keys:
            sense = self._kind.partition("_")[0]
            raise PolicyError(f"{self.name}: the task shows no {sense}, but {', '.join(now)}; {advice}")
        lost = [key for key in cameras_of(self._policy, keys) if key not in other]
        if lost and self._kind.endswith("_swapped"):
            raise PolicyError(f"{self.name}: the recordings have no {lost[0]}, but {', '.join(other)}; {advice}")
        found = INTERVENTIONS[self._kind](now, first, other, pictures)
        for key, value in found.items():
            shape = np.shape(now[key])
            if value.shape != shape and value.shape[2:] == shape[2:] in ((3,), (4,)):
                found[key] = resized(value[None], shape[:2])[0]
            elif value.shape != shape:
                there = f"{[*value.shape]} in the recordings, {[*shape]} in the task"
                raise PolicyError(f"{self.name}: {key} is {there}; give recordings of that task")
        return found


def _digest(library: Sequence[Recording]) -> str:
    """Of what recordings show: two libraries swap other moments in."""
    shown = hashlib.sha256()
    for recording in library:
        for _, values in sorted({**recording.images, "proprio": recording.proprio}.items()):
            shown.update(values.tobytes())
    return shown.hexdigest()[:16]
