"""Any VLA behind a websocket server that speaks openpi's protocol, as a policy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import struct
import time
import warnings
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from gap_vla.core.foreign import finite, one_line, shown
from gap_vla.core.identity import differences, flat, in_words, public
from gap_vla.core.processes import parts
from gap_vla.rollouts.policy import FIRST_ANSWER, PolicyError, PolicyUnavailable
from gap_vla.serving.greeting import Greeting, is_ours, of_policy
from gap_vla.serving.key_mapping import KeyMapping, tell_unread
from gap_vla.serving.wire import WireError, pack, unpack

logging.getLogger("websockets").addHandler(logging.NullHandler())  # what goes wrong is raised, too

_PAUSE = 0.5
"""Seconds between two attempts to reach a server that is away."""
_GREETING = 10.0
"""Seconds for it at least."""

MAX_LOST = 3
"""Connections that a server may close within one episode; each time it forgets what it was shown."""

MOST_WAITING = 32
"""Connections of episodes that others act beside; half of those that a server of ours takes."""

MAX_ANSWER = 64 * 2**20
"""Bytes of a server's answer; a chunk of actions has some thousand."""


class _Link:
    """One episode's connection (a server may remember things for each), and what is left of the last answer.

    Args:
        patience: seconds to wait for the greeting, for which some servers load their model; `_GREETING` at least.

    Raises:
        OSError, WebSocketException: nobody answers.
        WireError: a greeting in another protocol.
    """

    def __init__(self, address: str, patience: float) -> None:
        with contextlib.ExitStack() as stack:
            self.connection: ClientConnection = stack.enter_context(
                connect(
                    address,
                    compression=None,
                    max_size=MAX_ANSWER,
                    ping_interval=None,  # servers that compute in their event loop, as openpi's, answer none meanwhile
                    open_timeout=10,
                    close_timeout=1,
                    proxy=None,
                )
            )
            greeting = self.answer(max(_GREETING, patience))
            if isinstance(greeting, str):
                raise WireError(f"a text instead of metadata: {greeting[:200]!r}")
            if len(greeting) > 2**20:  # it is kept with what is measured
                raise WireError(f"a greeting of {len(greeting):,} bytes; metadata have at most {2**20:,}")
            self.metadata = unpack(greeting)
            if not isinstance(self.metadata, dict):
                raise WireError(f"a {type(self.metadata).__name__} instead of a map of metadata")
            self.close = stack.pop_all().close
        self.left: deque[np.ndarray] = deque()
        self.told: Any = None  # the instruction that they are for
        self.unused: bytes | None = None  # what they answer, while none of them has been returned

    def answer(self, limit: float) -> bytes | str:
        """The next message. Raises TimeoutError: none within so many seconds."""
        for part in parts(limit):
            with contextlib.suppress(TimeoutError):
                return self.connection.recv(timeout=part)
        raise TimeoutError(f"timed out in {limit:.1f}s")


