"""Claims about servers that end connections, or keep them and never answer: every episode ends, with a line on why."""

import contextlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from websockets.sync.server import serve

from gap_vla.rollouts import PolicyError, PolicyUnavailable
from gap_vla.serving.client import MAX_LOST, RemotePolicy
from gap_vla.serving.greeting import Greeting
from gap_vla.serving.loading import load_policy
from gap_vla.serving.wire import pack

BATCH = {"proprio": np.zeros((1, 9), np.float32)}


@contextlib.contextmanager
def answering(times, connections):
    """A server that answers so many times on each connection and then closes it; counts them. Yields its address."""

    def converse(connection):
        connections.append(connection)
        connection.send(pack({}))
        for number, _ in enumerate(connection):
            if number == times:
                return connection.close()
            connection.send(pack({"actions": np.full((1, 7), number, np.float32)}))

    with serve(converse, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"


def test_a_server_that_closes_each_connection_after_some_answers_is_not_asked_for_ever():
    connections = []
    with answering(2, connections) as address:
        policy = RemotePolicy(address, patience=60)
        policy.reset([0])
        with pytest.raises(
            PolicyUnavailable, match=rf"closed, .*, {MAX_LOST + 1} connection.s. of one episode .*; let it keep"
        ):
            for _ in range(100):
                policy.act(BATCH, [0])
        assert len(connections) == 3 + MAX_LOST  # two greetings before the first action
        policy.reset([1])  # another episode is given as many
        for _ in range(2 * MAX_LOST):
            policy.act(BATCH, [1])
        assert not policy.forgotten  # it does not say that it keeps anything
        assert policy._links[1].connection.ping_interval is None  # a server that compiles may not answer for minutes
        policy.close()


def test_the_patience_is_that_of_an_episode_and_does_not_begin_anew_with_each_connection():
    connections = []
    with answering(1, connections) as address:
        policy = RemotePolicy(address, patience=0.4)  # a lost connection costs 0.5 s
        policy.reset([0])
        with pytest.raises(PolicyUnavailable, match=r"closed, or was silent on, 2 connection\(s\) of one episode"):
            for _ in range(100):
                policy.act(BATCH, [0])
        assert len(connections) == 4  # the two that greet, the first of the episode, and another
        policy.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"actions": "left"}, "the server's 'actions' is not an array of numbers.*; correct the key file"),
        ({"action": np.zeros(7)}, "the server's answer has no 'actions' .found: action.; correct the key file"),
        ({"actions": np.zeros((0, 7))}, "answered with no actions; let it answer with"),
        ({"actions": [0.5, True]}, "the server's 'actions' is not an array of numbers"),
        (
            {"actions": np.zeros(7), "error": "CUDA out of memory"},
            r".*says that it failed \(error: CUDA out of memory\)",
        ),
        ({"error": ["CUDA out of memory"]}, r".*says that it failed \(error: \['CUDA out of memory'\]\)"),
        ({"actions": np.zeros(7), "Exception": {"code": 3}}, ".*failed .Exception: {'code': 3}"),
        ({"actions": np.zeros(7), "error_code": 3}, ".*failed .error_code: 3"),
        ({"actions": np.zeros(7), b"failed": np.True_}, ".*failed .b'failed': True"),
        (
            {"actions": np.zeros(7), "status": "Error", "message": "no model"},
            ".*failed .status: Error; message: no model",
        ),
        ({"actions": np.zeros(7), "status": 503}, ".*failed .status: 503"),
        ({"actions": np.zeros(7), "success": False}, ".*failed .success: False"),
        ({"actions": np.zeros(7), "ok": "false"}, ".*failed .ok: false"),
        ({"actions": np.zeros(7), "success": np.array([False])}, ".*failed .success: .False"),
        ({"actions": np.zeros(7), "error": np.array(True)}, ".*failed .error: True"),
        ({"actions": np.zeros(7), "status_code": 500}, ".*failed .status_code: 500"),
    ],
)
def test_a_wrong_answer_names_the_server_and_what_to_do(answer, said):
    def converse(connection):
        connection.send(pack({}))
        for _ in connection:
            connection.send(pack(answer))

    with serve(converse, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        policy = RemotePolicy(address, patience=0)
        policy.reset([0])
        with pytest.raises(PolicyError, match=f"^{address}:? {said}"):
            policy.act(BATCH, [0])
        policy.close()


@pytest.mark.parametrize(
    ("said", "sent", "problem"),
    [
        ({"answers": "single actions"}, 8, "answered with 8 actions, and its greeting says 1 at most; repair"),
        ({"answers": "chunks", "action_horizon": 4}, 8, "answered with 8 actions, and its greeting says 4; repair"),
        ({"answers": "chunks", "action_horizon": 9}, 8, "answered with 8 actions, and its greeting says 9; repair"),
        ({"action_horizon": 4}, 8, "answered with 8 actions, and its greeting says 4 at most"),
        ({"action_horizon": 9}, 8, None),
        ({"answers": "chunks", "action_horizon": 8}, 8, None),
        (
            {"task": "", "action_dim": 5},
            8,
            "answered with 7 numbers an action, and its greeting says action_dim 5; repair",
        ),
        ({"task": "", "proprio_dim": 5}, 8, "says proprio_dim 5, and is sent 9 numbers; give it what its policy was"),
        ({"task": "", "proprio_dim": 9, "action_dim": 7}, 8, None),
        ({"answers": "chunks"}, 8, None),
    ],
)
def test_a_server_of_ours_is_sent_and_answers_with_what_it_says(said, sent, problem):
    def converse(connection):
        connection.send(pack({"policy": "gap", "task": "threading", **said}))
        for _ in connection:
            connection.send(pack({"actions": np.zeros((sent, 7), np.float32)}))

    with serve(converse, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        policy = load_policy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", action_dim=7, patience=0).policy
        policy.reset([0])
        with pytest.raises(PolicyError, match=problem) if problem else contextlib.nullcontext():
            policy.act(BATCH, [0])
        policy.close()


@pytest.mark.parametrize("inputs", [3, True, "state", None, ["state"]])
def test_what_a_server_of_others_calls_inputs_may_be_anything(inputs):
    assert "needs" in Greeting.read({"task": "stack", "inputs": inputs, "needs": 2}, "ws://x").unread


NOTHING_FAILED = {"error": None, "errors": [], "error_code": 0, "status": "ok", "success": True, "server_timing": {}}
NOTHING_FAILED |= {"error_msg": "Success", "exception": "n/a", "failed": np.array(False), "failure": [0]}


@pytest.mark.parametrize("greeting", [{}, {"policy": "gap", "task": "", "answers": "chunks", "inputs": {}}])
def test_what_a_server_says_and_this_client_does_not_read_is_named_once_wherever_it_stands(capsys, greeting):
    told = iter([{}, {"units": "mm"}, {"units": "mm", "status": {"step": 412}, "warnings": []}, {"horizon": 4}])

    def converse(connection):
        inputs = {"proprio": "observation/state", "tactile": "t"}
        connection.send(pack(greeting | {"needs": 2, b"v": 1} | ({"inputs": inputs} if greeting else {})))
        for _ in connection:
            connection.send(pack({"actions": np.zeros((1, 7), np.float32), **NOTHING_FAILED, **next(told)}))

    with serve(converse, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        policy = load_policy(address, action_dim=7, patience=0).policy
        named = "'inputs.tactile', 'needs', b'v'" if greeting else "'needs', b'v'"
        assert capsys.readouterr().err == f"note: {address} greets with {named}, which this client does not read\n"
        policy.reset([0])
        for beside in ((), ("'units'",), ("'status', 'warnings'",), ("'horizon'",)):
            policy.act({**BATCH, "language_instruction": np.array(["go"])}, [0])
            lines = [f"note: {address} answers with {one}, which this client does not read" for one in beside]
            if greeting and not beside:  # the first
                lines = [f"note: this client sends 'prompt', which {address} does not read"]
            assert capsys.readouterr().err.splitlines() == lines
        policy.close()


def test_a_server_that_never_answers_is_not_waited_for_for_ever():
    def listen(connection):
        connection.send(pack({}))
        for _ in connection:
            pass

    with serve(listen, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        policy = RemotePolicy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", patience=0, limit=0.5)
        policy.reset([0])
        with pytest.raises(
            PolicyUnavailable, match=r"was silent on, 1 connection\(s\) of one episode \(timed out in 0\.5s\)"
        ):
            policy.act(BATCH, [0])


def test_a_server_that_reads_no_more_is_not_waited_for_for_ever():
    code = """if True:
        from websockets.sync.server import serve
        import numpy as np
        from gap_vla.serving.wire import pack

        def converse(connection):
            connection.send(pack({}))
            for _ in connection:
                connection.send(pack({"actions": np.zeros(7)}))

        with serve(converse, "127.0.0.1", 0, max_size=None) as server:
            print(server.socket.getsockname()[1], flush=True)
            server.serve_forever()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            policy = RemotePolicy(f"ws://127.0.0.1:{process.stdout.readline().strip()}", patience=1, limit=1.0)
            policy.reset([0])
            policy.act(BATCH, [0])
            process.send_signal(signal.SIGSTOP)  # as in a computation that does not end
            large = {"image_primary": np.zeros((1, 6000, 4000, 3), np.uint8)}  # more than the system keeps for it
            began = time.monotonic()
            with pytest.raises(PolicyUnavailable):
                policy.act(BATCH | large, [0])
            assert time.monotonic() - began < 30
        finally:
            process.kill()
