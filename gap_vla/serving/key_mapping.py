"""What a policy server calls our observations."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gap_vla.core.foreign import Section, one_line, shown
from gap_vla.demos.fields import resized
from gap_vla.rollouts.policy import PolicyError
from gap_vla.serving.wire import has_flags

_TIMING = ("server_timing", "policy_timing")
"""What openpi's servers tell beside actions of how long they took."""

_ERRORS = re.compile(r"(errors?|exceptions?|traceback|fail(ed|ure))([_-]?(code|message|msg))?")
_NO_ERROR = ("", "none", "null", "no error", "no errors", "n/a", "false", "0", "[]", "{}")
_WENT_WELL = ("true", "1", "ok", "success", "200")

MOST_TOLD = 100
"""Entries that are named as unread; of a peer that sends others each time, the rest is not."""

OBSERVATION = {
    "image_primary": "observation/image",
    "image_wrist": "observation/wrist_image",
    "proprio": "observation/state",
    "language_instruction": "prompt",
}
"""Our names of what is observed, and openpi's for LIBERO-like policies."""

_READ: dict[str, Callable[[Section, str], Any]] = {
    "actions": Section.text,
    "execute": lambda found, key: found.whole(key, 1, 1000),
    "image_size": lambda found, key: found.whole(key, 1, 4096),
    "action_columns": lambda found, key: found.list(key, lambda items, name: items.whole(name, 0, 10_000)),
    "action_signs": lambda found, key: found.list(key, lambda items, name: items.finite(name, -1e6, 1e6)),
}
"""Attributes of `KeyMapping` as a file has them; null only for those that it is the default of."""


@dataclasses.dataclass(frozen=True)
class KeyMapping:
    """Names on the wire, and what has to be done to the values. The defaults are openpi's.

    Attributes:
        observation: our key to the server's. Keys that are not listed are not sent.
        actions: where the answer holds its actions, `[A]` or `[H, A]`.
        execute: actions executed of each answer before the server is asked again.
        image_size: pictures are resized to this (pixels, square), or sent as they are.
        action_columns: which of the answer's columns are ours, in our order; None: all. A robot's VLA may return
            padded or differently ordered actions.
        action_signs: 1 or -1 for each of our columns (-1 for a gripper that opens with +1, say); None: all 1.

    Raises:
        PolicyError: an unknown observation, two under one name, or a value of another kind or beyond its bounds.
    """

    observation: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(OBSERVATION))
    actions: str = "actions"
    execute: int = 1
    image_size: int | None = None
    action_columns: tuple[int, ...] | None = None
    action_signs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        optional = {field.name for field in dataclasses.fields(self) if field.default is None}
        given = {name: value for name, value in vars(self).items() if value is not None or name not in optional}
        plain = {name: [*value] if isinstance(value, tuple) else value for name, value in given.items()}
        _require_mapping(Section(plain, "KeyMapping", PolicyError))
        object.__setattr__(self, "observation", dict(self.observation))  # not the caller's, which may change
        for name in {"action_columns", "action_signs"} & given.keys():
            object.__setattr__(self, name, tuple(given[name]))

    @classmethod
    def read(cls, path: Path) -> KeyMapping:
        """From a JSON file with some of the attributes.

        Raises:
            PolicyError: no such file, not JSON, an unknown key, or a value of another kind; names file and key.
        """
        found = Section.read(path, PolicyError)
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(found.values) - set(known)):
            raise PolicyError(f"{path}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")
        optional = {field.name for field in dataclasses.fields(cls) if field.default is None}
        given = {key: value for key, value in found.values.items() if value is not None or key not in optional}
        return cls(**_require_mapping(Section(given, found.where, PolicyError)))

    def to_wire(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """One observation (no batch axis) under the server's names."""
        message = {}
        for key, theirs in self.observation.items():
            if key not in observation:
                continue
            value = observation[key]
            if key == "language_instruction":
                if not isinstance(value := value.item() if isinstance(value, np.ndarray) else value, str):
                    raise PolicyError(f"language_instruction is {value!r:.60}, no text; give str (bytes: .decode())")
                value = str(value)  # numpy's is none of msgpack
            elif key.startswith("image_") and self.image_size:
                try:
                    value = resized(np.asarray(value)[None], (self.image_size, self.image_size))[0]
                except (TypeError, ValueError) as error:
                    found = f"{key} is {np.asarray(value).dtype}{[*np.shape(value)]}, which cannot be resized"
                    raise PolicyError(f"{found}; give uint8[h, w, 3], or leave image_size out") from error
            message[theirs] = value
        return message

    def from_wire(self, answer: Any) -> Float[np.ndarray, "H A"]:
        """The actions of an answer in our order.

        Raises:
            PolicyError: the answer has no such actions. (NaN in them fails the episode that it is played in.)
        """
        entries = answer.items() if isinstance(answer, Mapping) else ()
        beside = {key: value for key, value in entries if key != self.actions}
        if failed := [key for key, value in beside.items() if _failed(key, value)]:
            told = [f"{key}: {value}" for key, value in beside.items() if key in failed or isinstance(value, str)]
            raise PolicyError(f"the server's answer says that it failed ({one_line('; '.join(told))})")
        if not isinstance(answer, Mapping) or self.actions not in answer:
            found = one_line(", ".join(map(str, answer)) if isinstance(answer, Mapping) else type(answer).__name__)
            raise PolicyError(f"the server's answer has no {self.actions!r} (found: {found or 'none'})")
        actions: np.ndarray
        try:
            given = np.asarray(answer[self.actions])
            actions = np.atleast_2d(given)
        except (TypeError, ValueError):
            given = actions = np.empty((0, 0, 0))
        numbers = actions.dtype.kind in "iuf" and not has_flags(answer[self.actions])
        if actions.ndim != 2 or not given.ndim or not numbers:
            raise PolicyError(f"the server's {self.actions!r} is not an array of numbers, of shape [A] or [H, A]")
        actions = actions.astype(np.float32)
        if self.action_columns is not None:
            if max(self.action_columns) >= actions.shape[1]:
                raise PolicyError(f"action_columns asks for column {max(self.action_columns)} of {actions.shape[1]}")
            actions = actions[:, list(self.action_columns)]
        if self.action_signs is None:
            return actions
        if len(self.action_signs) != actions.shape[1]:
            raise PolicyError(f"action_signs has {len(self.action_signs)} factors for {actions.shape[1]} columns")
        return actions * np.asarray(self.action_signs, np.float32)

    def unread(self, answer: Mapping[Any, Any]) -> list[Any]:
        """Keys of an answer that `from_wire` does not read: all but actions, usual timing, and what says of a failure
        that there was none."""
        read = (self.actions, *_TIMING)
        return [key for key, value in answer.items() if key not in read and _failed(key, value) is None]


def _failed(key: Any, value: Any) -> bool | None:
    """Whether an entry of an answer says that this failed; None: it says nothing of that, or nothing that is known."""
    name = _text(key).lower()
    if not (of_errors := bool(_ERRORS.fullmatch(name))) and name not in ("status", "status_code", "success", "ok"):
        return None
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, Mapping | list | tuple):
        parts = [*value.values()] if isinstance(value, Mapping) else [*value]
        single = not isinstance(value, Mapping) and len(parts) == 1 and not isinstance(parts[0], Mapping | list | tuple)
        if not single:  # a status in several parts says what is known to those who wrote it
            return any(_text(part).strip().lower() not in _NO_ERROR for part in parts) if of_errors else None
        (value,) = parts
    if not isinstance(value, str | bytes | int | None) and value != 0:  # what is off by so many metres, say
        return None
    said = _text(value).strip().lower().removesuffix(".0")
    if of_errors:
        return said not in (*_NO_ERROR, *_WENT_WELL[2:])
    if name.startswith("status") and said.isdecimal():  # of HTTP, or of a process
        return True if int(said[:9]) >= 400 else False if said in ("0", "200") else None
    return False if said in _WENT_WELL else True if re.match("err|fail|exception|false$|0$", said) else None


