"""A file is whole or absent, and its killed writer leaves nothing that the next one does not remove."""

import contextlib
import json
import os
import signal
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gap_vla.core.outputs import claim, writing
from gap_vla.core.whole import HIDDEN, put, replacing, workplace, write_json


def in_killed_process(write: Callable[[], object]) -> None:
    """Calls `write` in a process that SIGKILL ends within it."""
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            write()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def killed_in(place: Path) -> None:
    place.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def written_once(path: Path, killed: bool) -> None:
    with writing(path, "report") as temporary:
        killed_in(temporary) if killed else temporary.write_text("<!doctype html>")


def replaced_once(path: Path, killed: bool) -> None:
    with replacing(path) as temporary:
        killed_in(temporary) if killed else temporary.write_text("whole")


@pytest.mark.parametrize(
    ("write", "name", "linked"),
    [
        (written_once, "page.html", None),
        (written_once, "page.HTML", "deeper/page.bin"),
        (written_once, "x" * 224 + ".html", None),
        (replaced_once, "[a]*.json", None),
        (replaced_once, "no suffix", None),
    ],
)
def test_of_a_file_whose_writer_was_killed_the_next_one_leaves_nothing(write, name, linked, tmp_path):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    if linked:  # to a page of ours under a name that does not say so
        (tmp_path / "deeper").mkdir()
        write(tmp_path / "deeper" / "page.html", killed=False)
        path.symlink_to((tmp_path / "deeper" / "page.html").rename(tmp_path / linked))
    (usual := tmp_path / "usual").touch()
    real = Path(os.path.realpath(path))
    old = path.read_bytes() if linked else None
    for _ in range(2):
        in_killed_process(lambda: write(path, killed=True))
        assert [bool(HIDDEN.fullmatch(one.name)) for one in real.parent.iterdir() if one != real] == [True]
        assert (path.read_bytes() if path.exists() else None) == old
    write(path, killed=False)
    assert [*real.parent.iterdir()] == [real] and path.is_symlink() == bool(linked)
    assert stat.S_IMODE(real.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    in_killed_process(lambda: write(path, killed=True))
    assert len([*real.parent.iterdir()]) == 2
    if write is written_once:
        claim(path, "report", suffixes=(".html",))  # as a command that only says that it is there
    else:
        write(path, killed=False)
    assert [*real.parent.iterdir()] == [real]


def test_two_writers_of_one_file_leave_one_of_theirs_whole(tmp_path):
    path = tmp_path / "x.json"

    def write(number: int) -> None:
        for _ in range(100):
            write_json(path, [number] * 1000)
            assert len({*json.loads(path.read_bytes())}) == 1

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(write, range(4))]
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("name", ["replaced.page.json", "model.Q4-K", "weights.safetensors"])
def test_what_a_killed_writer_left_under_an_odd_name_is_removed_and_becomes_nothing_else(name, tmp_path):
    path = tmp_path / name

    def killed() -> None:
        with replacing(path) as temporary:
            (temporary.with_name(".tmpAb12_z") if path.suffix == ".safetensors" else temporary).touch()
            killed_in(temporary)

    in_killed_process(killed)
    replaced_once(path, killed=False)
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "whole"


def test_an_old_output_is_put_back_after_ctrl_c_where_two_places_cannot_be_exchanged(tmp_path, monkeypatch):
    old, replace = tmp_path / "out", os.replace
    old.mkdir()
    (old / "mine").touch()
    monkeypatch.setattr("gap_vla.core.whole._exchange", lambda one, other: False)

    def interrupted(one: Path, other: Path) -> None:
        if one.name == "out" and other == old:
            raise KeyboardInterrupt
        replace(one, other)

    with contextlib.suppress(KeyboardInterrupt), workplace(old) as folder:
        (folder / "out").mkdir()
        monkeypatch.setattr(os, "replace", interrupted)
        put(folder / "out", old)
    assert [*tmp_path.rglob("*")] == [old, old / "mine"]
