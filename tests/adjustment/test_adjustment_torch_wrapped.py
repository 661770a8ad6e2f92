"""GAP inside what people wrap around a policy: a compiler, and several processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from distributed_policy import train_with_another

HERE = Path(__file__).parent
BACKEND = "inductor" if shutil.which("g++") else "aot_eager"  # the former needs a C++ compiler
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(
    "backend", ["eager", *(pytest.param(name, marks=pytest.mark.slow) for name in ("aot_eager", BACKEND))]
)
def test_a_compiled_policy_is_adjusted_in_one_whole_graph(backend):
    output = run(HERE / "compiled_policy.py", backend).communicate(timeout=900)[0]
    for claim in ("submodule: whole graph", "columns: whole graph", "beside a plain one of its class"):
        assert claim in output, output


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    other = run(HERE / "distributed_policy.py", tmp_path / "rendezvous")
    try:
        train_with_another(0, tmp_path / "rendezvous")
    finally:
        output = other.communicate(timeout=400)[0]
    assert other.returncode == 0, output
