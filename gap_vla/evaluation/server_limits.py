"""What one client may ask of the policy server, so that none can take the machine's memory, or the places of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gap_vla.core.foreign import finite, whole
from gap_vla.evaluation.policy import PolicyError

BOUNDS: Mapping[str, tuple[int, int]] = {
    "max_message": (1, 256),
    "max_prompt": (1, 100_000),
    "max_connections": (1, 1000),
    "idle": (1, 86_400),
}
"""Least and greatest value of each limit."""


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """Memory for messages is at most about three times `max_message` for each of `max_connections`.

    Attributes:
        max_message: MiB; a larger message closes its connection (code 1009, "message too big").
        max_prompt: characters of an instruction; a longer one is answered with a text that says so.
        max_connections: at once; one more is closed at once (code 1013, "try again later").
        idle: seconds without a whole message after which a connection is closed (code 1008).

    Raises:
        PolicyError: a limit outside of its `BOUNDS`.
    """

    max_message: int = 16
    max_prompt: int = 2_000
    max_connections: int = 64
    idle: float = 600.0

    def __post_init__(self) -> None:
        for name, (least, greatest) in BOUNDS.items():
            check = finite if name == "idle" else whole
            check(name, getattr(self, name), least, greatest, PolicyError)


DEFAULT_SERVER_LIMITS = ServerLimits()
