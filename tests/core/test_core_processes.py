"""What a process of its own says when its work goes wrong."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scripts_under_test import ROOT

from gap_vla.core.errors import UserError
from gap_vla.core.locks import InUseError, alone
from gap_vla.core.processes import CellProcess, starting_workers, worker_pool


def refused(error):
    raise error


@pytest.mark.parametrize(
    ("error", "shown"),
    [(OSError(28, "full"), False), (KeyError("x"), True), pytest.param(UserError("no"), False, marks=pytest.mark.slow)],
)
def test_a_cell_shows_a_traceback_for_a_bug_alone(error, shown, tmp_path):
    cell = CellProcess(refused, error, log=tmp_path / "log")
    cell.wait()
    assert cell.error.startswith(type(error).__name__) and ("Traceback" in (tmp_path / "log").read_text()) == shown


def test_a_ctrl_c_between_two_looks_at_a_cell_is_passed_on_to_it(tmp_path, monkeypatch):
    """Else the parent, which waits for its cells as it ends, would do so until it has trained to the end."""
    cell, look = CellProcess(time.sleep, 60, log=tmp_path / "log"), CellProcess.alive
    presses = iter([KeyboardInterrupt])

    def alive(self):
        for press in presses:
            raise press
        return look(self)

    monkeypatch.setattr(CellProcess, "alive", alive)
    with pytest.raises(KeyboardInterrupt):
        cell.wait()
    ended = not look(cell)
    cell.kill()
    assert ended and cell.interrupted


def test_workers_work_for_a_thread_that_is_not_the_first():
    """As where an app calls a command."""

    def work():
        with worker_pool(1) as pool:
            return pool.submit(abs, -1).result()

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(work).result() == 1


def test_a_worker_that_was_ended_from_outside_is_no_bug():
    with pytest.raises(UserError, match=r"where memory runs out; .* use fewer workers"), worker_pool(1) as pool:
        pool.submit(os.abort).result()


def test_where_no_locks_can_be_made_it_is_said_where(monkeypatch):
    def made(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", made)
    with pytest.raises(UserError, match=r"/dev/shm \(Read-only file system\); .* one worker"), worker_pool(1):
        pass


@pytest.fixture
def turns():
    """Threads take turns after every few instructions."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield range(30)
    sys.setswitchinterval(usual)


def test_who_waits_for_a_lock_works_after_the_one_that_has_it_and_nothing_is_left(tmp_path, turns):
    working, worked = [], []

    def work(lock, number):
        with alone(lock, "the store", wait=True):
            working.append(number)
            worked.append(len(working))
            working.remove(number)

    for turn in turns:
        lock = tmp_path / f"{turn}" / "data" / "store" / ".toy.making"
        with alone(lock, "the store", wait=True):
            threads = [threading.Thread(target=work, args=(lock, number)) for number in range(8)]
            for thread in threads:
                thread.start()
            assert not working
        for thread in threads:
            thread.join()
    assert worked == [1] * 8 * len(turns)
    with pytest.raises(UserError), alone(tmp_path / "a" / "b" / ".toy.making", "the store", wait=True):
        raise UserError("refused")
    assert not (tmp_path / "a").exists()


def test_a_child_that_was_forked_under_a_lock_does_not_keep_it_from_who_waits(tmp_path, capsys):
    """As a worker of torch's DataLoader, or a server that a program starts meanwhile."""
    lock, (heard, told) = tmp_path / ".toy.lock", os.pipe()

    def wait():
        with alone(lock, "the store", wait=True):
            pass

    waiting = threading.Thread(target=wait)
    with alone(lock, "the store"):
        if (child := os.fork()) == 0:
            os.read(heard, 1)  # it lives until it is told
            os._exit(0)
        waiting.start()
        while "waiting for it" not in capsys.readouterr().out:
            time.sleep(0.01)
        time.sleep(0.05)
    waiting.join(20)
    kept = waiting.is_alive()
    os.write(told, b".")
    os.waitpid(child, 0)
    waiting.join()
    assert not kept and not [*tmp_path.iterdir()]


def test_a_child_that_leaves_the_block_of_a_lock_gives_nothing_back(tmp_path):
    lock, child = tmp_path / ".toy.lock", -1
    try:
        with alone(lock, "the store"):
            if (child := os.fork()) == 0:
                raise UserError("in the child")
            os.waitpid(child, 0)
            with pytest.raises(InUseError), alone(lock, "the store"):
                pass
    finally:
        if child == 0:
            os._exit(0)
    assert not [*tmp_path.iterdir()]


ORPHANS = """
import time
from gap_vla.core.processes import spawned

if __name__ == "__main__":
    print(spawned(time.sleep, 600).pid, flush=True)
    time.sleep(600)
"""


def test_a_simulators_process_ends_with_a_parent_that_is_killed_also_in_the_middle_of_a_step(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    command = [sys.executable, str(tmp_path / "orphans.py")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    stat, until = Path(f"/proc/{worker}/stat"), time.monotonic() + 60
    while runs := stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    assert not runs


DEAF = """
import multiprocessing, signal
from gap_vla.core.processes import starting_workers

def hears(answer):
    answer.send(signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        mine, its = context.Pipe()
        with starting_workers():
            context.Process(target=hears, args=(its,)).start()
        print(mine.recv(), signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_no_worker_hears_ctrl_c_not_even_the_first_of_a_process(tmp_path):
    (tmp_path / "deaf.py").write_text(DEAF)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, tmp_path / "deaf.py"], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["False True"] * 2, done.stderr


STARTING = """
import multiprocessing, os
from gap_vla.core.errors import UserError
from gap_vla.core.processes import worker_pool

def start(said):
    try:
        with worker_pool(1) as pool:
            said.put(pool.submit(os.getppid).result() == os.getpid())
    except UserError as error:
        said.put(str(error))

if __name__ == "__main__":
    said, context = multiprocessing.Queue(), multiprocessing.get_context("fork")
    for how in (False, True):
        process = context.Process(target=start, args=(said,), daemon=how)
        process.start()
        print(said.get(), flush=True)
        process.join()
"""


def test_workers_of_a_program_that_is_read_from_stdin_start_and_a_daemon_is_told_that_it_may_have_none(tmp_path):
    """As `ssh node python - < program`, and a pool of the caller's own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-"]
    done = subprocess.run(call, input=STARTING, cwd=tmp_path, env=environment, capture_output=True, text=True)
    works, told = done.stdout.splitlines()
    assert works == "True" and told.startswith("a worker of multiprocessing.Pool may start no processes"), done.stderr


def test_two_threads_that_start_workers_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    inside = threading.Barrier(2)

    def start():
        with contextlib.suppress(threading.BrokenBarrierError), starting_workers():
            inside.wait(0.5)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "OMP_NUM_THREADS" not in os.environ


PATIENT = """
import time
from gap_vla.core.processes import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        pool.submit(print, "works", flush=True).result()
        pool.submit(time.sleep, 600).result()
"""


def test_another_ctrl_c_ends_workers_that_do_not_finish(tmp_path):
    (tmp_path / "patient.py").write_text(PATIENT)
    command, environment = [sys.executable, tmp_path / "patient.py"], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "works\n"
        time.sleep(0.5)
        program.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(1)  # it finishes what it is at
        program.send_signal(signal.SIGINT)
        assert program.wait(20) and "KeyboardInterrupt" in program.stderr.read()
