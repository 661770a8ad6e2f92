"""Outputs are whole or absent, and nothing of the user's is replaced unasked."""

import multiprocessing
import os
import signal
import time

import pytest

from gap_vla.core.errors import UserError, command
from gap_vla.core.files import claim, file_lock, mark, marked, read_json, replacing, write_json


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert [*tmp_path.iterdir()] == [path]


def _write_forever(path):
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "one").write_text("1")
        time.sleep(60)


def test_a_killed_writer_of_a_folder_leaves_the_old_one_and_the_next_writer_succeeds(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    process = multiprocessing.get_context("spawn").Process(target=_write_forever, args=(path,))
    process.start()
    while not (tmp_path / ".folder.partial" / "one").exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [*path.iterdir()] == []
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "two").write_text("2")
    assert [one.name for one in path.iterdir()] == ["two"]
    assert [*tmp_path.iterdir()] == [path]


def test_what_exists_is_replaced_only_when_asked_and_only_if_it_is_ours(tmp_path):
    file, theirs, ours = tmp_path / "a.html", tmp_path / "theirs", tmp_path / "ours"
    file.write_text("x")
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("x")
    ours.mkdir()
    mark(ours, "dataset")
    assert marked(ours) == "dataset"
    with pytest.raises(UserError, match=r"a\.html"):
        claim(file)
    assert claim(file, overwrite=True) == file
    with pytest.raises(UserError, match="theirs"):
        claim(theirs, overwrite=True, kind="dataset")
    with pytest.raises(UserError, match="ours"):
        claim(ours, kind="dataset")
    assert claim(ours, overwrite=True, kind="dataset") == ours


def test_an_output_is_not_its_own_source(tmp_path):
    source = tmp_path / "demos.hdf5"
    source.write_text("x")
    with pytest.raises(UserError, match="demos"):
        claim(source, overwrite=True, sources=[source])


def test_two_processes_do_not_work_on_one_run(tmp_path):
    with file_lock(tmp_path / "lock", "runs/a"), pytest.raises(UserError, match="runs/a"):
        with file_lock(tmp_path / "lock", "runs/a"):
            pass


@pytest.mark.parametrize(
    "error, status", [(UserError("a: b"), 2), (FileNotFoundError(2, "no", "f"), 2), (KeyboardInterrupt(), 130)]
)
def test_a_mistake_of_the_user_is_one_line_and_its_status(error, status, capsys):
    def main():
        raise error

    assert command(main)() == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command(lambda: 1 // 0)()
