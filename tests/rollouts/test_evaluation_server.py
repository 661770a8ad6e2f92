"""Claims about the policy server and the client: openpi's protocol, and no message ends the server."""

import asyncio
import base64
import contextlib
import itertools
import math
import multiprocessing
import re
import threading
import time
import types
import urllib.request
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pointmass import PointTask
from served import Counting, serving
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import serve

from gap_vla.cli import arguments, diagnose
from gap_vla.rollouts import PolicyError, PolicyUnavailable, RandomPolicy, evaluate
from gap_vla.rollouts.interventions import IntervenedPolicy
from gap_vla.rollouts.policy import GuardedPolicy
from gap_vla.rollouts.record import EvaluationError
from gap_vla.serving.client import _PAUSE, RemotePolicy
from gap_vla.serving.key_mapping import KeyMapping
from gap_vla.serving.loading import load_policy
from gap_vla.serving.server import PolicyServer, ServerLimits
from gap_vla.serving.wire import WireError, pack, unpack

GOLDEN = Path(__file__).parents[1] / "data" / "evaluation" / "openpi_client_0.1.2_message.msgpack"
STATE = np.arange(9, dtype=np.float32)


@pytest.fixture(scope="module")
def port():
    with serving(Counting(), whole_chunks=True) as port:
        yield port


@pytest.fixture
def talk(port):
    """Opens connections to `port`; all are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: opened(stack, port)


def opened(stack, port):
    connection = stack.enter_context(connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None))
    return connection, unpack(connection.recv())


def as_map(array):
    """What an array looks like to msgpack alone, so that broken arrays can stand beside whole ones."""
    return msgpack.unpackb(pack(array))


def ask(connection, content):
    connection.send(content if isinstance(content, bytes | str) else pack(content))
    answer = connection.recv(timeout=60)
    return answer if isinstance(answer, str) else unpack(answer)


def test_a_server_is_reached_past_the_proxies_of_the_environment(port, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert RemotePolicy(f"ws://127.0.0.1:{port}").server_metadata


class Named(RandomPolicy):
    """Of somebody's program."""


@pytest.mark.parametrize(
    ("policy", "said", "whole_chunks"),
    [
        (RandomPolicy(7, seed=3), {"identity.seed": 3}, False),
        (Named(7), {"identity.seed": 0, "identity.class": "Named"}, False),
        (Counting(), {}, False),
        (types.SimpleNamespace(name="own", act=None, identity=None), {}, False),
        (types.SimpleNamespace(name="own", act=None, identity=["a"]), {}, False),
        (types.SimpleNamespace(**vars(Counting()), name="own", act=None, identity={"step": np.int64(3)}), {}, False),
        (types.SimpleNamespace(name="own", act=None, identity={"execute": 4}), {"identity.execute": 4}, False),
        (types.SimpleNamespace(name="own", predict=None, identity={"execute": 4}), {}, True),  # the client does
    ],
)
def test_a_server_in_a_program_says_which_policy_it_serves(policy, said, whole_chunks):
    with serving(policy, whole_chunks=whole_chunks) as port:
        policy.reset = lambda episodes: None
        server = RemotePolicy(f"ws://127.0.0.1:{port}").identity["server"]
    assert {key: value for key, value in server.items() if key.startswith("identity")} == said


def test_going_on_with_a_server_that_does_not_say_what_it_serves_is_warned_of(tmp_path):
    options = {"seed": 0, "videos": 0, "progress": False, "workers": 1, "out_dir": tmp_path}
    with greeting(lambda number: {}) as address:
        evaluate(RemotePolicy(address), PointTask(horizon=2), episodes=1, **options)
        with pytest.warns(UserWarning, match="of 'remote', whose server says no `identity`; were they another"):
            evaluate(RemotePolicy(address), PointTask(horizon=2), episodes=2, **options)


def test_messages_are_byte_for_byte_those_of_openpi_client():
    message = GOLDEN.read_bytes()
    content = unpack(message)
    assert content["prompt"] == "thread the needle" and content["nested"] == {"list": [1, 2.5, "x", None]}
    assert content["observation/image"].shape == (4, 5, 3) and content["observation/image"].dtype == np.uint8
    assert content["scale"] == np.float32(0.25) and content["flag"] and content["empty"].shape == (0, 7)
    assert pack(content) == message


