"""A policy server in a thread, and a policy for it that is quick and easy to predict."""

import asyncio
import contextlib
import threading

import numpy as np
from websockets.sync.server import serve

from gap_vla.serving.server import PolicyServer


class Counting:
    """Action = the episode's step, then the proprioception; chunks of three."""

    name = "counting"

    def __init__(self):
        self.steps = {}

    def reset(self, episode_ids):
        self.steps.update(dict.fromkeys(episode_ids, 0))

    def act(self, observations, episode_ids):
        return self.predict(observations, episode_ids)[:, 0]

    def predict(self, observations, episode_ids):
        rows = []
        for row, episode in enumerate(episode_ids):
            first = np.concatenate([[self.steps[episode]], observations["proprio"][row][:6]])
            rows.append([first, first + 1, first + 2])
            self.steps[episode] += 1
        return np.array(rows, np.float32)

    def forget(self, episode_ids):
        for episode in episode_ids:
            del self.steps[episode]


@contextlib.contextmanager
def serving(policy, *, port=0, **options):
    """Yields the port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(PolicyServer(policy, **options).start("127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def stop():
            server.close()
            await server.wait_closed()

        asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


@contextlib.contextmanager
def answering(handle):
    """Yields the address of somebody's server, which calls `handle` with each connection."""
    with serve(handle, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
