"""What a server of ours says of its policy when it greets, and whether that fits what it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gap_vla.core.foreign import Section
from gap_vla.core.typed_config import CAMERAS
from gap_vla.rollouts.policy import PolicyError
from gap_vla.serving.key_mapping import OBSERVATION, KeyMapping
from gap_vla.sim.specs import TASK_NAMES, task_spec

ANSWERS = ("single actions", "chunks")
"""What a server of ours answers an observation with."""

_SIZES = {"image_size": 1, "proprio_dim": 0, "action_dim": 1, "action_horizon": 1, "window_size": 1}
"""Entries that are whole numbers, and the least each can be; a policy without a state takes 0 of it."""

_OF_POLICY = {
    *("policy", "identity", "answers", "inputs", "task", "camera", "cameras"),
    *_SIZES,
}
"""Entries that are of the policy, whichever connection is greeted."""


def views() -> list[str]:
    """Those that our tasks have."""
    return sorted({view for name in TASK_NAMES for view in task_spec(name).views})


def is_ours(metadata: Mapping[Any, Any]) -> bool:
    """Whether a server of ours greets so; of others' greetings each entry may mean anything."""
    task = metadata.get("task")
    return _has_answers(metadata) or (isinstance(task, str) and task in ("", *TASK_NAMES))


def _has_answers(metadata: Mapping[Any, Any]) -> bool:
    answers = metadata.get("answers")
    return "policy" in metadata and isinstance(answers, str) and answers in ANSWERS