def test_a_client_gets_metadata_then_chunks(port, talk):
    connection, metadata = talk()
    assert metadata["policy"] == "counting" and metadata["answers"] == "chunks"
    answer = ask(connection, {"observation/state": STATE, "prompt": "go"})
    np.testing.assert_array_equal(answer["actions"][:, 0], [0, 1, 2])
    np.testing.assert_array_equal(answer["actions"][0, 1:], STATE[:6])
    assert answer["server_timing"]["infer_ms"] >= 0
    assert ask(connection, {"proprio": STATE})["actions"][0, 0] == 1  # our own names too; the episode goes on
    other, _ = talk()
    assert ask(other, {"proprio": STATE})["actions"][0, 0] == 0  # a connection is an episode
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").read() == b"OK\n"


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"\xc1 no msgpack", r"not a msgpack message \(\w+\)"),
        ("some text", "bad observation"),
        ([1, 2], "a list instead of a map"),
        ({}, "none of the known keys"),
        ({"observation/state": STATE.reshape(3, 3)}, r"float32 \[3, 3\], not numbers"),
        ({"observation/state": "nine"}, "not numbers"),
        ({"observation/state": STATE > 0}, r"bool \[9\], not numbers"),
        ({"observation/state": np.full(9, np.nan)}, "NaN or infinite at index 0"),
        ({"observation/state": np.full(9, 2**63, np.uint64)}, "is 9.22337e\\+18 at index 0, beyond 1e\\+06"),
        ({"observation/image": np.zeros((4, 4, 3), np.float32)}, r"not uint8 \[h, w, 3\]"),
        ({"observation/image": np.zeros((0, 4, 3), np.uint8)}, r"not uint8 \[h, w, 3\]"),
        ({"observation/state": STATE, "proprio": STATE}, "two names of one; send one of them"),
        ({"observation/state": STATE, "prompt": 3}, "not a text"),
        ({"observation/image": np.zeros((4, 4, 3), np.uint8)}, "KeyError"),  # the policy itself cannot do without state
        ({"observation/state": {b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [2]}}, "length 4"),
        ({"observation/state": {b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}}, r"'\|O'"),
        ({"observation/state": {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [-1]}}, "shape"),
        ({"observation/state": {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [2**40, 0]}}, "shape"),
        ({"observation/state": {b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}}, "numpy scalar"),
        ({"observation/state": [True, 0.5]}, "observation/state holds True or False; send numbers"),
        ({"observation/state": as_map(STATE) | {b"order": "F"}}, "holds order beside data, dtype, shape"),
        ({"observation/state": as_map(STATE) | {b"__ndarray__": False}}, "__ndarray__ is False, not true"),
        ({"n": {b"__npgeneric__": True, b"data": 1, b"dtype": "<f4", "bits": 32}}, "holds bits beside data, dtype"),
    ],
)
def test_an_unusable_message_is_answered_with_a_text_and_the_connection_lives(talk, message, complaint):
    connection, _ = talk()
    content = message if isinstance(message, bytes | str) else msgpack.packb(message, default=as_map)
    answer = ask(connection, content)
    assert isinstance(answer, str) and re.search(complaint, answer), answer
    assert ask(connection, {"proprio": STATE})["actions"].shape == (3, 7)


class InPlace(Counting):
    """Hides a part of the picture, and scales the state, where they are."""

    def predict(self, observations, episode_ids):
        observations["image_primary"][:, :1] = 0
        observations["proprio"] *= 2
        return super().predict(observations, episode_ids)


def test_a_policy_may_write_into_what_a_server_shows_it():
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(InPlace(), whole_chunks=False))
        connection, _ = opened(stack, port)
        shown = {"image_primary": np.ones((2, 2, 3), np.uint8), "proprio": STATE}
        assert ask(connection, shown)["actions"].tolist() == [[0, 0, 2, 4, 6, 8, 10]]


class Playing(Counting):
    def reset(self, episode_ids):
        next(iter(()))

    def forget(self, episode_ids):
        next(iter(()))


def test_a_policy_that_has_no_further_episode_to_begin_says_so_at_once():
    with serving(Playing(), whole_chunks=False) as port, connect(f"ws://127.0.0.1:{port}") as connection:
        assert connection.recv(timeout=20).startswith("StopIteration")
    Playing.reset, Playing.forget = Counting.reset, Playing.reset  # one that ends in the same way
    with serving(Playing(), whole_chunks=False) as port, connect(f"ws://127.0.0.1:{port}") as connection:
        assert unpack(connection.recv(timeout=20)), "and the server can be closed"


def test_an_oversized_message_closes_its_connection_and_no_other(talk):
    bystander, _ = talk()
    connection, _ = talk()
    with pytest.raises(ConnectionClosed) as closed:
        connection.send(b"x" * (ServerLimits().max_message * 2**20 + 1))
        connection.recv(timeout=60)
    assert closed.value.rcvd.code == 1009
    assert ask(bystander, {"proprio": STATE})["actions"].shape == (3, 7)


def test_foreign_protocols_do_not_disturb_the_server(port, talk):
    import socket

    for greeting in (b"\x00" * 64, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(greeting)
    connection, _ = talk()
    assert ask(connection, {"proprio": STATE})["actions"].shape == (3, 7)


leaves = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5) | st.binary(max_size=9)
)
array_like = st.fixed_dictionaries(
    {},
    optional={
        b"__ndarray__": st.just(True) | leaves,
        b"__npgeneric__": st.just(True) | leaves,
        b"data": leaves,
        b"dtype": st.sampled_from(["<f4", "|O", "|V8", "<c8", "<U3", "<M8[s]", "x", "", "f4,f4"]) | leaves,
        b"shape": st.lists(st.integers(-2, 2**33), max_size=3) | leaves,
    },
)
trees = st.recursive(
    leaves | array_like,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["proprio", "image_primary", "prompt"]), inner, max_size=3)
    ),
    max_leaves=6,
)
messages = st.binary(max_size=60) | trees.map(msgpack.packb)


@settings(max_examples=200, deadline=None)
@given(messages)
def test_decoding_anything_gives_content_or_a_wire_error(message):
    try:
        unpack(message)
    except WireError as error:
        assert str(error)


@settings(max_examples=60, deadline=None)
@given(messages, st.integers(0, 200), st.integers(0, 255))
def test_the_server_outlives_whatever_it_is_sent(port, message, place, value):
    valid = bytearray(pack({"observation/state": STATE, "prompt": "go"}))
    valid[place % len(valid)] = value
    with contextlib.ExitStack() as stack:
        connection, _ = opened(stack, port)
        for content in (message, bytes(valid)):
            answer = ask(connection, content)
            assert isinstance(answer, str) or "actions" in answer
        assert ask(connection, {"proprio": STATE})["actions"].shape == (3, 7)


