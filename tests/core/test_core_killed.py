"""A file is whole or absent, and its killed writer leaves nothing that the next one does not remove."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from leftovers import leave

from gap_vla.core.errors import UserError
from gap_vla.core.marks import FOLDER_MARK, is_unmarked, others_in, stamp, unlike_mark
from gap_vla.core.outputs import claim, claim_folder, writing
from gap_vla.core.whole import HIDDEN, LOCK, clear_leftovers, make_removable, put, replacing, workplace, write_json


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


def test_what_another_machine_is_writing_on_a_network_disk_stays(tmp_path, monkeypatch):
    """There a lock of a folder holds for one machine; that of a file, for all."""
    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda file, how: stat.S_ISDIR(os.fstat(file).st_mode) or lock(file, how))
    path = tmp_path / "x.json"
    with replacing(path) as theirs:
        theirs.write_text("half")
        write_json(path, "ours")
        assert theirs.read_text() == "half"
        theirs.write_text("theirs")
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "theirs"


def test_where_no_lock_can_be_had_nothing_is_taken_for_a_leftover(tmp_path, monkeypatch):
    def none(file: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    path = tmp_path / "x.json"
    with replacing(path) as theirs:
        theirs.write_text("theirs")
        write_json(path, "ours")
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "theirs"


def test_one_who_was_killed_before_he_had_a_lock_or_as_he_gave_it_back_leaves_nothing(tmp_path):
    (tmp_path / ".x.json.gap_vla-abcdefgh.partial").mkdir()
    given_back = tmp_path / ".x.json.gap_vla-hgfedcba.partial"
    given_back.mkdir()
    for name in ("x.json", ".nfs000000000004c2b700000001"):
        (given_back / name).touch()
    write_json(tmp_path / "x.json", 1)
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("name", ["replaced-page.json", "model.Q4-K", "weights.safetensors"])
def test_what_a_killed_writer_left_under_an_odd_name_is_removed_and_becomes_nothing_else(name, tmp_path):
    path = tmp_path / name

    def killed() -> None:
        with replacing(path) as temporary:
            (temporary.with_name(".tmpAb12_z") if path.suffix == ".safetensors" else temporary).touch()
            killed_in(temporary)

    in_killed_process(killed)
    replaced_once(path, killed=False)
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "whole"


def in_steps(monkeypatch: pytest.MonkeyPatch, step: int, then: Callable[[], object]) -> None:
    """Two places cannot be exchanged; after `step` of the renames in its place, `then` is called, and before the first
    if that is 0."""
    replace, done = os.replace, []

    def renamed(one: Path, other: Path) -> None:
        if step == len(done) == 0:
            done.append(one)
            then()
        replace(one, other)
        done.append(one)
        if len(done) == step:
            then()

    monkeypatch.setattr("gap_vla.core.whole._exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", renamed)


def made_anew(out: Path, name: str) -> Path:
    with workplace(out) as new:
        new.mkdir(exist_ok=True)
        (new / name).touch()
        put(new, out)
        return new


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("step", "kept"), [(0, "old"), (1, "old"), (2, "old"), (3, "new"), (4, "new")])
@pytest.mark.parametrize("killed", [False, True])
def test_an_old_output_or_a_new_one_is_there_where_two_places_cannot_be_exchanged(
    step, kept, killed, tmp_path, monkeypatch
):
    made_anew(out := tmp_path / "out", "old")
    in_steps(monkeypatch, step, (lambda: os.kill(os.getpid(), signal.SIGKILL)) if killed else stop)
    if killed:
        in_killed_process(lambda: made_anew(out, "new"))
        monkeypatch.undo()
        clear_leftovers(tmp_path, "out")
    else:
        with pytest.raises(KeyboardInterrupt):
            made_anew(out, "new")
    assert [*tmp_path.rglob("*")] == [out, out / kept]


@pytest.mark.parametrize("step", range(5))
def test_who_is_stopped_as_he_replaces_has_the_new_output_or_the_old_one_in_its_place(step, tmp_path, monkeypatch):
    """What a caller does then, as to put back another file, goes by what is in the new one's place."""
    made_anew(out := tmp_path / "out", "old")
    in_steps(monkeypatch, step, stop)
    with pytest.raises(KeyboardInterrupt), workplace(out) as new:
        new.mkdir()
        (new / "new").touch()
        try:
            put(new, out)
        finally:
            assert [one.name for one in new.iterdir()] == (["new"] if step < 3 else ["old"])


def taken_by(out: Path, name: str) -> None:
    (out / name).parent.mkdir()
    (out / name).touch()


