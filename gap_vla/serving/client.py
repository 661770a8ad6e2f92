"""Any VLA behind a websocket server that speaks openpi's protocol, as a policy."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from gap_vla.core.errors import UserError, message_of
from gap_vla.core.identity import plain
from gap_vla.serving.wire import KeyMapping, pack, unpack

PAUSE = 0.5
"""Seconds between two attempts to reach a server that is away."""

GREETING = 10.0
"""Seconds for a server's greeting at least; a server that loads its model for it may take all of `patience`."""

LIMIT = 600.0
"""Seconds that a server has for an answer, which may include compiling."""

MAX_ANSWER = 64 * 2**20
"""Bytes of a server's answer; a chunk of actions has some thousand."""


class _Link:
    """One episode's connection (a server may remember things for each), and what is left of the last answer."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.left: deque[np.ndarray] = deque()
        self.instruction: Any = None  # that they are for


class RemotePolicy:
    """Asks the server for each live episode, one connection per episode.

    The protocol: the server greets with a map of metadata; each observation is answered by a map with actions, or by
    a text, which is an error.

    Args:
        address: `ws://host:port`; what a user, a password or a query in it says is sent, and shown nowhere.
        keys: how the server names things.
        patience: seconds to wait for a server that cannot be reached.

    Attributes:
        server_metadata: what the server greets with.
        cameras, image_size: of the policy's training, where the server tells.

    Raises:
        UserError: nobody answers at `address` within `patience`, or not in this protocol.
    """

    def __init__(self, address: str, keys: KeyMapping | None = None, *, patience: float = 60.0) -> None:
        self.name = "remote"
        self.address, self._url, self.keys = public(address), address, keys or KeyMapping()
        self._patience = patience
        self._links: dict[int, _Link] = {}
        connection, self.server_metadata = self._connect()
        connection.close()
        self.cameras: tuple[str, ...] = tuple(self.server_metadata.get("cameras", ()))
        self.image_size: int | None = self.server_metadata.get("image_size")
        self.identity = {"address": self.address, "keys": plain(self.keys), "server": plain(self.server_metadata)}

    def reset(self, episode_ids: Sequence[int]) -> None:
        self.forget(episode_ids)

    def forget(self, episode_ids: Sequence[int]) -> None:
        """Ends the connections of episodes that are over."""
        for episode in episode_ids:
            if (link := self._links.pop(episode, None)) is not None:
                link.connection.close()

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """Raises UserError: the server has gone, answers with an error, or with no actions."""
        rows = []
        for row, episode in enumerate(episode_ids):
            observation = {key: value[row] for key, value in observations.items()}
            instruction = observation.get("language_instruction")
            link = self._links.get(episode)
            if link is None or not link.left or link.instruction != instruction:
                link = self._ask(episode, observation)
                link.instruction = instruction
            rows.append(link.left.popleft())
        return np.stack(rows)

    def close(self) -> None:
        """Ends all connections."""
        self.forget(list(self._links))

    def _ask(self, episode: int, observation: dict[str, Any]) -> _Link:
        """The episode's link, with the actions that answer an observation."""
        if (link := self._links.get(episode)) is None:
            link = self._links[episode] = _Link(self._connect()[0])
        try:
            link.connection.send(pack(self.keys.to_wire(observation)))
            answer = link.connection.recv(timeout=LIMIT)
        except (ConnectionClosed, OSError) as error:
            raise UserError(f"{self.address} does not answer any more ({message_of(error)})") from error
        if isinstance(answer, str):  # often a traceback, whose end says what was wrong
            raise UserError(f"{self.address} answered with an error: {answer[-300:]}")
        try:
            link.left = deque(self.keys.from_wire(unpack(answer))[: self.keys.execute])
        except (UserError, ValueError, IndexError) as error:
            raise UserError(f"{self.address}: {error}; correct the key file (--keys), or its answer") from None
        return link

    def _connect(self) -> tuple[ClientConnection, dict[str, Any]]:
        """A new connection, and the server's greeting."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                with contextlib.ExitStack() as stack:
                    # servers that compute in their event loop, as openpi's, answer no ping meanwhile
                    connection = stack.enter_context(
                        connect(self._url, compression=None, max_size=MAX_ANSWER, ping_interval=None, proxy=None)
                    )
                    greeting = connection.recv(timeout=max(GREETING, deadline - time.monotonic()))
                    metadata = dict(unpack(greeting))  # type: ignore[arg-type]
                    stack.pop_all()
                    return connection, metadata
            except (OSError, WebSocketException, ValueError, TypeError) as error:
                hopeless = isinstance(error, InvalidURI | ValueError | TypeError)
                if hopeless or time.monotonic() >= deadline:
                    advice = "start one there (gap-vla serve-policy --checkpoint DIR), or give another ws://HOST:PORT"
                    what = f"no policy server of openpi's protocol at {self.address}"
                    raise UserError(f"{what} ({message_of(error)}); {advice}") from error
                time.sleep(PAUSE)


def public(address: str) -> str:
    """An address as files and pages may show it, without user, password and query.

    >>> public("ws://me:secret@robot:8000/?token=abc"), public("ws://robot:8000")
    ('ws://robot:8000/', 'ws://robot:8000')
    """
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