def test_the_same_policy_served_gives_the_same_episodes(tmp_path):
    options = {"episodes": 4, "seed": 0, "slots_per_worker": 2, "videos": 0, "progress": False}
    with serving(Counting(), whole_chunks=False) as port:
        served = RemotePolicy(f"ws://127.0.0.1:{port}")
        summary = evaluate(served, PointTask(), out_dir=tmp_path / "served", **options)
    local = evaluate(Counting(), PointTask(), out_dir=tmp_path / "local", **options)
    assert summary["policy"]["server"]["policy"] == "counting"
    for key in ("outcomes", "mean_steps", "layout_seeds"):
        assert summary[key] == local[key]


@pytest.mark.parametrize("losses", [1, 4])
def test_an_episode_whose_connection_was_lost_is_played_anew_where_the_server_says_that_it_remembers(
    tmp_path, monkeypatch, losses
):
    shown, lost = [], []

    class Kept(Counting):
        def predict(self, observations, episode_ids):
            return np.ones_like(super().predict(observations, episode_ids))

        def forget(self, episode_ids):
            shown.extend(steps for episode in episode_ids if (steps := self.steps[episode]))
            super().forget(episode_ids)

    class Losing(RemotePolicy):
        def act(self, observations, episode_ids):
            moved = 0 in episode_ids and observations["proprio"][[*episode_ids].index(0), 0] > 0.25
            if moved and len(lost) < losses:
                lost.append(self._links[0].connection.close())
            return super().act(observations, episode_ids)

    monkeypatch.setattr("gap_vla.serving.client._PAUSE", 0.01)
    how = dict(episodes=2, seed=0, out_dir=tmp_path / "played", workers=1, slots_per_worker=2, videos=0, progress=False)
    with serving(Kept(), whole_chunks=False) as port:
        policy = Losing(f"ws://127.0.0.1:{port}")
        disturbed, policy.forgotten = IntervenedPolicy(policy, "images_black", []), {7}
        assert disturbed.forgotten == {7}
        policy.forgotten = set()
        again = pytest.raises(PolicyUnavailable, match="of episode 0 in 4 attempts to play it; let it keep one")
        with (
            pytest.warns(UserWarning, match="lost the connection of episode 0 and forgotten what it was shown; play"),
            again if losses > 1 else contextlib.nullcontext(),
        ):
            assert evaluate(policy, PointTask(horizon=6), **how)["errors"] == []
    if losses == 1:
        assert sorted(shown) == [1, 3, 6, 6]  # what found the loss, what came before it, and both episodes whole


def test_names_columns_signs_and_chunks_are_mapped_by_the_key_file(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(
        '{"observation": {"proprio": "my/state"}, "execute": 2, '
        '"action_columns": [0, 2, 6], "action_signs": [1, 1, -1]}'
    )
    keys = KeyMapping.read(path)
    with serving(Counting(), whole_chunks=True, keys=KeyMapping({"proprio": "my/state"})) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}", keys)
        policy.reset([0])
        batch = {"proprio": STATE[None], "image_primary": np.zeros((1, 4, 4, 3), np.uint8)}
        found = [policy.act(batch, [0])[0].tolist() for _ in range(3)]
    assert found == [[0, 1, -5], [1, 2, -6], [1, 1, -5]]  # two of a chunk, then the next chunk
    path.write_text('{"obs": {}}')
    with pytest.raises(PolicyError, match="unknown key obs; known: observation"):
        KeyMapping.read(path)


def test_cameras_may_be_exchanged_by_the_key_file():
    swapped = {"image_primary": "image_wrist", "image_wrist": "image_primary"}
    server = PolicyServer(Counting(), whole_chunks=False, keys=KeyMapping(swapped))
    pictures = {name: np.full((4, 4, 3), value, np.uint8) for value, name in enumerate(swapped)}
    found = server._observation(pictures)
    assert (found["image_primary"] == 1).all() and (found["image_wrist"] == 0).all()


def test_what_a_client_sends_and_nobody_reads_is_said_once(capsys):
    server = PolicyServer(Counting(), whole_chunks=False)
    read = {"observation/state": STATE, "image_primary": np.zeros((4, 4, 3), np.uint8), "prompt": "put"}
    server._observation(read)
    assert not capsys.readouterr().err
    for _ in range(2):
        server._observation({**read, "promt": "put", b"prompt": "put", 5: 1})
    assert capsys.readouterr().err == "note: a client sends 'promt', 5, b'prompt', which this server does not read\n"


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        *((3.7, "<i4"), (0.1, "<i8"), (True, "<i4"), (300, "|i1"), (-1, "|u1"), ("7", "<i4")),
        *(("0.5", "<f4"), (b"0.5", "<f4"), (True, "<f4"), (None, "<f4"), (1e300, "<f4"), (3, "|b1")),
        *(("xyz", "<U1"), (5, "<U3"), (["a", "b"], "<U9"), (b"ab", "<U3"), ("ab", "|S2"), (b"abc", "|S2")),
    ],
)
def test_a_scalar_that_is_not_of_its_type_is_none(data, dtype):
    with pytest.raises(WireError, match=r"a numpy scalar of type .* that is"):
        unpack(msgpack.packb({b"__npgeneric__": True, b"data": data, b"dtype": dtype}))


@pytest.mark.parametrize("name", ["int8", "uint64", "float16", "float32", "bool"])
def test_numpys_scalars_travel_unchanged(name):
    dtype = np.dtype(name)
    values = {"i": (-128, 127), "u": (0, 2**64 - 1), "b": (True, False), "f": (0.1, 3, math.inf, math.nan)}[dtype.kind]
    for scalar in map(dtype.type, values):
        assert repr(unpack(pack(scalar))) == repr(scalar)


def test_a_message_that_gives_a_key_twice_is_none():
    twice = b"\x82" + 2 * (msgpack.packb("actions") + msgpack.packb([1.0]))
    assert msgpack.unpackb(twice) == {"actions": [1.0]}
    with pytest.raises(WireError, match="a key is given twice"):
        unpack(twice)


