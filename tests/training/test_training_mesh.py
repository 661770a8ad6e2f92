"""Four devices, or two hosts, train what one device trains."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gap_vla.core.typed_config import ConfigError
from gap_vla.training import hosts, run
from gap_vla.training.hosts import VARIABLES, join_hosts, place_among_hosts
from gap_vla.training.octo import FinetuneConfig

HERE = Path(__file__).parent


def environment(devices: int, **more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", **more}


@pytest.fixture(scope="module")
def on_four_devices(tmp_path_factory):
    out = tmp_path_factory.mktemp("mesh") / "four.npz"
    command = [sys.executable, HERE / "mesh_training.py", out]
    done = subprocess.run(command, env=environment(4), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return dict(np.load(out))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data", "fsdp", "both"])
def test_four_devices_train_what_one_trains(on_four_devices, mesh):
    one = {key.removeprefix("one"): value for key, value in on_four_devices.items() if key.startswith("one")}
    assert len(one) == 5
    for key, expected in one.items():
        np.testing.assert_allclose(on_four_devices[f"{mesh}{key}"], expected, rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_two_hosts_train_what_one_trains(on_four_devices, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "mesh_training.py", tmp_path / "hosts.npz"],
            env=environment(1, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(number)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for host in processes:
        _, errors = host.communicate(timeout=900)
        assert host.returncode == 0, errors
    found = np.load(tmp_path / "hosts.npz")
    for key, expected in on_four_devices.items():
        if key.startswith("one"):
            for mesh in ("data", "fsdp"):
                np.testing.assert_allclose(found[f"{mesh}{key.removeprefix('one')}"], expected, rtol=2e-4, atol=1e-5)


def test_what_one_host_refuses_ends_all_before_training(monkeypatch):
    here, told, meeting = threading.local(), [0, 0], threading.Barrier(2, timeout=20)

    def of_all(value):
        told[here.number] = value
        meeting.wait()
        found = [*told]
        meeting.wait()
        return found

    def begin(number, refusing):
        here.number = number
        try:
            with hosts.first_host_first():
                entered.append(number)
                if number == refusing:
                    raise ConfigError("this run exists")
        except ConfigError as error:
            return str(error)
        return "begun"

    monkeypatch.setattr(hosts, "_joined", True)
    monkeypatch.setattr(hosts, "_of_all", of_all)
    monkeypatch.setattr(hosts, "is_first_host", lambda: here.number == 0)
    other = "another host stopped, and has printed why; put that right, and start all of them again"
    for refusing, in_order, said in (
        (None, [0, 1], ["begun", "begun"]),
        (0, [0], ["this run exists", other]),
        (1, [0, 1], [other, "this run exists"]),
    ):
        entered = []
        with ThreadPoolExecutor(2) as both:
            assert [*both.map(begin, (0, 1), (refusing, refusing))] == said
        assert entered == in_order


def test_hosts_are_joined_before_the_checks_which_ask_for_devices_and_hear_of_each_other(monkeypatch, tmp_path):
    order = []
    monkeypatch.setattr(run, "join_hosts", lambda: order.append("join"))
    monkeypatch.setattr(run, "require_same_command", lambda *_: monkeypatch.setattr(hosts, "_joined", True))
    monkeypatch.setattr(hosts, "_of_all", lambda failed: order.append(f"failed: {failed}") or [failed])

    def refused(*_):
        order.append("check")
        raise ConfigError("no such weights")

    monkeypatch.setattr(run, "require_ready", refused)
    with pytest.raises(ConfigError):
        run.Run(FinetuneConfig(task="threading", runs=str(tmp_path))).to_the_end()
    assert order == ["join", "check", "failed: 1"]


def test_half_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES, JAX_PROCESS_ID is not set"):
        join_hosts()


@pytest.mark.parametrize(
    ("address", "count", "number", "message"),
    [
        ("host0:1234", "abc", "0", "JAX_NUM_PROCESSES is 'abc'; it must be a whole number"),
        ("host0:1234", "2", "-1", "JAX_PROCESS_ID is '-1'; it must be a whole number"),
        ("host0:1234", "2", "5", "JAX_PROCESS_ID is 5 and JAX_NUM_PROCESSES 2; hosts are numbered from 0"),
        ("host0:1234", "0", "0", "JAX_PROCESS_ID is 0 and JAX_NUM_PROCESSES 0"),
        ("foo", "2", "0", "JAX_COORDINATOR_ADDRESS is 'foo'; name the first host and a port: host0:1234"),
        (":1234", "2", "0", "JAX_COORDINATOR_ADDRESS is ':1234'"),
        ("host0:99999", "2", "0", "JAX_COORDINATOR_ADDRESS is 'host0:99999'"),
        ("host0:1234", "", "0", "JAX_NUM_PROCESSES is not set"),
    ],
)
def test_a_place_among_hosts_that_is_none_is_refused_also_in_a_dry_run(monkeypatch, address, count, number, message):
    for name, value in zip(VARIABLES, (address, count, number)):
        monkeypatch.setenv(name, value)
    for asked in (join_hosts, lambda: FinetuneConfig(task="threading").require_ready(dry_run=True)):
        with pytest.raises(ConfigError, match=message):
            asked()


def test_hosts_are_found_by_name_and_number(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert place_among_hosts() is None
    for address in ("host0.lab:1234", "10.0.0.1:1", "[::1]:65535"):
        for name, value in zip(VARIABLES, (address, "2", "1")):
            monkeypatch.setenv(name, value)
        assert place_among_hosts() == (address, 2, 1)


def test_meshes_that_do_not_divide_are_refused():
    from gap_vla.training.mesh import make_mesh

    with pytest.raises(ValueError, match=r"train\.fsdp is 3, which does not divide the 1 devices"):
        make_mesh(3)
