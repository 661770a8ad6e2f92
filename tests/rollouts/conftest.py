"""What the tests of rollouts share."""

import multiprocessing
import os
import threading
import types
from multiprocessing.connection import Connection

import pytest

from gap_vla.rollouts import workers


class Thread(threading.Thread):
    """In the place of a simulator's process."""

    exitcode = None

    def __init__(self, target, args, daemon, name):
        theirs, *others = args
        super().__init__(target=target, args=(Connection(os.dup(theirs.fileno())), *others), daemon=daemon)

    def kill(self):
        pass


@pytest.fixture
def processes():
    """For tests that need simulators in processes of their own; in others they are threads, which start at once."""


@pytest.fixture(autouse=True)
def _threads(request, monkeypatch):
    if "processes" not in request.fixturenames:
        context = types.SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Thread)
        monkeypatch.setattr(workers, "multiprocessing", types.SimpleNamespace(get_context=lambda _: context))


@pytest.fixture(scope="session")
def model():
    """A small Octo, which no test changes."""
    from test_evaluation_octo_policy import build

    return build()