@pytest.mark.parametrize("entry", ['"action_columns": [0, 1, 2, 3, 4, 5]', '"action_signs": [1, 1]'])
def test_a_key_file_for_another_number_of_actions_is_refused_before_a_rollout(tmp_path, entry):
    (tmp_path / "keys.json").write_text("{" + entry + "}")
    with pytest.raises(PolicyError, match=r"keys\.json: action_.* has \d entries, an action 7; give one for each"):
        load_policy("ws://127.0.0.1:1", action_dim=7, keys=tmp_path / "keys.json", patience=0)


def test_an_answer_of_fewer_actions_than_are_to_be_executed_is_refused():
    with serving(Counting(), whole_chunks=False) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}", KeyMapping(execute=2))
        policy.reset([0])
        with pytest.raises(
            PolicyError, match=r"answered with 1 actions, and 2 of each .* lower execute in the key file"
        ):
            policy.act({"proprio": STATE[None]}, [0])


def test_the_connections_of_episodes_that_are_over_are_given_back():
    with serving(Counting(), whole_chunks=True, limits=ServerLimits(max_connections=2)) as port:
        first, second = (RemotePolicy(f"ws://127.0.0.1:{port}", patience=5) for _ in range(2))
        for policy in (first, second):  # each takes both places
            policy.reset([0, 1])
            assert len(policy.act({"proprio": np.stack([STATE, STATE])}, [0, 1])) == 2
            policy.forget([0, 1])


def test_a_server_error_is_the_policys_error():
    with serving(Counting(), whole_chunks=True) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.reset([0])
        with pytest.raises(PolicyError, match=r"answered with an error: .*not numbers"):
            policy.act({"proprio": STATE.reshape(1, 3, 3)}, [0])


