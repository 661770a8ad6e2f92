"""GAP's interceptor on upstream's own module, where an environment with upstream's pins exists.

Set GAP_VLA_UPSTREAM to that environment's folder; docs/OCTO.md says how to build it.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

UPSTREAM = os.environ.get("GAP_VLA_UPSTREAM", "")
HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(not UPSTREAM, reason="GAP_VLA_UPSTREAM names no environment with upstream's Octo")
def test_the_interceptor_works_on_upstreams_module_under_upstreams_pins():
    done = subprocess.run(
        [Path(UPSTREAM) / "bin" / "python", HERE / "upstream_interceptor.py"],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    own = [f"octo_transformer/obs_proprio_{leaf}" for leaf in ("pos_embedding", "projection/bias", "projection/kernel")]
    assert found["versions"][0] == "0.4.20" and found["same_loss"]
    assert found["group"] == own and found["changed"] == own
    assert found["distance"] < 1e-5 and found["others"] < 1e-7
    for path, ratio in found["update_ratios"].items():
        assert ratio == pytest.approx(0.3 if path in own else 1.0, rel=1e-5)