def test_an_old_output_whose_place_somebody_took_meanwhile_is_kept_until_it_can_be_put_back(tmp_path, monkeypatch):
    made_anew(out := tmp_path / "out", "old")
    in_steps(monkeypatch, 2, lambda: taken_by(out, "theirs"))
    with pytest.raises(UserError, match=r"/replaced-out was .*/out, and cannot be put back \(Directory not empty\)"):
        made_anew(out, "new")
    monkeypatch.undo()
    for _ in range(2):
        with pytest.raises(UserError, match=r"/replaced-out was .*/out, and cannot be put back .*; move away what is"):
            claim(out, "report")
    assert sorted(one.name for one in tmp_path.rglob("*") if one.is_file()) == [LOCK, "new", "old", "theirs"]
    (out / "theirs").rename(tmp_path / "moved")
    clear_leftovers(tmp_path, "out")  # into the empty folder
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "moved", out, out / "old"]


def test_a_folder_that_another_machine_removed_is_made_anew(tmp_path, monkeypatch):
    look, stale = os.fstat, [errno.ESTALE, errno.EIO]

    def once(handle: int) -> os.stat_result:
        if stale:
            raise OSError(stale.pop(0), "gone")
        return look(handle)

    monkeypatch.setattr("gap_vla.core.whole.os.fstat", once)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="gone") as raised:
        write_json(tmp_path / "x.json", 1)
    assert raised.value.errno == errno.EIO and len(os.listdir("/proc/self/fd")) == before
    write_json(tmp_path / "x.json", 1)
    assert [*tmp_path.iterdir()] == [tmp_path / "x.json"]


def test_an_old_output_whose_place_is_taken_stays_until_it_can_be_put_back(tmp_path):
    hidden = leave(tmp_path / "out")
    for name in ("out", "replaced-out"):
        (hidden / name).mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    (mine := hidden / "mine").touch()
    for _ in range(2):
        with pytest.raises(UserError, match=r"/mine lies where .*/out is made"):
            clear_leftovers(tmp_path, "out")
    mine.unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=r"/out, and cannot be put back \(Not a directory\); move away what is"):
            clear_leftovers(tmp_path, "out")
    (tmp_path / "out").unlink()
    clear_leftovers(tmp_path, "out")
    assert (tmp_path / "out").is_dir() and not hidden.exists()


