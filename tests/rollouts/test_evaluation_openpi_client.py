"""The openpi client, in a process of its own, against our policy server."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from served import Counting, serving

OPENPI = """
import sys, numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
client = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]))
data = np.load(sys.argv[2])
answers = [client.infer({"observation/image": image, "observation/state": state, "prompt": "go"})["actions"]
           for image, state in zip(data["image"], data["state"])]
try:
    client.infer({"observation/state": "nonsense"})
except RuntimeError as error:
    assert "bad observation" in str(error)
else:
    raise SystemExit("no error came back")
np.save(sys.argv[3], np.stack(answers))
"""


def openpi_python(own, cache=Path(__file__).parents[2] / ".cache"):
    """An interpreter with openpi-client 0.1.2 and what its environment needs: the client pins numpy < 2, and forgets to
    ask for typing_extensions. Unless it is to have an environment of its `own`, this one with the client added.
    """
    if given_one := os.environ.get("OPENPI_CLIENT_PYTHON"):
        return given_one, {}
    if own:
        place, packages = cache / "openpi-client", ["openpi-client==0.1.2", "typing_extensions"]
        python, where = str(place / "bin" / "python"), []
    else:
        place, packages = cache / "openpi-client-alone", ["openpi-client==0.1.2", "--no-deps"]
        python, where = sys.executable, ["--target", str(place)]
    if not place.exists():
        if own:
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", *packages, *where]).returncode:
            pytest.skip("openpi-client cannot be installed here")
    return python, {} if own else {"PYTHONPATH": str(place)}


def through_openpi_client(policy, steps, folder, own=False):
    """The actions that openpi-client, in a process of its own, gets for these observations."""
    python, environment = openpi_python(own)
    stacked = {"image": [s["image_primary"][0] for s in steps], "state": [s["proprio"][0] for s in steps]}
    np.savez(folder / "observations.npz", **stacked)
    client = folder / "client.py"
    client.write_text(OPENPI)
    with serving(policy, whole_chunks=False) as port:
        arguments = [str(client), str(port), str(folder / "observations.npz"), str(folder / "actions.npy")]
        subprocess.run([python, *arguments], check=True, timeout=120, env=os.environ | environment)
    return np.load(folder / "actions.npy")[:, 0]


def in_process(policy, steps):
    policy.reset([0])
    return [policy.act(step, [0])[0] for step in steps]


def test_openpi_client_gets_the_actions_that_a_policy_gives_in_process(tmp_path):
    rng = np.random.default_rng(0)
    shown = {"image_primary": np.zeros((1, 4, 4, 3), np.uint8)}
    steps = [{**shown, "proprio": rng.standard_normal((1, 9)).astype(np.float32)} for _ in range(4)]
    found = through_openpi_client(Counting(), steps, tmp_path)
    np.testing.assert_array_equal(found, in_process(Counting(), steps))


@pytest.mark.slow
def test_a_checkpoint_gives_openpi_client_the_actions_that_it_gives_in_process(tmp_path):
    from test_evaluation_octo_policy import build, observations

    from gap_vla.rollouts.octo_policy import OctoPolicy

    model = build()
    steps = [observations(1, seed=s) for s in range(6)]
    found = through_openpi_client(OctoPolicy(model, execute=2, batch_size=1), steps, tmp_path, own=True)
    np.testing.assert_array_equal(found, in_process(OctoPolicy(model, execute=2, batch_size=1), steps))
