"""What one client may ask of the policy server, so that none can take the machine's memory, or the places of others."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from gap_vla.core.typed_config import Bounds, check_numbers
from gap_vla.rollouts.policy import PolicyError


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """Memory for messages is at most about three times `max_message` for each of `max_connections`.

    Attributes:
        max_message: MiB; a larger message closes its connection (code 1009, "message too big").
        max_prompt: characters of an instruction; a longer one is answered with a text that says so.
        max_connections: at once; one more is closed at once (code 1013, "try again later").
        idle: seconds without a whole message after which a connection is closed (code 1008).

    Raises:
        PolicyError: a limit outside of its bounds.
    """

    max_message: Annotated[int, Bounds(1, 256, "MiB; pictures of a camera have less")] = 16
    max_prompt: Annotated[int, Bounds(1, 100_000, "characters")] = 2_000
    max_connections: Annotated[int, Bounds(1, 1000, "an open file each")] = 64
    idle: Annotated[float, Bounds(1, 86_400, "seconds; at most a day")] = 600.0

    def __post_init__(self) -> None:
        check_numbers(self, "", PolicyError)


DEFAULT_SERVER_LIMITS = ServerLimits()
