"""Serves a policy to openpi clients over websockets. A bad message is answered, never fatal.

Each connection is one episode: its history starts empty. A greeting with metadata comes first; each observation (a
map) is answered by `{"actions": float32[H, A], "server_timing": {...}}`, anything unusable by a text that says why.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import http
import itertools
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gap_vla.rollouts.policy import Policy, forget, identity
from gap_vla.serving.wire import KeyMapping, pack, unpack

MAX_MESSAGE = 16 * 2**20
"""Bytes of an observation; a larger message closes its connection."""

MAX_COMPLAINT = 2000
"""Characters of a text that says why an observation cannot be used."""


class PolicyServer:
    """Serves `policy` to any number of connections; the policy itself is called by one thread.

    Args:
        whole_chunks: answer with everything that the policy predicts (it must have `predict`), for clients that
            execute chunks themselves, as openpi's do. Otherwise the server executes: every observation is answered by
            one action, and the policy keeps its own chunks and history.
        metadata: entries of the greeting, beside the policy's `identity`.
        keys: how clients name things; our own names are understood as well.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        whole_chunks: bool,
        metadata: Mapping[str, Any] | None = None,
        keys: KeyMapping | None = None,
    ) -> None:
        self._policy, self._keys = policy, keys or KeyMapping()
        self._call: Callable = policy.predict if whole_chunks else policy.act  # type: ignore[attr-defined]
        client_executes = {"name", "execute"} if whole_chunks else {"name"}
        greeting = {
            "policy": policy.name,
            "answers": "chunks" if whole_chunks else "single actions",
            "inputs": dict(self._keys.observation),
            "identity": {key: value for key, value in identity(policy).items() if key not in client_executes},
        }
        self._greeting = pack({**greeting, **(metadata or {})})
        self._episodes = itertools.count()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def start(self, host: str, port: int) -> Server:
        """Listens; port 0 takes a free one. Close what is returned to stop."""
        return await serve(
            self._admit,
            host,
            port,
            compression=None,
            max_size=MAX_MESSAGE,
            ping_timeout=None,  # a client that stands still, as at a breakpoint, answers no ping
            origins=[None],  # programs name no origin; web pages do, and may not connect
            process_request=lambda connection, request: (
                connection.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None
            ),
        )

    async def _admit(self, connection: ServerConnection) -> None:
        run = functools.partial(asyncio.get_running_loop().run_in_executor, self._thread)
        episode = next(self._episodes)
        await run(self._policy.reset, [episode])
        try:
            await connection.send(self._greeting)
            async for message in connection:
                await connection.send(await run(self._answer, message, episode))
        except ConnectionClosed:
            pass  # clients come and go
        finally:
            await run(forget, self._policy, [episode])

    def _answer(self, message: bytes | str, episode: int) -> bytes | str:
        try:
            observation = self._observation(unpack(message))
            batch = {key: np.array(value)[None] for key, value in observation.items()}  # a policy may write into it
            started = time.perf_counter()
            actions = finite(self._call(batch, [episode])[0], "the policy's answer")
            timing = {"infer_ms": 1e3 * (time.perf_counter() - started)}
            return pack({"actions": np.atleast_2d(actions), "server_timing": timing})
        except Exception as error:  # whatever the policy cannot take is the client's to know, not the server's end
            return f"{type(error).__name__}: {error}"[:MAX_COMPLAINT]

    def _observation(self, found: Any) -> dict[str, Any]:
        """A client's observation under our names, in our form."""
        observation: dict[str, Any] = {}
        for ours, theirs in self._keys.observation.items():
            name = theirs if theirs in found else ours
            if name not in found:
                continue
            if ours == "language_instruction":
                observation[ours] = str(found[name])
            else:
                read = finite if ours == "proprio" else as_picture
                observation[ours] = read(found[name], name)
        if not observation.keys() - {"language_instruction"}:
            known = ", ".join(f"{theirs} (or {ours})" for ours, theirs in self._keys.observation.items())
            raise ValueError(f"nothing to see in a {type(found).__name__} of {str(list(found))[:300]}; known: {known}")
        return observation


def as_picture(value: Any, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as openpi's `image_tools` takes it: bytes or floats of 0 to 1 (or 255), colours first or last."""
    picture = np.asarray(value)
    if picture.dtype.kind == "f" and picture.size and 0 <= picture.min() <= picture.max() <= 255:
        picture = (picture * (255 if picture.max() <= 1 else 1)).astype(np.uint8)
    if picture.ndim == 3 and picture.shape[0] == 3 != picture.shape[2]:
        picture = picture.transpose(1, 2, 0)
    if picture.dtype != np.uint8 or picture.shape[2:] != (3,) or not picture.size:
        raise ValueError(f"{name} is {picture.dtype}{[*picture.shape]}, no picture [h, w, 3] of 0 to 255 or 0 to 1")
    return picture


def finite(value: Any, name: str) -> Float[np.ndarray, "*rows P"]:
    """Rows of numbers as float32."""
    rows = np.asarray(value)
    if rows.dtype.kind not in "iuf" or rows.ndim == 0 or not np.isfinite(rows).all():
        raise ValueError(f"{name} is {rows.dtype}{[*rows.shape]}, no row of finite numbers")
    return rows.astype(np.float32)


async def serve_forever(server: PolicyServer, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Runs until it is cancelled, as `asyncio.run` does at Ctrl-C, or until SIGTERM.

    Args:
        ready: called with the port once clients can connect.
    """
    async with await server.start(host, port) as listening:
        with contextlib.suppress(NotImplementedError, RuntimeError):  # in another thread than the main one
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, listening.close)
        ready(listening.sockets[0].getsockname()[1])
        await listening.wait_closed()
