"""A policy server in a process of its own that goes wrong in a chosen way: `faulty_server.py PORT FAULT AFTER`."""

import asyncio
import os
import sys
import time

import numpy as np
from test_evaluation_diagnose import Seeing

import gap_vla.serving.server
from gap_vla.serving import wire
from gap_vla.serving.server import PolicyServer, serve_forever


class Faulty(Seeing):
    """Looks and acts; from call number `after` on it is faulty."""

    def __init__(self, fault, after):
        self.fault, self.after, self.calls = fault, after, 0

    def act(self, observations, episode_ids):
        self.calls += 1
        actions = super().act(observations, episode_ids)
        if self.calls >= self.after:
            if self.fault == "exit":
                os._exit(3)
            if self.fault == "hang" or (self.fault == "hang once" and self.calls == self.after):
                time.sleep(3600 if self.fault == "hang" else 5)
            if self.fault == "width":
                actions = actions[:, :5]
        return actions


def pack_nan(policy):
    """What servers of other people send, who do not look at what their policy says."""

    def pack(message):
        if "actions" in message and policy.calls >= policy.after:
            message["actions"] = message["actions"].copy()
            message["actions"][:, 2] = np.nan if policy.fault == "nan" else 1e30
        return wire.pack(message)

    return pack


gap_vla.serving.server.LAST_ANSWER = 1.0

if __name__ == "__main__":
    policy = Faulty(sys.argv[2], int(sys.argv[3]))
    if policy.fault in ("nan", "absurd"):
        gap_vla.serving.server.pack = pack_nan(policy)
    server = PolicyServer(policy, whole_chunks=False)
    asyncio.run(serve_forever(server, "127.0.0.1", int(sys.argv[1]), lambda port: print(port, flush=True)))