@pytest.mark.parametrize(
    ("greeting", "complaint"),
    [
        (pack([1, 2]), "a list instead of a map of metadata"),
        (pack("welcome"), "a str instead of a map of metadata"),
        ("welcome", "a text instead of metadata: 'welcome'"),
        (b"\xc1", "does not speak openpi's protocol"),
        (pack({"name": "x" * 2**20}), "a greeting of 1,048,587 bytes"),
        (b"\x81\xa1a" * 990 + b"\x80", "lists and maps that hold each other more than 100 deep"),
        (b"\x81\xa1a" + b"\x91" * 990 + b"\x01", "lists and maps that hold each other more than 100 deep"),
    ],
)
def test_a_server_that_greets_with_anything_but_a_map_is_no_policy_server(greeting, complaint):
    with serve(lambda connection: connection.send(greeting), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(PolicyError, match=complaint):
            RemotePolicy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", patience=1)


@contextlib.contextmanager
def greeting(metadata):
    """A server of somebody else; `metadata(number)` is what it says to each connection. Yields its address."""
    numbers = iter(range(1000))

    def serve_one(connection):
        connection.send(pack(metadata(next(numbers))))
        for _ in connection:
            connection.send(pack({"actions": np.zeros((1, 7), np.float32)}))

    with serve(serve_one, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"


def test_what_a_user_a_password_or_a_token_in_an_address_says_is_sent_and_not_written_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def serve_one(connection):
        asked.append((connection.request.path, connection.request.headers.get("Authorization")))
        connection.send(pack({}))
        for _ in connection:
            connection.send(pack({"actions": np.zeros((1, 7), np.float32)}))

    with serve(serve_one, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.socket.getsockname()[1]}"
        first, second = (RemotePolicy(f"ws://me:secret@{place}/vla?token={token}") for token in ("hidden", "other"))
        assert asked[0] == ("/vla?token=hidden", f"Basic {base64.b64encode(b'me:secret').decode()}")
        assert first.address.startswith(f"ws://{place}/vla#") and first.identity != second.identity
        evaluate(first, PointTask(), episodes=1, seed=0, progress=False, workers=1, out_dir=tmp_path)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert place.encode() in written and not re.search(b"secret|hidden", written)


def test_a_server_that_begins_to_serve_another_policy_is_noticed():
    with greeting(lambda number: {"model": {"name": "a" if number < 3 else "b"}, "connection": number}) as address:
        policy = RemotePolicy(address)
        assert policy.identity["server"] == {"model.name": "a"}  # the number is a connection's, not the policy's
        policy.reset([0, 1])
        policy.act({"proprio": STATE[None]}, [0])
        with pytest.raises(PolicyError, match=r"another policy than before \(model.name: 'a' then, 'b' now\)"):
            policy.act({"proprio": np.stack([STATE] * 2)}, [0, 1])


def test_episodes_of_another_policy_or_other_keys_are_no_beginning_of_an_evaluation(tmp_path):
    options = {"seed": 0, "videos": 0, "progress": False, "workers": 1, "out_dir": tmp_path}
    with greeting(lambda number: {"model": {"weights": [1, 2]}}) as address:
        evaluate(RemotePolicy(address), PointTask(), episodes=1, **options)
        with pytest.raises(EvaluationError, match=r"keys\.action_signs"):
            turned = KeyMapping(action_signs=(-1,) * 7)
            evaluate(RemotePolicy(address, turned), PointTask(), episodes=2, **options)
    port = int(address.rsplit(":", 1)[1])
    with serving(Counting(), whole_chunks=False, port=port, metadata={"model": {"weights": [1, 3]}}):
        with pytest.raises(EvaluationError, match=r"weights: \[1, 2\] then, \[1, 3\] now"):
            evaluate(RemotePolicy(address), PointTask(), episodes=2, **options)


@pytest.mark.parametrize(
    ("task", "view", "size", "problem"),
    [
        ("stack", None, None, "was trained for assembly, not for stack"),
        ("assembly", "corner2", None, "trained with --camera near; leave --camera away"),
        ("assembly", None, 64, "trained with --image-size 80"),
        ("assembly", None, None, None),
    ],
)
def test_what_a_server_of_ours_was_trained_for_is_asked_for(task, view, size, problem):
    cameras = ("primary", "wrist")
    told = {"task": "assembly", "camera": "near", "cameras": list(cameras), "image_size": 80}
    with greeting(lambda number: told) as address:
        expected = pytest.raises(PolicyError, match=problem) if problem else contextlib.nullcontext()
        with expected:
            loaded = load_policy(address, action_dim=7, task=task)
            assert (loaded.view(view, size), loaded.image_size) == ("near", 80)
            assert loaded.cameras == loaded.policy.cameras == cameras


def test_a_server_of_ours_that_knows_no_task_is_shown_the_view_and_size_of_training_too():
    told = {"task": "", "camera": "corner2", "cameras": ["primary", "wrist"], "image_size": 80}
    with greeting(lambda number: told) as address:
        loaded = load_policy(address, action_dim=7, task="assembly")
        assert (loaded.task, loaded.view(), loaded.image_size) == (None, "corner2", 80)
        assert loaded.cameras == loaded.policy.cameras == ("primary", "wrist")
        assert load_policy(address, action_dim=7, task="threading").view() == "corner2"  # which is refused there
        told["camera"] = ""  # nobody knows
        assert load_policy(address, action_dim=7, task="assembly").view("corner2") == "corner2"


def test_a_server_of_others_is_shown_pictures_drawn_as_large_as_the_key_file_has_them(tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text('{"image_size": 224}')
    with greeting(lambda number: {"image_size": 80, "cameras": ["head"]}) as address:  # which may mean anything
        assert load_policy(address, action_dim=7, keys=keys).image_size == 224
        loaded = load_policy(address, action_dim=7)
        assert (loaded.image_size, loaded.cameras) == (64, ("primary",))


def test_whole_chunks_of_a_policy_that_looks_back_are_warned_of_where_they_are_executed(tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text('{"execute": 8}')
    with greeting(lambda number: {"task": "assembly", "answers": "chunks", "window_size": 2}) as address:
        with pytest.warns(UserWarning, match=r"trained on 2 steps in a row, and is shown every 8th; serve it without"):
            load_policy(address, action_dim=7, keys=keys)
        with warnings.catch_warnings(action="error"):
            load_policy(address, action_dim=7)
            words = ["--policy", address, "--task", "assembly", "--keys", str(keys)]
            asked_at_every_step = arguments.load_policy(diagnose.parse(words), execute=1)  # as a diagnosis does
        assert asked_at_every_step.policy.identity["keys"]["execute"] == 1


def test_a_key_file_sends_pictures_of_the_size_that_a_server_of_ours_takes(tmp_path):
    keys = tmp_path / "keys.json"
    with greeting(lambda number: {"task": "assembly", "camera": "near", "image_size": 80}) as address:
        keys.write_text('{"image_size": 80}')
        assert load_policy(address, action_dim=7, keys=keys).image_size == 80
        keys.write_text('{"image_size": 32}')
        with pytest.raises(PolicyError, match="takes pictures of 80, the key file's image_size is 32; correct it"):
            load_policy(address, action_dim=7, keys=keys)


@pytest.mark.parametrize("size", [10**9, -3, 0, 80.0, "80"])
def test_a_server_of_ours_whose_pictures_have_no_size_is_refused(size):
    with greeting(lambda number: {"task": "assembly", "camera": "near", "image_size": size}) as address:
        with pytest.raises(PolicyError, match=r"^ws://.*, its greeting: image_size is .*; it must be a whole number"):
            load_policy(address, action_dim=7)


GREETING = {
    **{"policy": "gap", "answers": "single actions", "task": "threading", "cameras": ["primary"], "camera": "near"},
    **{"image_size": 64, "proprio_dim": 9, "action_dim": 7, "action_horizon": 8, "window_size": 1},
}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"camera": "overhead"}, "its greeting: camera is 'overhead' .*; it must be one of .*near"),
        ({"camera": 5}, "camera is 5"),
        ({"cameras": "primary"}, "cameras is 'primary' .str.; it must be a list"),
        ({"cameras": ["primary", "ceiling"]}, r"cameras\[1\] is 'ceiling' .*; it must be one of primary, wrist"),
        ({"cameras": ["primary", "primary"]}, "cameras names one twice"),
        ({"task": "Threading"}, "task is 'Threading'"),
        ({"task": 5}, "task is 5"),
        ({"task": "", "image_size": -1}, "image_size is -1"),
        ({"action_dim": 14}, "says action_dim 14, and threading has 7; repair the server"),
        ({"action_dim": -3}, "action_dim is -3"),
        ({"proprio_dim": 12}, "says proprio_dim 12, and threading has 9"),
        ({"window_size": "4"}, "window_size is '4'"),
        ({"action_horizon": 0}, "action_horizon is 0"),
        ({"answers": "whole chunks"}, "answers is 'whole chunks' .*; it must be one of single actions, chunks"),
        ({"inputs": ["image_primary"]}, "inputs is list"),
        (
            {"inputs": {"image_primary": "observation/wrist_image", "image_wrist": "observation/image"}},
            "takes that for",
        ),
        ({"inputs": {"language_instruction": "task"}}, "is sent as 'prompt', and ws://.* calls it 'task'; give client"),
        ({"inputs": {"image_primary": "image_primary"}}, "is sent as 'observation/image', and .* 'image_primary'"),
        ({"inputs": {"image_wrist": "observation/image"}}, "image_primary is sent as .* takes that for image_wrist"),
        ({}, None),
        ({"inputs": {"proprio": "observation/state"}, "cameras": [], "image_size": None}, None),
        (
            {"inputs": {"proprio": "observation/state"}},
            "says cameras primary, and inputs without image_primary; repair",
        ),
        ({"inputs": {"image_primary": "observation/image"}}, "says proprio_dim 9, and inputs without proprio; repair"),
        ({"task": "", "action_dim": 14, "proprio_dim": 8}, None),  # which recordings of others may be of
        ({"answers": None, "camera": "", "proprio_dim": None}, None),  # as of servers that know, or say, less
        ({"task": "stack_cups", "action_dim": 14, "camera": "head"}, None),  # of a program
        ({"policy": None, "cameras": ["agentview"], "answers": "action chunks", "action_dim": 32}, None),  # of others
    ],
)
def test_what_a_server_of_ours_says_is_of_its_kind_and_fits_the_task_and_the_keys(entry, problem):
    said = {key: value for key, value in {**GREETING, **entry}.items() if key != "policy" or value}
    with greeting(lambda number: said) as address:
        with pytest.raises(PolicyError, match=problem) if problem else contextlib.nullcontext():
            assert load_policy(address, action_dim=7, task="threading").task in ("threading", None)


