"""Claims about Ctrl-C pressed twice: what the first one began is finished, and the second leaves no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts_under_test import start

from gap_vla.core.errors import INTERRUPTED

WORKS = """
import signal, sys, time
from pathlib import Path
from gap_vla.core.errors import command, keeping
signal.signal(signal.SIGINT, signal.default_int_handler)

@command
def main():
    with keeping("the file is whole"):
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            print("ending", flush=True)
            time.sleep(1)
            Path("file").write_text("whole")

sys.exit(main())
"""


def test_a_second_ctrl_c_lets_what_the_first_one_began_be_finished(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for word in ("working\n", "ending\n"):
        assert process.stdout.readline() == word
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (INTERRUPTED, "interrupted; the file is whole\n")
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("pause", [0.0, pytest.param(0.2, marks=pytest.mark.slow)])
def test_an_evaluation_that_is_interrupted_twice_says_so_once_and_keeps_whole_lines(tmp_path, pause):
    options = ["--policy", "random", "--task", "assembly", "--horizon", 5, "--cameras", "none", "--out", "e", "--quiet"]
    process = start("evaluate", *options, "--episodes", 1000, cwd=tmp_path)
    log = tmp_path / "e" / "episodes.jsonl"
    while not (log.exists() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(pause or 0.001)
    _, said = process.communicate(timeout=60)
    kept = "interrupted; finished episodes are kept, the same command continues\n"
    assert (process.returncode, said) == (INTERRUPTED, kept)
    assert log.read_text().endswith("}\n")
    assert sorted(path.name for path in log.parent.iterdir()) == ["episodes.jsonl", "evaluation.json"]


WAITS = """
import os, time
from gap_vla.core.processes import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
        list(pool.map(time.sleep, [600, 600]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_workers_do_not_outlive_a_parent_that_was_ended(tmp_path, how):
    (tmp_path / "waits.py").write_text(WAITS)
    process = subprocess.Popen([sys.executable, tmp_path / "waits.py"], stdout=subprocess.PIPE, text=True)
    workers = [int(number) for number in process.stdout.readline().split()]
    process.send_signal(how)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while alive := [number for number in workers if os.path.exists(f"/proc/{number}")]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def test_an_interrupted_command_ends_before_libraries_take_their_threads_down(tmp_path):
    """JAX, interrupted while it compiles, crashes while Python ends; here a destructor does."""
    (tmp_path / "crashing.py").write_text(
        "import os, signal, sys\n"
        "class Crash:\n"
        "    def __del__(self, end=os._exit): end(99)\n"
        "crash = Crash()\n"
        "import gap_vla.cli\n"
        "from gap_vla.core.errors import command\n"
        "@command\n"
        "def main(): os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.modules['gap_vla.cli.crashing'] = sys.modules['__main__']\n"
        "raise SystemExit(gap_vla.cli.run('crashing'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "crashing.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("gone", [["stdout"], ["stdout", "stderr"]])
def test_a_command_that_nobody_reads_any_more_does_its_work(gone, unbuffered, tmp_path):
    program = (
        "import sys\n"
        "from gap_vla.core.errors import command\n"
        "@command\n"
        "def main():\n"
        "    sys.stdin.read()\n"
        "    for step in range(3): print('step', step, flush=True); print('left', file=sys.stderr)\n"
        "    open('work', 'w').close()\n"
        "    print('done')\n"
        "    return 1\n"
        "raise SystemExit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": unbuffered}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True, **pipes)
    for name in gone:
        getattr(started, name).close()
    started.stdin.close()
    assert "stderr" in gone or started.stderr.read() == "left\n" * 3
    assert started.wait(60) == 1 and (tmp_path / "work").exists()


def test_a_ctrl_c_while_torch_is_loaded_is_heard_behind_it(tmp_path):
    loaded = "import signal\nsignal.raise_signal(signal.SIGINT)\nprint('loaded')\nraise ImportError\n"
    (tmp_path / "torch.py").write_text(loaded)
    code = WORKS.replace('print("working", flush=True)', "import torch")
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert process.stdout == "loaded\nending\n", (
        "what it raises in a callback of torch's compiled code ends the process"
    )
    assert (process.returncode, process.stderr.count("\n")) == (INTERRUPTED, 1), process.stderr
