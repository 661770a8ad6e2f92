"""Serves a policy to openpi clients over websockets. A bad message is answered, never fatal.

Each connection is one episode: its history starts empty. A greeting with metadata comes first; each observation (a
map) is answered by `{"actions": float32[H, A], "server_timing": {...}}`, anything unusable by a text that says why.
What one client may ask for is bounded by `ServerLimits`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import http
import itertools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.typing import Origin

from gap_vla.core.episode import LARGEST_STATE
from gap_vla.core.foreign import shown, whole
from gap_vla.core.typed_config import Bounds, check_numbers
from gap_vla.rollouts.policy import Policy, PolicyError, as_numbers, forget, identity
from gap_vla.serving.key_mapping import KeyMapping, tell_unread
from gap_vla.serving.wire import WireError, has_flags, pack, unpack


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """What one client may ask for, so that none can take the machine's memory, or the places of others.

    Memory for messages is at most about three times `max_message` for each of `max_connections`.

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


_Shared = tuple["itertools.count[int]", concurrent.futures.ThreadPoolExecutor]
_SHARED: weakref.WeakKeyDictionary[Policy, _Shared] = weakref.WeakKeyDictionary()
"""Numbers of connections, and the thread that calls a policy: several servers may serve one."""
os.register_at_fork(after_in_child=_SHARED.clear)  # a fork has none of the threads

LAST_ANSWER = 10.0
"""Seconds that a server which ends waits for what its policy still computes."""
MAX_COMPLAINT = 2000
"""Characters of a text that says why an observation cannot be used."""

_NAMES = {"image_primary": "uint8 [h, w, 3]", "image_wrist": "uint8 [h, w, 3]", "proprio": "numbers [P]"}


