"""Four devices train what one device trains."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def environment(devices: int, **more: str) -> dict[str, str]:
    paths = str(HERE.parents[1])
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", **more}


@pytest.fixture(scope="module")
def on_four_devices(tmp_path_factory):
    out = tmp_path_factory.mktemp("mesh") / "four.npz"
    command = [sys.executable, HERE / "mesh_training.py", out]
    done = subprocess.run(command, env=environment(4), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return dict(np.load(out))


@pytest.mark.parametrize("mesh", ["data", "fsdp", "both"])
def test_four_devices_train_what_one_trains(on_four_devices, mesh):
    one = {key.removeprefix("one"): value for key, value in on_four_devices.items() if key.startswith("one")}
    assert len(one) == 5
    for key, expected in one.items():
        np.testing.assert_allclose(on_four_devices[f"{mesh}{key}"], expected, rtol=2e-4, atol=1e-5)
