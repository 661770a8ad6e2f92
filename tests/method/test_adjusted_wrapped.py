"""GAP inside what people wrap around a policy: a compiler, and several processes."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.method.distributed_policy import train_with_another

HERE = Path(__file__).parent
BACKEND = "inductor" if shutil.which("g++") else "aot_eager"  # the former needs a C++ compiler


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", BACKEND])
def test_a_compiled_policy_is_adjusted_in_one_whole_graph(backend, runner, tmp_path):
    done = runner.run(HERE / "compiled_policy.py", [backend], tmp_path, limit=900)
    for claim in ("submodule: whole graph", "columns: whole graph", "compiled before it was attached"):
        assert claim in done.stdout, done.stderr


def test_two_processes_train_as_one_with_the_whole_batch(runner, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(runner.run, HERE / "distributed_policy.py", [str(tmp_path / "rendezvous")], tmp_path)
        train_with_another(0, tmp_path / "rendezvous")
    done = other.result()
    assert done.status == 0, done.stderr
