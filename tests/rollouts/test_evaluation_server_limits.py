"""Claims about what one client may ask of the policy server, and that none takes the memory or the places of others."""

import contextlib
import functools
import importlib.util
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
from served import Counting, serving
from test_evaluation_server import STATE, ask, opened
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from gap_vla.core.typed_config import number_fields
from gap_vla.rollouts import PolicyError, ReplayPolicy
from gap_vla.serving import server
from gap_vla.serving.server import MAX_COMPLAINT, PolicyServer, ServerLimits
from gap_vla.serving.wire import MAX_ITEMS, WireError, unpack

ROOT = Path(__file__).parents[2]


@pytest.fixture
def talk():
    """Called with limits, opens connections to one server with them."""
    with contextlib.ExitStack() as stack:
        ports = []

        def connect(**limits):
            if not ports:
                policy = Counting()
                ports.append(stack.enter_context(serving(policy, whole_chunks=False, limits=ServerLimits(**limits))))
            return opened(stack, ports[0])[0]

        yield connect


def refused(connection):
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            connection.recv(timeout=60)
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_an_instruction_that_is_too_long_is_refused_and_the_connection_lives(talk):
    connection = talk(max_prompt=5)
    assert "prompt has 6 characters; this server takes 5" in ask(connection, {"proprio": STATE, "prompt": "go now"})
    assert "actions" in ask(connection, {"proprio": STATE, "prompt": "go"})


def test_a_message_above_the_limit_closes_its_connection(talk):
    connection = talk(max_message=1)
    connection.send(b"x" * (2**20 + 1))
    assert refused(connection)[0] == 1009


def test_one_connection_too_many_is_closed_until_another_ends(talk):
    first, _ = talk(max_connections=2), talk()
    with pytest.raises(ConnectionClosed) as closed:
        talk()
    assert closed.value.rcvd.code == 1013 and "2 connections are open" in closed.value.rcvd.reason
    first.close()
    deadline = time.monotonic() + 60
    while True:  # its place is free once the policy has forgotten it
        try:
            assert "actions" in ask(talk(), {"proprio": STATE})
            break
        except ConnectionClosed:
            assert time.monotonic() < deadline


def test_a_silent_client_is_dropped_and_a_busy_one_is_not(talk):
    silent, busy = talk(idle=2), talk()
    deadline, closed = time.monotonic() + 60, None
    while closed is None:  # asks again at once, so that only the silent one is idle, on a slow machine too
        assert time.monotonic() < deadline
        assert "actions" in ask(busy, {"proprio": STATE})
        try:
            silent.recv(timeout=0.05)
        except TimeoutError:
            continue
        except ConnectionClosed as error:
            closed = error.rcvd
    assert (closed.code, closed.reason) == (1008, "idle for 2 s")
    assert "actions" in ask(busy, {"proprio": STATE})


@pytest.mark.slow
def test_a_client_that_stands_at_a_breakpoint_is_kept_until_it_is_idle(talk, monkeypatch):
    monkeypatch.setattr(server, "serve", functools.partial(server.serve, ping_interval=0.5))
    connection = talk(idle=120)
    with connection.protocol_mutex:  # it neither reads nor answers a ping, for longer than websockets waits by itself
        time.sleep(23)
    assert "actions" in ask(connection, {"proprio": STATE, "prompt": "go"})


def test_a_message_in_endless_empty_frames_closes_its_connection(talk):
    connection, other = talk(), talk()
    frames = [Frame(Opcode.BINARY, b"", fin=False), *[Frame(Opcode.CONT, b"", fin=False)] * 10_000]
    connection.socket.sendall(b"".join(frame.serialize(mask=True) for frame in frames))
    assert refused(connection) == (1009, "too many fragments")
    assert "actions" in ask(other, {"proprio": STATE})


def test_a_message_in_a_few_frames_is_put_together(talk):
    connection = talk()
    whole = msgpack.packb({"proprio": [0.0] * 9})
    connection.send([whole[:7], whole[7:9], whole[9:]])
    assert "actions" in unpack(connection.recv(timeout=60))


def test_what_is_complained_about_is_never_repeated_at_length(talk):
    answer = ask(talk(), {"k" * 100_000: 1, "l": {}})
    assert "none of the known keys" in answer and len(answer) < MAX_COMPLAINT


def test_numbers_that_are_finite_only_as_float64_are_refused(talk):
    assert "infinite at index 8, as a float32" in ask(talk(), {"proprio": np.append(np.zeros(8), 1e308)})


def test_a_policy_without_finite_actions_is_said_and_no_answer(talk, monkeypatch):
    monkeypatch.setattr(Counting, "act", lambda *a: np.full((1, 7), np.nan))
    assert "actions are NaN or infinite" in ask(talk(), {"proprio": STATE})


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (np.ones(7), r"shape \(7,\), not \[1, A\]"),
        (np.ones((2, 7)), r"shape \(2, 7\), not"),
        (np.ones((1, 1, 7)), r"shape \(1, 1, 7\), not"),
        (np.ones((1, 0)), r"shape \(1, 0\), not"),
        (np.ones((1, 7)) * 5j, "complex128, not an array of numbers"),
        (np.array([["1", "2"]]), "<U1, not an array of numbers"),
        (np.ma.masked_less(np.arange(3.0)[None], 1), "masked entries, not an array of numbers"),
        (None, "object, not an array of numbers"),
    ],
)
def test_a_policy_whose_actions_are_none_is_said_and_no_answer(talk, monkeypatch, returned, said):
    monkeypatch.setattr(Counting, "act", lambda *a: returned)
    assert re.search(f"PolicyError: the policy returned .*{said}", ask(talk(), {"proprio": STATE}))