def _text(said: Any) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def tell_unread(keys: Iterable[Any], told: set[str], who: str, reader: str) -> None:
    """Names on stderr what this end of a connection is sent and does not read, or the other does not, each once: what
    was, is put into `told`."""
    new = sorted(name for name in {*map(shown, keys)} if f"{who} {name}" not in told)
    if not new or len(told) >= MOST_TOLD:
        return
    told.update(f"{who} {name}" for name in new)
    named = ", ".join(new[:20]) + (f" and {len(new) - 20} more" if len(new) > 20 else "")
    with contextlib.suppress(OSError, ValueError, AttributeError):  # where stderr is full, closed, or None
        print(f"note: {who} {named}, which {reader} does not read", file=sys.stderr, flush=True)


def require_shown(keys: Path, shown: Collection[str], advice: str = "name its camera with --cameras") -> None:
    """Raises PolicyError if a key file names a picture that is none of those `shown` to the policy."""
    named = Section.read(keys, PolicyError).section("observation", {}).values
    if lost := sorted(key for key in named if key.startswith("image_") and key not in shown):
        advice = f"{advice}, or take it out of the key file"
        raise PolicyError(f"{keys}: observation.{lost[0]} is none of the pictures that are shown; {advice}")


def _require_mapping(found: Section) -> dict[str, Any]:
    """The attributes of a `KeyMapping` that are given; raises the section's error for what they cannot be."""
    given = {key: read(found, key) for key, read in _READ.items() if key in found}
    if "observation" in found:
        names = found.section("observation")
        if unknown := sorted(set(names.values) - set(OBSERVATION)):
            raise found.error(f"{names.name(unknown[0])} is none of our observations: {', '.join(OBSERVATION)}")
        given["observation"] = {ours: names.text(ours) for ours in names.values}
        if len({*given["observation"].values()} - {""}) < len(names.values):
            raise found.error(f"{names.where} gives an observation no name, or two the same; give each its own")
    for key in ("observation", "actions", "action_columns", "action_signs"):
        if key in given and not given[key]:
            raise found.error(f"{found.name(key)} is empty; name what is sent or taken, or leave it out")
    if len(set(columns := given.get("action_columns", ()))) < len(columns):
        raise found.error(f"{found.name('action_columns')} names a column twice; each of ours has its own")
    if {*map(abs, given.get("action_signs", ()))} - {1}:
        raise found.error(f"{found.name('action_signs')}: each must be 1 or -1")
    return given