def test_an_old_output_that_was_replaced_does_not_come_back_by_half(tmp_path, monkeypatch):
    for place in (leave(tmp_path / "out") / "replaced-out", tmp_path / "out"):
        place.mkdir()
        (place / "a").touch()
    monkeypatch.setattr("gap_vla.core.whole._remove", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    in_killed_process(lambda: clear_leftovers(tmp_path))
    monkeypatch.undo()
    (tmp_path / "out").rename(tmp_path / "moved")
    clear_leftovers(tmp_path)
    assert [*tmp_path.rglob("*")] == [tmp_path / "moved", tmp_path / "moved" / "a"]


def test_somebodys_file_in_one_hidden_folder_does_not_keep_the_others(tmp_path):
    (foreign := tmp_path / ".y.gap_vla-abcdefgh.partial").mkdir()
    (foreign / "mine").touch()
    with pytest.raises(UserError, match=r"/mine lies where .*/y is made"):
        clear_leftovers(tmp_path, "y")
    for number in range(9):
        leave(tmp_path / f"x{number}")
    with pytest.raises(UserError, match=r"/mine lies where .*/y is made"):
        clear_leftovers(tmp_path)
    assert [*tmp_path.rglob("*")] == [foreign, foreign / "mine"]


def test_what_another_user_hides_in_a_shared_folder_is_no_part_of_it(tmp_path, monkeypatch):
    hidden = leave(tmp_path / FOLDER_MARK)
    look = os.scandir

    def refused(place: Path) -> object:
        if Path(place) in (hidden, tmp_path / "closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return look(place)

    monkeypatch.setattr(os, "scandir", refused)
    assert is_unmarked(tmp_path) and others_in(tmp_path, "") == []
    monkeypatch.setattr(os, "access", lambda place, how: place != hidden)
    monkeypatch.setattr("gap_vla.core.whole._lock_of_killed", lambda _: None)
    for content in (None, '{"made_by": "gap_vla:dataset", "files": {}}'):
        if content:
            (tmp_path / FOLDER_MARK).write_text(content)
        with pytest.raises(UserError, match=rf"{hidden} is hidden by another user"):
            claim(tmp_path, "dataset")  # it would go along with what is replaced
        if not content:
            claim_folder(tmp_path, "check", make=False)  # it is put beside
    (tmp_path / FOLDER_MARK).unlink()
    (tmp_path / "closed").mkdir()
    with pytest.raises(PermissionError):
        others_in(tmp_path, "")


def test_two_who_mark_one_folder_at_once_both_find_it_theirs(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            assert [*pool.map(claim_folder, [tmp_path / f"{number}"] * 4, ["report"] * 4)]


def test_what_a_killed_writer_left_in_a_folder_is_no_part_of_it_and_a_file_of_somebody_is(tmp_path, monkeypatch):
    (folder := tmp_path / "data").mkdir()
    (folder / "a.npz").touch()
    hidden = leave(folder / "deeper" / "b.npz", "b.npz")
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (_ for _ in ()).throw(OSError("no locks")))
    stamp(folder, "dataset")
    assert json.loads((folder / FOLDER_MARK).read_text())["files"].keys() == {"a.npz"}
    assert unlike_mark(folder, UserError) == {} and others_in(folder, r"a\.npz|made_by\.json") == []
    (theirs := hidden / "mine").touch()
    assert [*unlike_mark(folder, UserError).values()] == ["added"]
    assert others_in(folder, r"a\.npz|made_by\.json") == [theirs]
    leave(tmp_path / "new" / FOLDER_MARK, FOLDER_MARK)
    assert is_unmarked(tmp_path / "new")
    leave(tmp_path / "other" / FOLDER_MARK, "mine")
    assert not is_unmarked(tmp_path / "other")


def test_what_is_made_for_a_link_has_the_name_of_what_that_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.hdf5").symlink_to(tmp_path / "disk" / "data1.hdf5")
    (tmp_path / "disk" / "data1.hdf5").touch()

    def killed() -> None:
        with workplace(tmp_path / "link.hdf5") as new:
            new.with_name(new.name + ".annotator").mkdir()
            killed_in(new)

    in_killed_process(killed)
    clear_leftovers(tmp_path / "disk", "data1.hdf5")
    assert [*tmp_path.rglob("*.hdf5*")] == [tmp_path / "link.hdf5", tmp_path / "disk" / "data1.hdf5"]


def by_another_user(act: Callable[[], object]) -> int:
    """The exit status of a process of nobody's, or of one that is no root's already, that calls `act`."""
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            if os.getuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            act()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_an_old_output_that_was_made_read_only_goes_too():
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o777)
        out = Path(scratch) / "out"

        def protected() -> None:
            made_anew(out, "a")
            (out / "in").mkdir()
            (out / "in" / "b").touch()
            (theirs := Path(scratch) / "theirs").mkdir(0o555)
            (out / "linked").symlink_to(theirs)
            (out / "in").chmod(0o555)

        assert by_another_user(protected) == 0
        os.chmod(scratch, 0o777)
        assert by_another_user(lambda: made_anew(out, "new")) == 0
        assert sorted(Path(scratch).rglob("*")) == [out, out / "new", theirs := Path(scratch) / "theirs"]
        assert stat.S_IMODE(theirs.stat().st_mode) == 0o555

        def closed() -> None:
            out.chmod(0o555)
            made_anew(out, "newer")

        assert by_another_user(closed) == 0 and [one.name for one in out.iterdir()] == ["newer"]

        def removed() -> None:
            out.chmod(0o555)
            make_removable(out)
            shutil.rmtree(out)

        assert by_another_user(removed) == 0 and not out.exists()


def test_what_cannot_be_removed_is_named_once_and_not_left_without_a_word(tmp_path, monkeypatch, capsys):
    """As the old output of another user, in which nobody else may remove anything."""
    monkeypatch.setattr("gap_vla.core.whole.shutil.rmtree", lambda *_, **__: None)
    write_json(tmp_path / "x.json", 1)
    (left,) = tmp_path.glob(".x.json*")
    clear_leftovers(tmp_path)
    said = capsys.readouterr().out
    assert said.startswith(f"note: {left} cannot be removed (") and said.count("\n") == 1
    monkeypatch.undo()
    clear_leftovers(tmp_path)
    assert [*tmp_path.iterdir()] == [tmp_path / "x.json"] and not capsys.readouterr().out


def test_a_handle_is_closed_also_when_the_removal_is_interrupted(tmp_path, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("gap_vla.core.whole.shutil.rmtree", lambda *_, **__: stop())
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "x.json", 1)
    monkeypatch.setattr(fcntl, "flock", lambda *_: stop())
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "y.json", 1)
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before
    clear_leftovers(tmp_path)
    assert [*tmp_path.iterdir()] == [tmp_path / "x.json"]