def of_policy(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a greeting of ours, by dotted keys, that are not a connection's, as its number is."""
    return {key: value for key, value in plain.items() if key.split(".")[0] in _OF_POLICY}


def _cameras(found: Section, key: str) -> tuple[str, ...]:
    cameras = found.list(key, lambda items, name: items.choice(name, CAMERAS))
    if len({*cameras}) < len(cameras):
        raise PolicyError(f"{found.name(key)} names one twice; repair the server")
    return tuple(cameras)


def _inputs(found: Section, key: str) -> dict[str, str]:
    names = found.section(key)
    return {ours: names.text(ours) for ours in OBSERVATION if ours in names}


def _whole(found: Section, key: str) -> int | None:
    return found.whole(key, _SIZES[key], 4096) or None


_READ: dict[str, Callable[[Section, str], Any]] = {
    "answers": lambda found, key: found.choice(key, ANSWERS),
    "inputs": _inputs,
    "task": lambda found, key: found.text(key) and found.choice(key, TASK_NAMES),
    "camera": lambda found, key: found.text(key) and found.choice(key, views()),
    "cameras": _cameras,
    **dict.fromkeys(_SIZES, _whole),
}


@dataclasses.dataclass(frozen=True)
class Greeting:
    """What it says; None or empty where it does not, as those of earlier versions and of others.

    Attributes:
        task: of training; "" where the server knows none. Without one, `answers` and `inputs` alone are read.
        camera, cameras, image_size: what the policy was trained to see.
        proprio_dim, action_dim, action_horizon, window_size: see `ChunkPolicy`.
        answers: one of `ANSWERS`.
        inputs: our name of an observation to the server's.
        unread: what else it says, which nobody acts by.
    """

    task: str | None = None
    camera: str = ""
    cameras: tuple[str, ...] = ()
    image_size: int | None = None
    proprio_dim: int | None = None
    action_dim: int | None = None
    action_horizon: int | None = None
    window_size: int | None = None
    answers: str | None = None
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unread: tuple[Any, ...] = ()

    @classmethod
    def read(cls, metadata: Mapping[Any, Any], address: str) -> Greeting:
        """Raises PolicyError: an entry of a greeting of ours is of another kind, or beyond its bounds."""
        if not is_ours(metadata):
            return cls(unread=tuple(metadata))
        told = {key: value for key, value in metadata.items() if key in _OF_POLICY and value is not None}
        found, said = Section(told, f"{address}, its greeting", PolicyError), dict[str, Any]()
        task = told.get("task")
        named = "task" in found and not (isinstance(task, str) and task.lower() not in ("", *TASK_NAMES))
        for key in (key for key in _READ if key in found and (named or key in ("answers", "inputs"))):
            try:
                said[key] = _READ[key](found, key)
            except PolicyError:
                # where it says no policy, it may be somebody's whose task has the name of one of ours
                if "policy" in metadata or (key == "image_size" and task):
                    raise
        if "policy" not in metadata:
            said = {key: value for key, value in said.items() if not key.startswith(("action_", "proprio_"))}
        read = {*said, "policy", "identity", *(key for key in _READ if metadata.get(key) is None)}
        inputs = told["inputs"] if "inputs" in said else ()
        others = [f"inputs.{key}" for key in inputs if key not in OBSERVATION]
        return cls(**said, unread=(*(key for key in metadata if key not in read), *others))

    def untaken(self, message: Mapping[str, Any]) -> set[str]:
        """Names of what is sent that are none of its inputs, where it says these."""
        return message.keys() - {*self.inputs, *self.inputs.values()} if self.inputs else set()

    def require_sent(self, address: str, observation: Mapping[str, Any]) -> None:
        """Raises PolicyError: the state that is sent is of another width than it says."""
        if self.proprio_dim and (found := np.size(observation.get("proprio", ()))) not in (0, self.proprio_dim):
            problem = f"says proprio_dim {self.proprio_dim}, and is sent {found} numbers"
            raise PolicyError(f"{address} {problem}; give it what its policy was trained on, or repair the server")

    def require_answered(self, address: str, length: int, width: int) -> None:
        """Raises PolicyError: an answer has another number of actions, or of their columns, than it says."""
        known = 1 if self.answers == "single actions" else self.action_horizon
        most = "" if self.answers == "chunks" else " at most"
        if known is not None and (length > known or (not most and length < known)):
            problem = f"answered with {length} actions, and its greeting says {known}{most}"
            raise PolicyError(f"{address} {problem}; repair the server")
        if self.action_dim not in (None, width):
            problem = f"answered with {width} numbers an action, and its greeting says action_dim {self.action_dim}"
            raise PolicyError(f"{address} {problem}; repair the server")

    def require_fitting(self, address: str, keys: KeyMapping, task: str | None) -> None:
        """Raises PolicyError if the policy is none for this task, or not of its own one's widths, or takes observations
        under other names than these keys give them."""
        if self.task and task not in (None, self.task):
            raise PolicyError(f"{address} serves a policy that was trained for {self.task}, not for {task}")
        if keys.image_size is not None and self.image_size not in (None, keys.image_size):
            sizes = f"takes pictures of {self.image_size}, the key file's image_size is {keys.image_size}"
            raise PolicyError(f"{address} {sizes}; correct it")
        if self.task:  # where none is known, other recordings than of our tasks may be meant
            for key in ("proprio_dim", *(() if keys.action_columns else ("action_dim",))):
                if (said := getattr(self, key)) not in (None, width := getattr(task_spec(self.task), key)):
                    raise PolicyError(f"{address} says {key} {said}, and {self.task} has {width}; repair the server")
        theirs = {name: ours for ours, name in self.inputs.items()}
        unseen = {f"image_{camera}" for camera in CAMERAS if self.cameras and camera not in self.cameras}
        for ours, name in keys.observation.items():
            if ours in unseen:
                continue
            taken = theirs.get(name, ours if name == ours else None)  # our own names are understood as well
            if taken != ours and (taken or ours in self.inputs):
                how = f"takes that for {taken}" if taken else f"calls it {self.inputs[ours]!r:.60}"
                problem = f"{ours} is sent as {name!r:.60}, and {address} {how}"
                raise PolicyError(f"{problem}; give client and server keys (--keys) that say the same")
        needed = {f"image_{camera}": f"cameras {', '.join(self.cameras)}" for camera in self.cameras}
        needed |= {"proprio": f"proprio_dim {self.proprio_dim}"} if self.proprio_dim else {}
        if self.inputs and (lost := [ours for ours in needed if ours not in self.inputs]):
            raise PolicyError(f"{address} says {needed[lost[0]]}, and inputs without {lost[0]}; repair the server")