class RemotePolicy:
    """Asks the server for each live episode, one connection per episode.

    The protocol: the server greets with a map of metadata; each observation is answered by a map with actions, or by
    a text, which is an error.

    Args:
        address: `ws://host:port`; what a user, a password or a query in it says is sent, and shown nowhere.
        keys: how the server names things.
        patience: seconds of an episode to wait for a server that cannot be reached or has gone; then, or when it has
            closed more than `MAX_LOST` connections of it, `PolicyUnavailable`.
        limit: seconds for an answer, which may include compiling; then a connection counts as lost.

    Attributes:
        forgotten: episodes whose connection was lost after an answer, at a server that says that it keeps something of
            an episode; it goes on as if they began there. To be reset and played anew, as `evaluate` does.

    Raises:
        PolicyUnavailable: nobody answers at `address` within `patience`.
        PolicyError: `address` is none, or `patience` or `limit` no time.
    """

    def __init__(
        self, address: str, keys: KeyMapping | None = None, *, patience: float = 60.0, limit: float = FIRST_ANSWER
    ) -> None:
        self.name = "remote"
        self.image_size: int | None = None  # of training, if it is known
        self.cameras: tuple[str, ...] = ()  # of training, where the server tells
        self.said = Greeting()  # what is sent and answered is compared with it
        self._told: set[str] = set()
        self.patience = finite("patience", patience, 0, 86_400, PolicyError)
        _check_address(address)
        self.address, self._url, self.keys = public(address), address, keys or KeyMapping()
        self._limit = finite("limit", limit, 0.001, 86_400, PolicyError)
        self._links: dict[int, _Link] = {}
        self._process = os.getpid()
        self._lost: Counter[int] = Counter()  # connections, by episode
        self._waited: dict[int, float] = {}  # seconds of patience, by episode
        self._turn = 0  # number of the latest call; an earlier one that was given up on must not go on beside it
        self._policy: dict[str, Any] = {}  # what the server says of it
        deadline = time.monotonic() + self.patience
        self.server_metadata, again = (self._greeting(deadline) for _ in range(2))
        first, second = _plain(self.server_metadata), _plain(again)
        ours = is_ours(self.server_metadata) or is_ours(again)
        if changed := differences(of_policy(first), of_policy(second)) if ours else {}:
            problem = f"greets two connections with two policies ({one_line(in_words(changed), 200)})"
            raise PolicyError(f"{self.address} {problem}; give each an address of its own")
        same = second.items()  # the rest belongs to a connection, as its time or number
        self._policy = {key: value for key, value in first.items() if (key, value) in same}
        answers = self._policy.get("answers")  # as servers of ours have it
        looks_back = self._policy.get("window_size", 1) != 1
        self._keeps = answers == "single actions" or (answers == "chunks" and looks_back)
        self.forgotten: set[int] = set()
        self._answered: set[int] = set()
        self.identity = {"address": self.address, "keys": dataclasses.asdict(self.keys), "server": self._policy}

    def reset(self, episode_ids: Sequence[int]) -> None:
        for episode in episode_ids:
            self._drop(episode)
            self._lost[episode], self._waited[episode] = 0, 0.0
        self._answered.difference_update(episode_ids)
        self.forgotten.difference_update(episode_ids)

    def forget(self, episode_ids: Sequence[int]) -> None:
        """Ends the connections of episodes that are over."""
        for episode in episode_ids:
            self._drop(episode)
            self._waited.pop(episode, None)

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        """Raises PolicyUnavailable when the server has gone, PolicyError when it answers with an error."""
        if isinstance(text := observations.get("language_instruction"), str):  # of one row
            observations = {**observations, "language_instruction": np.atleast_1d(text)}
        rows = {key: len(value) for key, value in observations.items()}
        if odd := [key for key, value in observations.items() if np.ma.is_masked(value)]:
            raise PolicyError(f"{odd[0]} is masked in places; fill them in")
        if odd := [key for key, found in rows.items() if found != len(episode_ids)]:
            raise PolicyError(f"{odd[0]} has {rows[odd[0]]} rows for {len(episode_ids)} episodes; give one for each")
        if {*episode_ids} - {*self._waited} or len({*episode_ids}) < len(episode_ids):
            raise PolicyError(f"episodes {[*episode_ids]}: reset each of them once before it acts, and name it once")
        self._leave_to_parent()
        self._turn += 1
        others = [episode for episode in self._links if episode not in episode_ids]  # the oldest first
        for over in others[: max(0, len(others) - MOST_WAITING)]:
            self._drop(over)
            self._answered.discard(over)  # this end closed it, and says so
            warnings.warn(f"more than {MOST_WAITING} episodes wait; a server begins the oldest anew", stacklevel=2)
        links = []
        texts: Any = [None] * len(episode_ids)  # no instruction of a server that is sent none
        if "language_instruction" in self.keys.observation:
            texts = observations.get("language_instruction", texts)
        for row, episode in enumerate(episode_ids):
            link = self._links.get(episode)
            if link is None or not link.left or link.unused or link.told != texts[row]:
                link = self._ask(episode, {key: value[row] for key, value in observations.items()})
                link.told = texts[row]
            links.append(link)
        if len(widths := {len(link.left[0]) for link in links}) > 1:
            raise PolicyError(f"{self.address} answered with actions of widths {sorted(widths)}; let them have one")
        for link in links:
            link.unused = None
        return np.stack([link.left.popleft() for link in links])

    def close(self) -> None:
        """Ends all connections."""
        self._turn += 1
        self.reset(list(self._links))

    def _drop(self, episode: int) -> None:
        self._leave_to_parent()
        if (link := self._links.pop(episode, None)) is not None:
            link.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: the connections are its parent's."""
        if self._process != os.getpid():
            self._links, self._process = {}, os.getpid()

    def _ask(self, episode: int, observation: dict[str, Any]) -> _Link:
        named = self.keys.to_wire(observation)
        self.said.require_sent(self.address, observation if "proprio" in self.keys.observation else {})
        tell_unread(self.said.untaken(named), self._told, "this client sends", self.address)
        message = pack(named)
        if (kept := self._links.get(episode)) is not None:
            if kept.unused == message:  # the call failed in another row, and is repeated
                return kept
            kept.left, kept.unused = deque(), None
        away, turn = time.monotonic(), self._turn
        while True:
            if (link := self._links.get(episode)) is None:
                link = self._links[episode] = self._connect(away + self.patience - self._waited[episode])
                self._waited[episode] += time.monotonic() - away
                if self._keeps and episode in self._answered - self.forgotten:
                    self.forgotten.add(episode)
                    problem = f"has lost the connection of episode {episode} and forgotten what it was shown"
                    warnings.warn(
                        f"{self.address} {problem}; play it anew (evaluate does; give the command again)", stacklevel=3
                    )
            asked = time.monotonic()
            try:
                with contextlib.suppress(TimeoutError):  # what lies there already answers no observation
                    link.connection.recv(timeout=0)
                    raise PolicyError(f"{self.address} sends more than one answer to an observation; let it send one")
                link.connection.send(message)
                answer = link.answer(self._limit)
                break
            except (ConnectionClosed, OSError) as error:
                if turn != self._turn:
                    raise PolicyUnavailable("nobody waits for this answer any more") from error
                self._drop(episode)
                self._lost[episode] += 1
                away = asked if isinstance(error, TimeoutError) else time.monotonic()
                over = time.monotonic() - away + self._waited[episode] >= self.patience
                if self._lost[episode] > MAX_LOST or over:
                    problem = f"closed, or was silent on, {self._lost[episode]} connection(s) of one episode ({error})"
                    raise PolicyUnavailable(f"{self.address} {problem}; let it keep one each, and answer") from error
                time.sleep(_PAUSE)
        if isinstance(answer, str):  # often a traceback, whose end says what was wrong
            raise PolicyError(f"{self.address} answered with an error: {one_line(answer[-300:])}")
        self._answered.add(episode)
        try:
            chunk = self.keys.from_wire(content := unpack(answer))
        except WireError as error:
            raise PolicyError(f"{self.address} does not speak openpi's protocol: {error}") from error
        except PolicyError as error:
            raise PolicyError(f"{self.address}: {error}; correct the key file (--keys), or its answer") from None
        if len(chunk) == 0:
            raise PolicyError(f"{self.address} answered with no actions; let it answer with at least one")
        self.said.require_answered(self.address, len(chunk), np.shape(content[self.keys.actions])[-1])
        tell_unread(self.keys.unread(content), self._told, f"{self.address} answers with", "this client")
        if len(chunk) < (asked := self.keys.execute):
            short = f"{self.address} answered with {len(chunk)} actions, and {asked} of each answer are to be executed"
            raise PolicyError(f"{short}; lower execute in the key file (--keys), or let it answer with whole chunks")
        link.left, link.unused = deque(chunk[: self.keys.execute]), message
        return link

    def _greeting(self, deadline: float) -> dict[Any, Any]:
        link = self._connect(deadline)
        link.close()
        return link.metadata

    def _connect(self, deadline: float) -> _Link:
        while True:
            try:
                link = _Link(self._url, deadline - time.monotonic())
                _limit_sending(link.connection.socket, self._limit)
                now = {key: value for key, value in _plain(link.metadata).items() if key in self._policy}
                if changed := differences(self._policy, now):
                    link.close()
                    problem = f"greets with another policy than before ({one_line(in_words(changed), 200)})"
                    raise PolicyError(f"{self.address} {problem}; evaluate each with an --out of its own")
                return link
            except WireError as error:
                raise PolicyError(f"{self.address} does not speak openpi's protocol: {error}") from error
            except (OSError, WebSocketException, AssertionError) as error:  # the last of noise that is no HTTP
                if time.monotonic() >= deadline:
                    raise PolicyUnavailable(self._unreached(error)) from error
                time.sleep(_PAUSE)

    def _unreached(self, error: Exception) -> str:
        if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code == CloseCode.TRY_AGAIN_LATER:
            advice = "episodes that are played at once (--workers times --slots) need a connection each"
            return f"{self.address} has no place left ({error.rcvd.reason}): {advice}"
        advice = "start one there (gap-vla serve-policy --checkpoint DIR), or give another address"
        found = f"{error}: {error.__cause__}" if error.__cause__ else f"{error}"  # which names the status of HTTP/1.0
        return f"no policy server at {self.address} ({one_line(found, 200)}); {advice}"


def _limit_sending(connection: socket.socket, seconds: float) -> None:
    """What a server does not take within this time ends the connection; by TLS where the system has such a limit."""
    timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(seconds * 1000)))


def _check_address(address: str) -> None:
    """Raises PolicyError for what no server can be reached at, however long one waits."""
    try:
        parse_uri(address)
        problem = "no such port" if urlsplit(address).port == 0 else None
        str(urlsplit(address).hostname).encode("idna")
    except (InvalidURI, ValueError) as error:
        problem = " ".join(str(error).split())
    if problem:
        told = f"{shown(address)} is no address ({problem})"
        if {"@", "?"} & {*address}:
            told = "the address, whose user, password or query is not shown, is none"
        raise PolicyError(f"{told}; give ws://HOST:PORT, as ws://localhost:8000")


def _plain(metadata: dict[Any, Any]) -> dict[str, Any]:
    """The part of the greeting that can be written down as JSON, by dotted keys."""
    plain = {}
    for key, value in flat(metadata):
        with contextlib.suppress(TypeError, ValueError):  # bytes, arrays, NaN
            plain[key] = json.loads(json.dumps(value, allow_nan=False))
    return plain
