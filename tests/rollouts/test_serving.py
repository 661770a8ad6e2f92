"""Claims about the policy server and the client: openpi's protocol, and no message ends the server."""

import contextlib
import json
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gap_vla.core.errors import ConfigError, UserError
from gap_vla.rollouts.evaluation import evaluate
from gap_vla.rollouts.policy import RandomPolicy
from gap_vla.serving import client
from gap_vla.serving.client import RemotePolicy
from gap_vla.serving.loading import load_policy
from gap_vla.serving.server import as_picture
from gap_vla.serving.wire import KeyMapping, pack, read_keys, unpack
from tests.helpers.pointmass import PointTask
from tests.helpers.served import Counting, answering, serving

GOLDEN = Path(__file__).parents[1] / "data" / "evaluation" / "openpi_client_0.1.2_message.msgpack"
STATE = np.arange(9, dtype=np.float32)
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.fixture(scope="module")
def port():
    with serving(Counting(), whole_chunks=True) as port:
        yield port


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(client, "PAUSE", 0.01)


@contextlib.contextmanager
def talking(port):
    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as connection:
        yield connection, unpack(connection.recv())


def ask(connection, content):
    connection.send(content if isinstance(content, bytes | str) else pack(content))
    answer = connection.recv(timeout=60)
    return answer if isinstance(answer, str) else unpack(answer)


# ---- the wire


def test_messages_are_byte_for_byte_those_of_openpi_client():
    message = GOLDEN.read_bytes()
    content = unpack(message)
    assert content["prompt"] == "thread the needle" and content["nested"] == {"list": [1, 2.5, "x", None]}
    assert content["observation/image"].shape == (4, 5, 3) and content["observation/image"].dtype == np.uint8
    assert content["scale"] == np.float32(0.25) and content["flag"] and content["empty"].shape == (0, 7)
    assert pack(content) == message


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1 no msgpack",
        pack({b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [2]}),
        pack({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}),
    ],
)
def test_what_is_no_message_is_a_value_error(message):
    with pytest.raises(ValueError):
        unpack(message)
    with pytest.raises(ValueError):
        pack({"state": np.array([object()])})


# ---- the server


def test_a_client_gets_metadata_then_chunks(port):
    with talking(port) as (connection, metadata), talking(port) as (other, _):
        assert metadata["policy"] == "counting" and metadata["answers"] == "chunks"
        answer = ask(connection, {"observation/state": STATE, "prompt": "go"})
        np.testing.assert_array_equal(answer["actions"][:, 0], [0, 1, 2])
        np.testing.assert_array_equal(answer["actions"][0, 1:], STATE[:6])
        assert answer["server_timing"]["infer_ms"] >= 0
        assert ask(connection, {"proprio": STATE})["actions"][0, 0] == 1  # our own names too; the episode goes on
        assert ask(other, {"proprio": STATE})["actions"][0, 0] == 0  # a connection is an episode
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").read() == b"OK\n"


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (b"\xc1", "ValueError"),
        ({"prompt": "go"}, "observation/state"),
        ({"observation/state": np.full(9, np.nan)}, "observation/state"),
        ({"observation/image": PICTURE}, "KeyError"),  # the policy itself cannot do without a state
    ],
)
def test_a_bad_message_is_answered_and_the_connection_goes_on(port, message, name):
    with talking(port) as (connection, _):
        answer = ask(connection, message)
        assert isinstance(answer, str) and name in answer
        assert ask(connection, {"proprio": STATE})["actions"].shape == (3, 7)


@settings(max_examples=30, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.binary(), st.lists) | st.binary())
def test_no_message_ends_the_server(port, content):
    with talking(port) as (connection, _):
        ask(connection, content if isinstance(content, bytes) else pack(content))
        assert ask(connection, {"proprio": STATE})["actions"].shape == (3, 7)


@pytest.mark.parametrize(
    "sent",
    [
        PICTURE,
        (PICTURE / 255).astype(np.float32),
        PICTURE.astype(np.float32),
        PICTURE.transpose(2, 0, 1),
    ],
    ids=["bytes", "floats to 1", "floats to 255", "colours first"],
)
def test_pictures_are_taken_as_openpi_takes_them(sent):
    np.testing.assert_allclose(as_picture(sent, "image"), PICTURE, atol=1)
    assert as_picture(sent, "image").dtype == np.uint8


def test_a_message_that_is_too_large_loses_its_connection(port):
    with talking(port) as (connection, _), pytest.raises(ConnectionClosed) as closed:
        ask(connection, {"observation/image": np.zeros((2400, 2400, 3), np.uint8)})
    assert closed.value.rcvd.code == 1009


def test_web_pages_may_not_connect(port):
    with pytest.raises(Exception, match="403"), connect(f"ws://127.0.0.1:{port}", origin="http://127.0.0.1:3000"):
        pass


# ---- what a key file does


def test_names_and_order_of_a_key_file():
    mapping = KeyMapping(
        observation={"image_primary": "cam", "language_instruction": "text"},
        actions="chunk",
        image_size=8,
        action_columns=(1, 0),
        action_signs=(1, -1),
    )
    sent = mapping.to_wire({"image_primary": PICTURE, "proprio": STATE, "language_instruction": np.str_("go")})
    assert sent.keys() == {"cam", "text"} and sent["cam"].shape == (8, 8, 3) and type(sent["text"]) is str
    np.testing.assert_array_equal(mapping.from_wire({"chunk": [[1, 2, 3]]}), [[2, -1]])
    np.testing.assert_array_equal(KeyMapping().from_wire({"actions": np.arange(3.0)}), [[0, 1, 2]])


