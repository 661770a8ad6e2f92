"""A policy server in a process of its own that goes wrong in a chosen way: `faulty_server.py PORT FAULT AFTER`."""

import asyncio
import os
import sys
import time

import numpy as np
from test_evaluation_diagnose import Seeing

from gap_vla.evaluation.policy_server import PolicyServer, serve_forever


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
            if self.fault == "nan":
                actions[:, 2] = np.nan
            if self.fault == "width":
                actions = actions[:, :5]
        return actions


if __name__ == "__main__":
    server = PolicyServer(Faulty(sys.argv[2], int(sys.argv[3])), whole_chunks=False)
    asyncio.run(serve_forever(server, "127.0.0.1", int(sys.argv[1]), lambda port: print(port, flush=True)))