def test_an_action_of_which_the_key_file_takes_columns_may_be_wider(tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text('{"action_columns": [0, 1, 2, 3, 4, 5, 6]}')
    with greeting(lambda number: {**GREETING, "action_dim": 32}) as address:
        assert load_policy(address, action_dim=7, task="threading", keys=keys).task == "threading"


def test_a_client_may_call_inputs_by_our_names(tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text('{"observation": {"image_primary": "image_primary", "proprio": "proprio"}}')
    with greeting(lambda number: {**GREETING, "inputs": {"image_primary": "camera", "proprio": "state"}}) as address:
        assert load_policy(address, action_dim=7, keys=keys).task == "threading"
    with greeting(lambda number: {**GREETING, "inputs": {"image_primary": "proprio", "proprio": "s"}}) as address:
        with pytest.raises(PolicyError, match=r"proprio is sent as 'proprio', and .* takes that for image_primary"):
            load_policy(address, action_dim=7, keys=keys)


@pytest.mark.parametrize("key", ["task", "camera", "image_size", "identity"])
def test_two_policies_behind_one_address_are_refused(key):
    other = {"task": "stack", "camera": "frontview", "image_size": 128, "identity": {"parameters": "b"}}
    greetings = [{**GREETING, "identity": {"parameters": "a"}, "number": number} for number in range(2)]
    greetings[1][key] = other[key]
    with greeting(lambda number: greetings[number]) as address:
        with pytest.raises(PolicyError, match=rf"two policies \({key}.* then, .* now\); give each an address"):
            RemotePolicy(address)


def test_a_server_that_answers_twice_is_refused_before_an_action_is_one_observation_behind():
    def twice(connection):
        connection.send(pack({}))
        for number, _ in enumerate(connection):
            for _ in range(2):
                connection.send(pack({"actions": np.full((1, 2), number, np.float32)}))

    with serve(twice, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        policy = RemotePolicy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", patience=1)
        policy.reset([0])
        assert policy.act({"proprio": STATE[None]}, [0]).tolist() == [[0, 0]]
        time.sleep(0.5)  # a step of the simulator, in which the second answer comes
        with pytest.raises(PolicyError, match=r"ws://.* sends more than one answer to an observation; let it send one"):
            policy.act({"proprio": STATE[None]}, [0])
        policy.close()


def test_what_a_server_answers_is_shown_in_a_short_line_and_texts_are_no_actions():
    with pytest.raises(PolicyError, match=r"found: x{299}…\)"):
        KeyMapping().from_wire({"x" * 2**20: 1})
    with pytest.raises(PolicyError, match="not an array of numbers"):
        KeyMapping().from_wire({"actions": np.array(["1", "2"])})


def test_nobody_there_is_said_after_the_patience_is_over():
    started = time.monotonic()
    with pytest.raises(PolicyUnavailable, match=r"no policy server at ws://127\.0\.0\.1:9 .*; start one"):
        RemotePolicy("ws://127.0.0.1:9", patience=1)
    assert 1 <= time.monotonic() - started < 60


def test_what_answers_in_an_older_http_is_named_by_its_status():
    class Gate(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gate) as gate:
        threading.Thread(target=gate.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(PolicyUnavailable, match=r"no policy server at .*: HTTP/1\.0 401 Unauthorized\); start one"):
            RemotePolicy(f"ws://127.0.0.1:{gate.server_port}", patience=0)
        gate.shutdown()


def test_a_server_without_a_place_is_said_to_have_none_and_how_many_are_needed():
    limits = ServerLimits(max_connections=1)
    with serving(Counting(), whole_chunks=False, limits=limits) as port, contextlib.ExitStack() as stack:
        opened(stack, port)
        with pytest.raises(PolicyUnavailable, match=r"has no place left \(1 connections .*--workers times --slots"):
            RemotePolicy(f"ws://127.0.0.1:{port}", patience=1)


class SlowToForget(Counting):
    def forget(self, episode_ids):
        time.sleep(0.5)
        super().forget(episode_ids)


def test_a_client_that_has_gone_takes_no_place_while_the_policy_forgets_it():
    with serving(SlowToForget(), whole_chunks=False, limits=ServerLimits(max_connections=1)) as port:
        for _ in range(3):
            with connect(f"ws://127.0.0.1:{port}") as client:
                assert "policy" in unpack(client.recv(timeout=20))


def test_a_server_that_returns_in_time_is_waited_for_and_one_that_does_not_ends_the_evaluation():
    with serving(Counting(), whole_chunks=True) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}", patience=60)
        policy.reset([0])
        batch = {"proprio": STATE[None]}
        policy.act(batch, [0])
    back = threading.Event()

    def return_later():
        time.sleep(1.5)
        with serving(Counting(), whole_chunks=True, port=port):
            back.wait(300)

    thread = threading.Thread(target=return_later)
    thread.start()
    assert policy.act(batch, [0]).shape == (1, 7)
    back.set()
    thread.join()
    policy.patience = 1
    with pytest.raises(PolicyUnavailable):
        policy.act(batch, [0])


def test_the_patience_is_that_of_a_whole_episode(monkeypatch):
    """What is waited for a server counts, however often it goes; how long its answers take does not."""
    with serving(Counting(), whole_chunks=True) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}", patience=60)
        policy.reset([0])
        batch = {"proprio": STATE[None]}
        connect = policy._connect

        def later(deadline):
            time.sleep(0.5)
            return connect(deadline)

        monkeypatch.setattr(policy, "_connect", later)
        for number in (1, 2):
            policy.act(batch, [0])
            pauses = _PAUSE * (number - 1)  # between a loss and the next try
            assert 0.5 * number <= policy._waited[0] - pauses < 0.5 * number + 0.4
            time.sleep(0.5)
            policy._links[0].connection.close()
            policy._links[0].left.clear()
        policy.patience = 0.9
        with pytest.raises(PolicyUnavailable):
            policy.act(batch, [0])


def test_a_server_that_loads_its_model_before_it_greets_is_waited_for(monkeypatch):
    def slow(number):
        time.sleep(1 if number == 0 else 0)
        return {"model": "a"}

    monkeypatch.setattr("gap_vla.serving.client._GREETING", 0.1)
    with greeting(slow) as address:
        assert RemotePolicy(address, patience=30).server_metadata == {"model": "a"}


def test_metadata_of_others_may_hold_arrays():
    said = {"task": np.array(["assembly", "stack"]), "camera": np.array(["near"])}
    with greeting(lambda _: said) as address:
        assert load_policy(address, action_dim=7).task is None
    with greeting(lambda _: {**said, "task": "assembly"}) as address:
        assert load_policy(address, action_dim=7, task="assembly").camera is None


class Slow(Counting):
    def predict(self, observations, episode_ids):
        time.sleep(0.7)
        return super().predict(observations, episode_ids)


def test_the_limit_is_that_of_each_answer_however_many_episodes_play_at_once():
    with serving(Slow(), whole_chunks=True) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}", patience=0.1)
        guarded = GuardedPolicy(policy, 7, limit=0.9, first_limit=0.9)
        assert guarded.reset([0, 1, 2]) is None
        actions, faults = guarded.act({"proprio": np.stack([STATE] * 3)}, [0, 1, 2])
        assert actions.shape == (3, 7) and "did not answer" not in str(faults)
        guarded.close()
        policy.close()


def test_a_wait_in_which_the_process_was_stopped_costs_no_connection(monkeypatch):
    waits, recv = itertools.count(), ClientConnection.recv

    def stopped(connection, timeout):
        if timeout and next(waits) % 2 == 0:
            raise TimeoutError
        return recv(connection, timeout)

    monkeypatch.setattr(ClientConnection, "recv", stopped)
    with serving(Counting(), whole_chunks=True) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.reset([0])
        assert policy.act({"proprio": STATE[None]}, [0])[0, 0] == policy._lost[0] == 0
        policy.close()


def test_a_handshake_that_noise_breaks_off_is_a_server_that_is_not_there(monkeypatch):
    def connecting(*_, **__):
        raise AssertionError  # websockets', if the noise comes before the request is written

    monkeypatch.setattr("gap_vla.serving.client.connect", connecting)
    with pytest.raises(PolicyUnavailable, match=r"no policy server at ws://localhost:8000 .*; start one"):
        RemotePolicy("ws://localhost:8000", patience=0)


def test_episodes_that_act_in_turns_keep_what_they_were_shown():
    with serving(Counting(), whole_chunks=False) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.reset(range(40))
        seen = {"proprio": STATE[None]}
        steps = [float(policy.act(seen, [episode])[0, 0]) for episode in (0, 1, 0, 1, 0)]
        assert steps == [0, 0, 1, 1, 2]
        for wrong, ids in ((seen, [0, 1]), (seen, [99]), ({"proprio": np.stack([STATE, STATE])}, [0, 0])):
            with pytest.raises(PolicyError, match=r"give one for each|reset each of them once before it acts"):
                policy.act(wrong, ids)
        with pytest.warns(UserWarning, match="more than 32 episodes wait; a server begins the oldest anew"):
            for episode in range(2, 40):
                policy.act(seen, [episode])
        assert policy.act(seen, [0])[0, 0] == 0
        policy.close()


def test_an_instruction_that_is_no_text_is_not_sent():
    with pytest.raises(PolicyError, match=r"language_instruction is b'go', no text"):
        KeyMapping({"language_instruction": "prompt"}).to_wire({"language_instruction": b"go"})
    for text in ("go", np.str_("go"), np.array("go")):
        assert KeyMapping({"language_instruction": "prompt"}).to_wire({"language_instruction": text}) == {
            "prompt": "go"
        }


@pytest.mark.parametrize("picture", [np.zeros((64, 64, 3), np.float32), np.zeros((3, 64, 64), np.uint8)])
def test_a_picture_that_cannot_be_resized_is_named(picture):
    found = re.escape(f"image_primary is {picture.dtype}{[*picture.shape]}, which cannot be resized; give uint8[h, w,")
    with pytest.raises(PolicyError, match=found):
        KeyMapping(image_size=32).to_wire({"image_primary": picture})
    KeyMapping().to_wire({"image_primary": picture})


def test_entries_of_keys_that_a_server_does_not_apply_are_refused():
    with pytest.raises(PolicyError, match="takes observation of keys alone"):
        PolicyServer(Counting(), whole_chunks=True, keys=KeyMapping({"proprio": "my/state"}, action_signs=(1,) * 7))


def test_a_mapping_is_not_changed_by_its_caller_and_lists_are_tuples():
    names, columns = {"proprio": "my/state"}, [0, 2]
    keys = KeyMapping(names, action_columns=columns)
    names["proprio"], columns[0] = "other", 5
    assert keys == KeyMapping({"proprio": "my/state"}, action_columns=(0, 2))


def test_what_would_be_sent_as_something_else_is_refused():
    with pytest.raises(WireError, match="masked in places"):
        pack({"state": np.ma.masked_less(STATE, STATE.max() + 1)})
    with serving(Counting(), whole_chunks=False) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.reset([0, 1])
        seen = {"proprio": np.stack([STATE, STATE])}
        with pytest.raises(PolicyError, match="proprio is masked in places; fill them in"):
            policy.act({"proprio": np.ma.masked_less(seen["proprio"], STATE.max() + 1)}, [0, 1])
        with pytest.raises(PolicyError, match="language_instruction has 1 rows for 2 episodes"):
            policy.act({**seen, "language_instruction": "go"}, [0, 1])


def test_servers_of_one_policy_do_not_mix_their_episodes():
    policy = Counting()
    with serving(policy, whole_chunks=False) as first, serving(policy, whole_chunks=False) as second:
        clients = [RemotePolicy(f"ws://127.0.0.1:{port}") for port in (first, second)]
        for client in clients:
            client.reset([0])
        steps = [float(client.act({"proprio": STATE[None]}, [0])[0, 0]) for client in (*clients, *clients)]
        assert steps == [0, 0, 1, 1]


def test_servers_of_one_policy_call_it_in_one_thread():
    called = set()

    class Asked(Counting):
        def act(self, observations, episode_ids):
            called.add(threading.get_ident())
            return super().act(observations, episode_ids)

    policy = Asked()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            port = stack.enter_context(serving(policy, whole_chunks=False))
            ask(opened(stack, port)[0], {"proprio": STATE})
    assert len(called) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_policy_that_was_served_can_be_served_by_a_fork():
    policy = Counting()

    def once():
        with serving(policy, whole_chunks=False) as port, connect(f"ws://127.0.0.1:{port}") as connection:
            connection.recv(timeout=20)

    once()
    process = multiprocessing.get_context("fork").Process(target=once)
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0, "its thread was left behind"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_fork_leaves_the_connections_of_its_parent_alone():
    with serving(Counting(), whole_chunks=False) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.reset([0])
        acted = lambda: int(policy.act({"proprio": STATE[None]}, [0])[0, 0])  # noqa: E731
        assert acted() == 0
        context = multiprocessing.get_context("fork")
        mine, its = context.Pipe()
        process = context.Process(target=lambda: (policy.reset([0]), its.send(acted()), policy.close()))
        process.start()
        assert mine.poll(20) and mine.recv() == 0
        process.join(20)
        assert acted() == 1, "its episode goes on"


def test_what_goes_wrong_elsewhere_in_a_loop_is_for_the_programs_own_handler():
    told = []

    async def run():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
        async with await PolicyServer(Counting(), whole_chunks=False).start("127.0.0.1", 0):
            asyncio.get_running_loop().call_exception_handler({"message": "mine", "exception": ValueError()})

    asyncio.run(run())
    assert told == ["mine"]


def test_a_row_that_fails_takes_no_action_of_another_rows_chunk(monkeypatch):
    with serving(Counting(), whole_chunks=True) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}", KeyMapping(execute=3))
        policy.reset([0, 1])
        seen = {"proprio": np.stack([STATE, STATE])}
        with pytest.raises(PolicyError), monkeypatch.context() as patch:
            ask = policy._ask
            patch.setattr(policy, "_ask", lambda row, one: ask(row, one if row == 0 else {"proprio": STATE[None]}))
            policy.act(seen, [0, 1])
        assert policy.act(seen, [0, 1])[:, 0].tolist() == [0, 0]
        told = {**seen, "language_instruction": np.array(["left", "left"])}
        policy.act(told, [0, 1])
        told = {"proprio": 10 + seen["proprio"], "language_instruction": np.array(["left", "right"])}
        assert policy.act(told, [0, 1])[:, 1].tolist() == [1, 10]  # what is left answers another instruction


def test_an_answer_that_a_failed_call_left_behind_is_no_action_of_a_later_observation():
    class Some(Counting):
        def predict(self, observations, episode_ids):
            if observations["proprio"][0, 0] == 3:
                raise RuntimeError("no grasp found")
            return super().predict(observations, episode_ids)

    with serving(Some(), whole_chunks=False) as port:
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        policy.reset([0, 1])
        for shown, acted in (((1, 1), [1, 1]), ((4, 3), None), ((4, 4), [4, 4]), ((5, 3), None), ((6, 6), [6, 6])):
            state = {"proprio": np.outer(np.float32(shown), np.ones(9, np.float32))}
            with contextlib.nullcontext() if acted else pytest.raises(PolicyError, match="no grasp found"):
                found = policy.act(state, [0, 1])
                assert found[:, 1].tolist() == acted
        assert found[:, 0].tolist() == [3, 2]  # what was shown again after the failure was asked once
        policy.close()


def test_executing_parts_of_answers_is_for_servers():
    with pytest.raises(PolicyError, match="execute=4 is for the answers of servers; random acts at every step"):
        load_policy("random", action_dim=7, execute=4)
    load_policy("random", action_dim=7, execute=1)
