"""Claims about evaluating a policy behind a server in another process, which goes wrong in the middle."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pointmass import PointTask
from test_evaluation_diagnose import SIZE, Seeing
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gap_vla.rollouts import Limits, PolicyUnavailable, evaluate
from gap_vla.serving.client import RemotePolicy
from gap_vla.serving.wire import pack

HERE = Path(__file__).parent
EPISODES = 6
CALLS = 15  # made in the second episode


@contextlib.contextmanager
def process(fault="none", port=0, calls=CALLS):
    """Yields (the server's process, its address)."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "faulty_server.py"), str(port), fault, str(calls)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield server, f"ws://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()


def run(address, folder, *, patience=1.0, limit=30.0):
    limits = Limits(policy=limit, policy_first=limit)
    options = {"episodes": EPISODES, "seed": 0, "workers": 1, "slots_per_worker": 1, "videos": 0, "progress": False}
    policy = RemotePolicy(address, patience=patience)
    try:
        return evaluate(policy, PointTask(size=SIZE), out_dir=folder, limits=limits, **options)
    finally:
        policy.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    options = {"episodes": EPISODES, "seed": 0, "workers": 1, "slots_per_worker": 1, "videos": 0, "progress": False}
    return evaluate(Seeing(), PointTask(size=SIZE), out_dir=tmp_path_factory.mktemp("local"), **options)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["exit", "hang", "stopped"])
def test_a_server_that_goes_away_for_good_ends_the_evaluation_which_then_resumes(tmp_path, undisturbed, fault):
    port = free_port()
    with process(fault, port) as (server, address):
        if fault == "stopped":
            halt_after(server, tmp_path / "episodes.jsonl")
        with pytest.raises(PolicyUnavailable, match=r"episodes are finished.*the same command continues"):
            run(address, tmp_path, limit=1.5 if fault != "exit" else 30.0)
    kept = (tmp_path / "episodes.jsonl").read_text()
    finished = [json.loads(line) for line in kept.splitlines()]
    assert 1 <= len(finished) < EPISODES and all(episode["success"] for episode in finished)
    assert not (tmp_path / "summary.json").exists()
    with process(port=port) as (_, address):
        resumed = run(address, tmp_path)
    assert (tmp_path / "episodes.jsonl").read_text().startswith(kept)
    for key in ("outcomes", "mean_steps", "layout_seeds", "errors"):
        assert resumed[key] == undisturbed[key]


def halt_after(server, log):
    """Stops the server's process (it keeps its sockets and says nothing) once an episode is finished."""

    def watch():
        while not (log.exists() and log.read_text()):
            time.sleep(0.01)
        server.send_signal(signal.SIGSTOP)

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.slow
def test_a_server_that_returns_within_the_patience_costs_nothing(tmp_path, undisturbed):
    port = free_port()
    with contextlib.ExitStack() as stack:
        first, address = stack.enter_context(process("exit", port))

        def restart():
            first.wait()
            stack.enter_context(process(port=port))

        threading.Thread(target=restart, daemon=True).start()
        found = run(address, tmp_path, patience=60.0)
    for key in ("outcomes", "mean_steps", "errors"):
        assert found[key] == undisturbed[key]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", r"NaN or infinity in action entries \[2\]"),
        ("absurd", r"returned 1e\+30 in action entries \[2\]; actions lie in"),
        ("width", r"shape \(1, 5\), the task takes \(1, 7\)"),
    ],
)
def test_bad_answers_fail_the_episodes_that_got_them_by_name(tmp_path, fault, message):
    with process(fault) as (_, address):
        summary = run(address, tmp_path)
    assert 1 <= summary["successes"] < EPISODES and len(summary["errors"]) == EPISODES - summary["successes"]
    assert all(re.search(message, error["error"]) for error in summary["errors"])


@pytest.mark.slow
def test_an_answer_that_comes_too_late_costs_the_episodes_that_waited_for_it(tmp_path, undisturbed):
    with process("hang once") as (_, address):
        summary = run(address, tmp_path, patience=0.0, limit=2.0)
    assert 1 <= len(summary["errors"]) < 3  # it hangs for 5 s
    assert all("the policy did not answer within 2 s" in error["error"] for error in summary["errors"])
    assert summary["successes"] == undisturbed["successes"] - len(summary["errors"])


def test_a_server_that_is_told_to_end_says_goodbye_to_its_clients():
    with process() as (server, address), connect(address) as client:
        client.recv()
        server.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=60)
        assert closed.value.rcvd.code == 1001 and server.wait(60) == 0


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_that_is_told_to_end_does_not_wait_for_ever_for_a_policy_that_hangs(how, status):
    with process("hang", calls=1) as (server, address), connect(address) as client:
        client.recv()
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        client.send(pack({"image_primary": image, "proprio": np.zeros(9, np.float32)}))
        time.sleep(1)
        server.send_signal(how)
        assert server.wait(30) == status