class PolicyServer:
    """Serves `policy` to any number of connections; the policy itself is called by one thread.

    Args:
        whole_chunks: answer with everything that the policy predicts (it must have `predict`), for clients that
            execute chunks themselves, as openpi's do. Otherwise the server executes: every observation is answered by
            one action, and the policy keeps its own chunks and history.
        metadata: entries of the greeting, beside the policy's `identity` as it is now, if it is JSON.
        keys: how clients name things; our own names are understood as well.
        limits: what a client may ask for; default: `ServerLimits()`.
        origins: web pages that may connect, such as `http://127.0.0.1:3000`. Browsers name the page that asks; programs
            name none, and may always connect.

    Raises:
        WireError: metadata that cannot be sent.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        whole_chunks: bool,
        metadata: Mapping[str, Any] | None = None,
        keys: KeyMapping | None = None,
        limits: ServerLimits | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        if keys is not None and keys != KeyMapping(keys.observation):
            raise PolicyError("a server takes observation of keys alone; leave its other entries to clients")
        if not hasattr(policy, needed := "predict" if whole_chunks else "act"):
            raise PolicyError(f"{shown(policy)} has no {needed}, which a server asks for")
        self._origins = [None, *map(Origin, origins)]
        self._policy, self._keys, self._limits = policy, keys or KeyMapping(), limits or ServerLimits()
        self._call: Callable = policy.predict if whole_chunks else policy.act  # type: ignore[attr-defined]
        self._shape = "[1, H, A]" if whole_chunks else "[1, A]"
        greeting = {
            "policy": policy.name,
            "answers": "chunks" if whole_chunks else "single actions",
            "inputs": {ours: theirs for ours, theirs in self._keys.observation.items()},
            **_identity(policy, {"name", "execute"} if whole_chunks else {"name"}),  # the client executes chunks
            **(metadata or {}),
        }
        self._greeting = pack(greeting)
        self._open, self._told = 0, set[str]()
        shared: _Shared = itertools.count(), concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="policy")
        with contextlib.suppress(TypeError):  # a policy that cannot be a key has a server's own
            shared = _SHARED.setdefault(policy, shared)
        self._episodes, self._thread = shared

    async def start(self, host: str, port: int) -> Server:
        """Listens; port 0 takes a free one. Close what is returned to stop.

        Raises:
            PolicyError: no such port.
            OSError: the address cannot be listened on.
        """
        whole("port", port, 0, 65535, PolicyError)
        loop = asyncio.get_running_loop()
        others = loop.get_exception_handler() or type(loop).default_exception_handler
        loop.set_exception_handler(functools.partial(_say_what_is_short, [], others))
        return await serve(
            self._admit,
            host,
            port,
            compression=None,
            max_size=self._limits.max_message * 2**20,
            max_queue=1,  # messages that have come and nobody has looked at: one and no more
            close_timeout=2,
            ping_timeout=self._limits.idle,  # who stands still, as at a breakpoint, answers no ping
            origins=self._origins,
            process_request=lambda connection, request: (
                connection.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None
            ),
        )

    async def _admit(self, connection: ServerConnection) -> None:
        if self._open >= self._limits.max_connections:
            reason = f"{self._open} connections are open, as many as there may be"
            return await connection.close(CloseCode.TRY_AGAIN_LATER, reason)
        self._open += 1
        run = functools.partial(asyncio.get_running_loop().run_in_executor, self._thread)
        episode, problem = next(self._episodes), None
        try:
            if (problem := await run(_caught, self._policy.reset, [episode])) is not None:
                return await connection.send(problem)
            answer: bytes | str = self._greeting
            while True:
                async with asyncio.timeout(self._limits.idle):
                    await connection.send(answer)
                    message = await connection.recv(decode=False)
                answer = await run(self._answer, message, episode)
        except ConnectionClosed:
            pass  # clients come and go
        except TimeoutError:
            await connection.close(CloseCode.POLICY_VIOLATION, f"idle for {self._limits.idle:g} s")
        finally:
            self._open -= 1  # before the policy is told, which may take long: the next client comes at once
            if problem is None:
                await run(_caught, forget, self._policy, [episode])

    def _answer(self, message: bytes, episode: int) -> bytes | str:
        started = time.perf_counter()
        try:
            observation = self._observation(unpack(message))
            batch = {key: np.array(value)[None] for key, value in observation.items()}  # a policy may write into it
            ready = time.perf_counter()
            actions = as_numbers(self._call(batch, [episode]))
            finished = time.perf_counter()
            if actions.ndim != self._shape.count(",") + 1 or len(actions) != 1 or not actions.size:
                raise PolicyError(f"the policy returned actions of shape {actions.shape}, not {self._shape}")
            if not np.isfinite(actions).all():
                raise PolicyError("the policy's actions are NaN or infinite; its checkpoint is damaged")
            milliseconds = {"infer_ms": 1e3 * (finished - ready), "decode_ms": 1e3 * (ready - started)}
            return pack({"actions": np.atleast_2d(actions[0]), "server_timing": milliseconds})
        except WireError as error:
            return f"bad observation: {error}"[:MAX_COMPLAINT]
        except Exception as error:  # whatever the policy cannot take is the client's to know, not the server's end
            return _complaint(error)

    def _observation(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise WireError(f"a {type(found).__name__} instead of a map of observations")
        observation: dict[str, Any] = {}
        for ours, theirs in self._keys.observation.items():
            if ours != theirs and {ours, theirs} <= found.keys() and ours not in self._keys.observation.values():
                raise WireError(f"{theirs} and {ours} are two names of one; send one of them")
            value = found.get(theirs, None if ours in self._keys.observation.values() else found.get(ours))
            if value is None:
                continue
            if ours == "language_instruction":
                _require_text(value, theirs, self._limits.max_prompt)
            observation[ours] = value if ours == "language_instruction" else _numbers(value, ours, theirs)
        unread = found.keys() - {*self._keys.observation} - {*self._keys.observation.values()}
        tell_unread(unread, self._told, "a client sends", "this server")
        if not any(key in observation for key in _NAMES):
            names = ", ".join(f"{theirs} (or {ours})" for ours, theirs in self._keys.observation.items())
            there = ", ".join(sorted(map(shown, list(found)[:20]))) or "an empty map"
            raise WireError(f"none of the known keys in {there}; known: {names}")
        return observation


def _caught(call: Callable[..., object], *arguments: object) -> str | None:
    """Why a call fails, caught in its thread: asyncio waits for ever for one that raises StopIteration."""
    try:
        call(*arguments)
    except Exception as error:
        return _complaint(error)
    return None


def _complaint(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_COMPLAINT]


def _require_text(value: Any, name: str, longest: int) -> None:
    if not isinstance(value, str):
        raise WireError(f"{name} is a {type(value).__name__}, not a text")
    if len(value) > longest:
        raise WireError(f"{name} has {len(value)} characters; this server takes {longest}")


def _numbers(value: Any, ours: str, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, object)
    image = ours.startswith("image_")
    picture, row = array.dtype == np.uint8 and array.shape[2:] == (3,), array.dtype.kind in "iuf" and array.ndim == 1
    if has_flags(value):
        raise WireError(f"{name} holds True or False; send numbers")
    if array.size == 0 or not (picture if image else row):
        raise WireError(f"{name} is {array.dtype} {list(array.shape)}, not {_NAMES[ours]}")
    if image:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(np.float32)  # first: 1e308 is finite until then
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise WireError(f"{name} is NaN or infinite at index {bad}, as a float32 number")
    if (beyond := np.abs(array) > LARGEST_STATE).any():
        raise WireError(f"{name} is {array[beyond][0]:g} at index {int(np.argmax(beyond))}, beyond {LARGEST_STATE:g}")
    return array


def _say_what_is_short(
    said: list[int], others: Callable[..., Any], loop: asyncio.AbstractEventLoop, context: dict[str, Any]
) -> None:
    """Of clients that the system has no room for, asyncio tells a traceback each second; they wait until others end.
    One whose message finds no memory is disconnected. All else is for `others`."""
    error = context.get("exception")
    if isinstance(error, MemoryError):
        if errno.ENOMEM not in said:
            said.append(errno.ENOMEM)
            print("a message found no memory; its client is disconnected", file=sys.stderr, flush=True)
    elif not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        others(loop, context)
    elif error.errno not in said:
        said.append(error.errno)
        print(f"some clients wait until others end: {error.strerror} (see ulimit -n)", file=sys.stderr, flush=True)


async def serve_forever(server: PolicyServer, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Runs until cancelled, as `asyncio.run` does at Ctrl-C, or until SIGTERM; for the main thread of a process that
    then ends, for it hears no Ctrl-C any more. A policy that still computes `LAST_ANSWER` seconds later is left.

    Args:
        ready: called with the port once clients can connect.
    """
    listening = await server.start(host, port)

    def end() -> None:
        _leave_in(LAST_ANSWER, 0)
        listening.close()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    ready(listening.sockets[0].getsockname()[1])
    try:
        await listening.wait_closed()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave clients and loop half closed
        if isinstance(sys.exception(), asyncio.CancelledError):
            _leave_in(LAST_ANSWER, 130)
        listening.close()
        await listening.wait_closed()


def _leave_in(seconds: float, status: int) -> None:
    """Ends this process then, if it is still there: no thread that computes can be ended, and Python waits for it."""

    def leave() -> None:
        print("the policy still computes; the server has ended without it", file=sys.stderr, flush=True)
        os._exit(status)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def _identity(policy: Policy, left_out: Collection[str]) -> dict[str, Any]:
    with contextlib.suppress(PolicyError):
        own = {key: value for key, value in identity(policy).items() if key not in left_out}
        return {"identity": own} if own else {}
    return {}