def test_a_policy_that_cannot_begin_is_said_in_the_place_of_the_greeting(capfd):
    policy = ReplayPolicy([np.ones((3, 7))], [1])
    with serving(policy, whole_chunks=False) as port:
        with connect(f"ws://127.0.0.1:{port}", proxy=None) as first, connect(f"ws://127.0.0.1:{port}") as second:
            assert isinstance(first.recv(timeout=60), bytes)
            assert second.recv(timeout=60) == "PolicyError: episode 1: only 1 recordings; lower --episodes"
            with pytest.raises(ConnectionClosed):
                second.recv(timeout=60)
    assert not capfd.readouterr().err


def test_a_greeting_that_cannot_be_sent_is_refused_before_anybody_connects():
    with pytest.raises(WireError, match="cannot be sent: PosixPath is no number"):
        PolicyServer(Counting(), whole_chunks=False, metadata={"folder": Path("/tmp")})


@pytest.mark.parametrize(
    "content",
    [
        b"\xdd\xff\xff\xff\xff",  # a list that says it has four thousand million entries
        msgpack.packb([0] * (MAX_ITEMS + 1)),
        msgpack.packb([[{}] * (MAX_ITEMS - 1)] * 20),
    ],
    ids=["promised", "one list", "together"],
)
def test_messages_of_very_many_small_things_are_refused(content):
    with pytest.raises(WireError, match=r"more than 100?000 entries"):
        unpack(content)


@pytest.mark.parametrize(("name", "field"), number_fields(ServerLimits).items())
def test_limits_have_bounds(name, field):
    for wrong in (field.bounds.least - 1, field.bounds.most + 1, float("nan"), True, "many"):
        with pytest.raises(PolicyError, match=f"{name} is"):
            ServerLimits(**{name: wrong})
    assert getattr(ServerLimits(**{name: field.bounds.most}), name) == field.bounds.most


@pytest.mark.parametrize("port", [99999, -1])
def test_ports_that_do_not_exist_are_named(port):
    with pytest.raises(PolicyError, match=f"port is {port}; it must be a whole number from 0 to 65535"):
        with serving(Counting(), whole_chunks=False, port=port):
            pass


@pytest.mark.parametrize("allowed", [(), ("http://127.0.0.1:3000",)])
def test_a_page_in_a_browser_is_refused_unless_it_is_named(allowed):
    with serving(Counting(), whole_chunks=False, origins=allowed) as port:
        for origin in ("http://127.0.0.1:3000", f"http://127.0.0.1:{port}", "https://example.org", "null", None):
            said = contextlib.nullcontext()
            if origin not in (None, *allowed):
                said = pytest.raises(InvalidStatus, match="403")
            with said, connect(f"ws://127.0.0.1:{port}", origin=origin) as connection:
                assert "inputs" in unpack(connection.recv(timeout=60))


CROWD = """if True:
    import socket, sys, time
    sys.stdin.readline()
    crowd = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(60)]
    time.sleep(2.5)
"""


def test_clients_beyond_the_limit_of_open_files_wait_and_one_line_says_so(capfd):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = [sys.executable, "-c", CROWD]
    with serving(Counting(), whole_chunks=False) as port, contextlib.ExitStack() as stack:
        crowd = stack.enter_context(subprocess.Popen([*asked, str(port)], stdin=subprocess.PIPE, text=True))
        free = {*range(2000)} - {*map(int, os.listdir("/proc/self/fd"))}
        resource.setrlimit(resource.RLIMIT_NOFILE, (sorted(free)[20], limits[1]))
        try:
            crowd.communicate("now\n", timeout=60)
            assert crowd.returncode == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        connection, _ = opened(stack, port)
        assert "actions" in ask(connection, {"observation/state": STATE})
    said = capfd.readouterr().err
    assert said.count("some clients wait until others end") == 1 and "Traceback" not in said


def test_a_message_that_finds_no_memory_costs_its_client_alone_and_one_line_says_so(capfd, monkeypatch):
    def receive(connection, data):
        raise MemoryError

    with serving(Counting(), whole_chunks=False) as port, contextlib.ExitStack() as stack:
        for _ in range(2):
            connection, _ = opened(stack, port)
            with monkeypatch.context() as patch, pytest.raises(ConnectionClosed):
                patch.setattr(ServerConnection, "data_received", receive)
                ask(connection, {"observation/state": STATE})
        connection, _ = opened(stack, port)
        assert "actions" in ask(connection, {"observation/state": STATE})
    assert capfd.readouterr().err == "a message found no memory; its client is disconnected\n"


def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_server", ROOT / "benchmarks" / "server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_connections_in_turn_and_at_once_leave_memory_flat():
    module = benchmark()
    found = module.measure(module.TINY, connections=200, at_once=32, seconds=10)
    assert found["at_once"]["connections"] > 32
    assert found["one_after_another"]["more_mb"] <= 20 and found["at_once"]["more_mb"] <= 20, found


def test_a_policy_without_chunks_cannot_serve_them():
    with pytest.raises(PolicyError, match=r"ReplayPolicy.* has no predict, which a server asks for"):
        PolicyServer(ReplayPolicy([np.ones((3, 7))], [1]), whole_chunks=True)
