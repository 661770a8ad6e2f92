"""What the tests of rollouts share."""

import os
import threading
from multiprocessing.connection import Connection

import pytest

from gap_vla.rollouts import workers


class Thread(threading.Thread):
    """In the place of a simulator's process."""

    exitcode = None

    def __init__(self, work, theirs, *others, name):
        super().__init__(target=work, args=(Connection(os.dup(theirs.fileno())), *others), daemon=True)
        self.start()

    def kill(self):
        pass


@pytest.fixture
def processes():
    """For tests that need simulators in processes of their own; in others they are threads, which start at once."""


@pytest.fixture(autouse=True)
def _threads(request, monkeypatch):
    if "processes" not in request.fixturenames:
        monkeypatch.setattr(workers, "spawned", Thread)
