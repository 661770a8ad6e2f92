"""Any VLA behind a websocket server that speaks openpi's protocol, as a policy."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from gap_vla.core.config import to_dict
from gap_vla.core.errors import UserError, message_of
from gap_vla.core.identity import digest
from gap_vla.serving.key_mapping import KeyMapping
from gap_vla.serving.wire import pack, unpack

PAUSE = 0.5
"""Seconds between two attempts to reach a server that is away."""

GREETING = 10.0
"""Seconds for a server's greeting at least; a server that loads its model for it may take all of `patience`."""

MAX_ANSWER = 64 * 2**20
"""Bytes of a server's answer; a chunk of actions has some thousand."""


class _Link:
    """One episode's connection (a server may remember things for each), and what is left of the last answer."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.left: deque[np.ndarray] = deque()
        self.instruction: Any = None  # that they are for
        self.answered = False


class RemotePolicy:
    """Asks the server for each live episode, one connection per episode.

    The protocol: the server greets with a map of metadata; each observation is answered by a map with actions, or by
    a text, which is an error.

    Args:
        address: `ws://host:port`; what a user, a password or a query in it says is sent, and shown nowhere.
        keys: how the server names things.
        patience: seconds to wait for a server that cannot be reached or has gone.
        limit: seconds for an answer, which may include compiling.

    Attributes:
        forgotten: episodes whose connection was lost after an answer: the server does not remember them. They are to be
            reset and played anew, as `evaluate` does.
        server_metadata: what the server greets with.
        cameras, image_size: of the policy's training, where the server tells.

    Raises:
        UserError: nobody answers at `address` within `patience`, or not in this protocol.
    """

    def __init__(
        self, address: str, keys: KeyMapping | None = None, *, patience: float = 60.0, limit: float = 600.0
    ) -> None:
        self.name = "remote"
        self.address, self._url, self.keys = public(address), address, keys or KeyMapping()
        self._patience, self._limit = patience, limit
        self._links: dict[int, _Link] = {}
        self.forgotten: set[int] = set()
        connection, self.server_metadata = self._connect(time.monotonic() + patience)
        connection.close()
        self.cameras: tuple[str, ...] = tuple(self.server_metadata.get("cameras", ()))
        self.image_size: int | None = self.server_metadata.get("image_size")
        said = _as_json(self.server_metadata)
        self.identity = {"address": self.address, "keys": to_dict(self.keys), "server": said}

    def reset(self, episode_ids: Sequence[int]) -> None:
        self.forget(episode_ids)

    def forget(self, episode_ids: Sequence[int]) -> None:
        """Ends the connections of episodes that are over."""
        for episode in episode_ids:
            self.forgotten.discard(episode)
            self._drop(episode)

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

    def _drop(self, episode: int) -> None:
        if (link := self._links.pop(episode, None)) is not None:
            link.connection.close()

    def _ask(self, episode: int, observation: dict[str, Any]) -> _Link:
        """The episode's link, with the actions that answer an observation."""
        message, deadline = pack(self.keys.to_wire(observation)), time.monotonic() + self._patience
        while True:
            if (link := self._links.get(episode)) is None:
                link = self._links[episode] = _Link(self._connect(deadline)[0])
            try:
                link.connection.send(message)
                answer = link.connection.recv(timeout=self._limit)
                break
            except TimeoutError:
                raise UserError(f"{self.address} did not answer within {self._limit:g} s") from None
            except (ConnectionClosed, OSError) as error:
                if link.answered:
                    self.forgotten.add(episode)
                self._drop(episode)
                if time.monotonic() >= deadline:
                    raise UserError(f"{self.address} closes its connections ({message_of(error)})") from error
                time.sleep(PAUSE)
        if isinstance(answer, str):  # often a traceback, whose end says what was wrong
            raise UserError(f"{self.address} answered with an error: {answer[-300:]}")
        link.answered = True
        try:
            chunk = self.keys.from_wire(unpack(answer))
        except (UserError, ValueError) as error:
            raise UserError(f"{self.address}: {error}; correct the key file (--keys), or its answer") from None
        if len(chunk) < self.keys.execute:
            told = f"answered with {len(chunk)} actions, and {self.keys.execute} of each answer are to be executed"
            raise UserError(f"{self.address} {told}; lower execute in the key file (--keys)")
        link.left = deque(chunk[: self.keys.execute])
        return link

    def _connect(self, deadline: float) -> tuple[ClientConnection, dict[str, Any]]:
        """A new connection, and the server's greeting."""
        while True:
            try:
                with contextlib.ExitStack() as stack:
                    # servers that compute in their event loop, as openpi's, answer no ping meanwhile
                    connection = stack.enter_context(
                        connect(self._url, compression=None, max_size=MAX_ANSWER, ping_interval=None, proxy=None)
                    )
                    greeting = connection.recv(timeout=max(GREETING, deadline - time.monotonic()))
                    metadata = unpack(greeting) if isinstance(greeting, bytes) else greeting
                    if not isinstance(metadata, dict):
                        raise ValueError(f"it greets with {str(metadata)[:200]!r} instead of a map of metadata")
                    stack.pop_all()
                    return connection, metadata
            except InvalidURI as error:
                raise UserError(f"{self.address} is no address; give ws://HOST:PORT, as ws://localhost:8000") from error
            except ValueError as error:
                raise UserError(f"{self.address} does not speak openpi's protocol: {error}") from error
            except (OSError, WebSocketException) as error:
                if time.monotonic() >= deadline:
                    advice = "start one there (gap-vla serve-policy --checkpoint DIR), or give another address"
                    raise UserError(f"no policy server at {self.address} ({message_of(error)}); {advice}") from error
                time.sleep(PAUSE)


def _as_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """The entries of a greeting that can be written down."""
    said = {}
    for key, value in metadata.items():
        with contextlib.suppress(TypeError, ValueError):  # bytes, arrays
            said[key] = json.loads(json.dumps(value))
    return said


def public(address: str) -> str:
    """An address as files and pages may show it: a short digest stands for user, password and query.

    >>> public("ws://me:secret@robot:8000/?token=abc"), public("ws://robot:8000")
    ('ws://robot:8000/#6034', 'ws://robot:8000')
    """
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    if not host or (host == parts.netloc and not parts.query):
        return address
    return f"{parts.scheme}://{host}{parts.path}#{digest({'address': address}, 4)}"
