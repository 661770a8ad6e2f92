"""GAP inside what people wrap around a policy: a compiler, and several processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.method.distributed_policy import train_with_another

HERE = Path(__file__).parent
ALONE = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
BACKEND = "inductor" if shutil.which("g++") else "aot_eager"  # the former needs a C++ compiler


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", BACKEND])
def test_a_compiled_policy_is_adjusted_in_one_whole_graph(backend):
    call = [sys.executable, str(HERE / "compiled_policy.py"), backend]
    done = subprocess.run(call, capture_output=True, text=True, env=ALONE, check=False)
    for claim in (
        "submodule: whole graph",
        "columns: whole graph",
        "chunk: as without",
        "compiled before it was attached",
    ):
        assert claim in done.stdout, done.stderr


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    call = [sys.executable, str(HERE / "distributed_policy.py"), str(tmp_path / "rendezvous")]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env=ALONE) as other:
        train_with_another(0, tmp_path / "rendezvous")
        assert other.wait() == 0, other.stderr.read()