def test_a_gripper_of_0_to_1_that_opens_with_1_becomes_ours():
    mapping = KeyMapping(action_signs=(1,) * 6 + (-2,), action_offsets=(0,) * 6 + (1,))
    theirs = np.float32([[0.5] * 6 + [1], [0.5] * 6 + [0]])
    np.testing.assert_array_equal(mapping.from_wire({"actions": theirs}), [[0.5] * 6 + [-1], [0.5] * 6 + [1]])


def test_pictures_can_be_turned_by_180_degrees():
    sent = KeyMapping(rotate_images=True).to_wire({"image_primary": PICTURE, "image_wrist": PICTURE})
    for name in ("observation/image", "observation/wrist_image"):
        np.testing.assert_array_equal(sent[name], np.rot90(PICTURE, 2))


def test_the_state_can_be_sent_in_liberos_columns():
    turned = np.float32([0.1, 0.2, 0.3, np.cos(0.5), 0, 0, np.sin(0.5), 0.04, -0.04])  # by 1 rad about z
    sent = KeyMapping(state_columns="position rotvec gripper:2").to_wire({"proprio": turned})["observation/state"]
    np.testing.assert_allclose(sent, [0.1, 0.2, 0.3, 0, 0, 1, 0.04, -0.04], atol=1e-6)
    expected = {
        "quat_xyzw": [0, 0, np.sin(0.5), np.cos(0.5)],
        "euler_xyz": [0, 0, 1],
        "rot6d": [np.cos(1), np.sin(1), 0, -np.sin(1), np.cos(1), 0],
    }
    for word, values in expected.items():
        sent = KeyMapping(state_columns=f"{word} gripper:1").to_wire({"proprio": turned})["observation/state"]
        np.testing.assert_allclose(sent, [*values, 0.04], atol=1e-6)
    two = KeyMapping(state_columns="position | position").to_wire({"proprio": np.tile(turned, 2)})
    np.testing.assert_allclose(two["observation/state"], [0.1, 0.2, 0.3] * 2, atol=1e-6)
    with pytest.raises(UserError, match="joints"):
        KeyMapping(state_columns="joints:7").to_wire({"proprio": turned})


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"obsrvation": {}}, "obsrvation"),
        ({"state_columns": "pose"}, "pose"),
    ],
)
def test_a_key_file_that_means_nothing_is_refused_by_name(tmp_path, content, name):
    (tmp_path / "keys.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=name):
        read_keys(tmp_path / "keys.json")


def test_an_answer_without_actions_is_refused():
    for answer in ({"action": [0]}, {"actions": np.zeros((1, 1, 7))}):
        with pytest.raises(UserError, match=r"actions|shape"):
            KeyMapping().from_wire(answer)


# ---- the client


def shown(*states, text="go"):
    rows = np.stack([np.full(9, state, np.float32) for state in states])
    return {"proprio": rows, "language_instruction": np.array([text] * len(states))}


def test_a_served_policy_is_evaluated_as_it_is_in_process(tmp_path):
    options = {"episodes": 4, "seed": 0, "workers": 1, "videos": 0, "progress": False}
    with serving(RandomPolicy(7), whole_chunks=False) as port:
        remote = RemotePolicy(f"ws://127.0.0.1:{port}")
        summary = evaluate(remote, PointTask(horizon=5), out_dir=tmp_path, **options)
    assert summary["outcomes"] == [0] * 4 and not summary["errors"]
    server = summary["policy"]["server"]
    assert server["policy"] == "random" and server["identity"] == {"seed": 0}


def test_chunks_are_executed_as_the_key_file_says(port):
    policy = RemotePolicy(f"ws://127.0.0.1:{port}", KeyMapping(execute=2))
    policy.reset([0, 1])
    found = [policy.act(shown(n, 10 + n), [0, 1])[:, 0].tolist() for n in range(3)]
    assert found == [[0, 0], [1, 1], [1, 1]]  # the episode's steps, of which the server sees every second
    assert policy.act(shown(7, 7, text="stop"), [0, 1])[:, 1].tolist() == [7, 7]  # another instruction is asked at once
    policy.close()


def test_nobody_at_an_address_and_no_address(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(UserError, match="ws://127"):
        RemotePolicy("ws://127.0.0.1:9", patience=0.3)
    assert 0.3 <= time.monotonic() - started < 20
    with pytest.raises(UserError) as caught:
        RemotePolicy("ws://me:secret@127.0.0.1:9/?token=abc", patience=0)
    assert "secret" not in str(caught.value) and "abc" not in str(caught.value)


def test_a_server_that_goes_away_stops_the_evaluation(tmp_path):
    def handle(connection):
        connection.send(pack({}))
        for step, _ in enumerate(connection):
            if step == 2:
                return
            connection.send(pack({"actions": np.zeros(7)}))

    options = {"episodes": 2, "seed": 0, "workers": 1, "slots_per_worker": 1, "videos": 0, "progress": False}
    with answering(handle) as address, pytest.raises(UserError, match=address):
        evaluate(RemotePolicy(address), PointTask(horizon=9), out_dir=tmp_path, **options)


def test_a_server_says_what_its_policy_was_trained_for():
    metadata = {"task": "stack", "cameras": ["wrist"], "camera": "frontview", "image_size": 32}
    with serving(Counting(), whole_chunks=True, metadata=metadata) as port:
        address = f"ws://127.0.0.1:{port}"
        loaded = load_policy(address, action_dim=7)
        assert (loaded.task, loaded.cameras, loaded.camera, loaded.image_size) == ("stack", ("wrist",), "frontview", 32)
        with pytest.raises(UserError, match="trained for stack"):
            load_policy(address, action_dim=7, task="threading")
