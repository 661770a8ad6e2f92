"""Nothing that we did not make is replaced, nothing is written over its source, nothing arrives in part."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from gap_vla.core.episode import EpisodeError
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, content, refuse_too_large
from gap_vla.core.locks import InUseError, alone
from gap_vla.core.marks import FOLDER_MARK, HDF5, made_by, stamp
from gap_vla.core.outputs import (
    OutputError,
    alone_in,
    claim,
    claim_folder,
    deliver,
    write_output,
    writing,
    writing_all,
)
from gap_vla.core.resources import ResourceError
from gap_vla.core.whole import LOCK, put, replacing, workplace, write_json
from gap_vla.drawing.video import write_video

FRAMES = np.random.default_rng(0).integers(0, 255, (12, 32, 48, 3), np.uint8)


def write(path: Path, kind: str) -> Path:
    """An output of ours, by its suffix."""
    if path.suffix == ".mp4":
        return write_video(path, FRAMES, kind)
    with writing(path, kind) as temporary:
        if path.suffix == ".png":
            Image.fromarray(FRAMES[0]).save(temporary)
        elif path.suffix == ".hdf5":
            with h5py.File(temporary, "w") as file:
                file["data"] = np.arange(9)
        elif path.suffix == ".json":
            temporary.write_text('{"a": 1}')
        else:
            temporary.write_text("<!doctype html><p>text</html>\n")
    return path


SUFFIXES = (".png", ".mp4", ".hdf5", ".json", ".html", ".md")


def test_an_hdf5_file_on_which_its_library_would_hang_has_no_mark(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5", "demos")
    assert made_by(path) == "demos"
    monkeypatch.setattr("gap_vla.core.hdf5_mark.damaged_heap", lambda path: 4096)
    monkeypatch.setattr(h5py, "File", lambda path: pytest.fail("it was opened"))
    assert made_by(path) is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_carries_a_mark_stays_readable_and_is_replaced_only_by_its_kind(suffix, tmp_path):
    path = write(tmp_path / f"x{suffix}", "episode")
    assert made_by(path) == "episode"
    write(path, "episode")
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"is something else of gap_vla \(episode\)"):
        write(path, "report")
    with pytest.raises(OutputError, match="allow overwriting"):
        claim(path, "episode", overwrite=False, suffixes=(suffix,))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_marked_files_are_read_by_others(tmp_path):
    import imageio.v3

    assert np.array_equal(Image.open(write(tmp_path / "x.png", "a")), FRAMES[0])
    assert len(imageio.v3.imread(write(tmp_path / "x.mp4", "a"))) == len(FRAMES)
    with h5py.File(write(tmp_path / "x.hdf5", "a")) as file:
        assert file["data"][()].tolist() == list(range(9))
    assert write(tmp_path / "x.html", "a").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_others_made_is_never_replaced(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_text("the only copy")
    with pytest.raises(OutputError, match="exists without a mark of gap_vla"):
        write(path, "episode")
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="is no file"):
        write(path, "episode")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_only_if_nothing_else_was_put_into_it(tmp_path):
    path = tmp_path / "labelled"

    def make(content: str) -> None:
        with workplace(path) as new:
            new.mkdir()
            (new / "a.npz").write_text(content)
            deliver(new, path, "labelled_npz")

    make("1")
    make("2")
    assert (path / "a.npz").read_text() == "2" and sorted(p.name for p in path.iterdir()) == ["a.npz", FOLDER_MARK]
    (path / "notes").mkdir()
    (path / "notes" / "thesis.tex").write_text("the only copy")
    with pytest.raises(OutputError, match=r"also holds notes/thesis.tex"):
        make("3")
    assert (path / "a.npz").read_text() == "2" and (path / "notes" / "thesis.tex").exists()
    (path / "notes" / "thesis.tex").unlink()
    with pytest.raises(OutputError, match=r"also holds notes, which was not written with it"):
        make("4")
    (path / "notes").rmdir()
    (path / "a.npz").write_text("3")  # theirs, under a name of ours
    with pytest.raises(OutputError, match=r"also holds a\.npz, which was not written with it; move that away first"):
        make("4")
    (path / "a.npz").unlink()
    (path / "a.npz").symlink_to(tmp_path / "file")
    with pytest.raises(OutputError, match=r"also holds a\.npz"):
        make("4")
    (path / "a.npz").unlink()
    make("5")
    for other in (tmp_path / "foreign", tmp_path / "file"):
        other.mkdir() if other.name == "foreign" else other.write_text("x")
        if other.is_dir():
            (other / "x").touch()
        with pytest.raises(OutputError):
            claim(other, "labelled_npz")


def test_what_comes_into_the_place_while_an_output_is_written_stays(tmp_path):
    path = tmp_path / "page.md"
    with pytest.raises(OutputError, match="exists without a mark of gap_vla"), writing(path, "report") as temporary:
        temporary.write_text("ours")
        path.write_text("mine")
    assert path.read_text() == "mine" and [one.name for one in tmp_path.iterdir()] == ["page.md"]


def test_a_place_of_work_that_another_writer_took_for_a_leftover_is_made_anew(tmp_path, monkeypatch):
    lock = fcntl.flock

    def late(handle, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        shutil.rmtree(next(tmp_path.glob(".out*")))
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with workplace(tmp_path / "out") as new:
        new.write_text("whole")
    assert not list(tmp_path.iterdir())


FOREIGN = {
    "quotes.html": b"<p>pages carry gap_vla:episode, as <!-- gap_vla:episode --> behind their head</p>",
    "quotes.md": b"<!-- gap_vla:episode -->\n is the mark of a page\n",
    "quotes.json": b'{"note": "ours begin with", "made_by": "gap_vla:episode"}',
    "quotes.mp4": b"\0\0\0\x17freegap_vla:episode and more pictures",
    "later.html": b"<!doctype html><!-- gap_vla:episode-2 --><p>made by a later version</p>",
    "later.json": b'{"made_by": "gap_vla:episode2"}',
    "later.mp4": b"pictures\0\0\0\x19freegap_vla:episode-2",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_quotes_a_mark_or_has_one_of_a_later_format_is_not_replaced(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FOREIGN[name])
    with pytest.raises(OutputError, match="exists without a mark of gap_vla"):
        claim(path, "episode", suffixes=(path.suffix,))


def test_a_mark_is_read_up_to_its_end(tmp_path):
    path = write(tmp_path / "x.png", "episode")
    content = path.read_bytes()
    at = content.index(b"episode") + len(b"episode")
    path.write_bytes(content[:at] + b"abcd" + content[at + 4 :])  # a checksum that looks like letters
    assert made_by(path) == "episode"


@pytest.mark.parametrize("place", [0, 5 * 2**20, 12 * 2**20 - 1])
def test_a_large_file_that_was_changed_is_not_ours(place, tmp_path):
    with workplace(tmp_path / "out") as new:
        new.mkdir()
        (new / "large").write_bytes(bytes(12 * 2**20))
        deliver(new, tmp_path / "out", "dataset")
    claim(tmp_path / "out", "dataset")
    with open(tmp_path / "out" / "large", "r+b") as file:
        file.seek(place)
        file.write(b"x")
    with pytest.raises(OutputError, match="also holds large"):
        claim(tmp_path / "out", "dataset")


def test_a_link_that_leads_nowhere_is_no_place_for_results(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    said = rf"{tmp_path}/link is a link that leads nowhere; remove it, or name another place"
    for folder in (tmp_path / "link", tmp_path / "link" / "deeper"):
        with pytest.raises(ResourceError, match=said):
            claim_folder(folder, "check")
        with pytest.raises(ResourceError, match=said):
            claim(folder / "page.html", "check", suffixes=(".html",))
        with pytest.raises(ResourceError, match=said), alone(folder / ".lock", "it"):
            pass
    (tmp_path / "film.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ResourceError, match=r"film\.png is a link that leads nowhere"):
        write_output(tmp_path / "film.png", "sheet", "")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["film.png", "link"]


def test_a_folder_above_one_that_is_missing_is_no_place_for_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.html").write_text("mine")
    Path("folder").mkdir()
    Path("folder/notes").write_text("mine")
    Path("there").mkdir()
    page, folder = Path("no/../mine.html"), Path("no/../folder")

    def placed(place):
        with workplace(Path("new")) as new:
            new.mkdir()
            put(new, place)

    def replaced(place, **how):
        with replacing(place, **how) as temporary:
            temporary.write_text("not mine")

    ways = [
        lambda: claim(page, "report", suffixes=(".html",)),
        lambda: claim_folder(folder, "check"),
        lambda: write_output(page, "report", "not mine"),
        lambda: replaced(page),
        lambda: replaced(page, follow=True),
        lambda: placed(page),
        lambda: placed(folder),
        lambda: write_json(folder / "notes", "not mine"),
        lambda: placed(Path("link")),
        lambda: replaced(Path("link"), follow=True),
        lambda: write_json("linked/notes", "not mine"),
        lambda: replaced(Path("no/..")),
    ]
    Path("link").symlink_to(page)
    Path("linked").symlink_to(folder)
    for way in ways:  # which the system would call missing, and os.path.realpath somebody's
        with pytest.raises(
            ResourceError,
            match=r"/no, which is not there; name the place without \.\.|link(ed)? is a link that leads nowhere",
        ):
            way()
        assert Path("mine.html").read_text() == Path("folder/notes").read_text() == "mine"
    write_output("there/../page.html", "report", "<!DOCTYPE html>\n<html></html>")
    assert sorted(place.name for place in Path().iterdir()) == [
        *("folder", "link", "linked", "mine.html", "page.html", "there")
    ]


@pytest.mark.parametrize(
    ("start", "said"),
    [("~", r"begins with ~, .*; write \$HOME instead"), ("~root", r"begins with ~root, .*; write /\S+ instead")]
    + [(home, rf"begins with {home}, .* no such user; write the") for home in ("~somebody", "~jean-luc")]
    + [(bucket, "is an address; give a folder of this machine") for bucket in ("gs://bucket/rlds", "s3://bucket")],
)
def test_a_home_that_no_shell_has_put_in_and_an_address_make_no_folder_of_that_name(start, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for refused in (
        lambda: claim(f"{start}/e.html", "report", suffixes=(".html",)),
        lambda: claim_folder(start, "check"),
    ):
        with pytest.raises(ResourceError, match=said):
            refused()
    with pytest.raises(ResourceError, match=said), alone(Path(start) / "runs" / ".lock", "it"):
        pass
    assert not [*tmp_path.iterdir()]
    assert claim("~backup.html", "report", suffixes=(".html",)) == Path("~backup.html")


@pytest.mark.parametrize("place", ["link", "file", "file/deeper"])
def test_a_folder_of_datasets_that_cannot_be_one_is_refused_before_anything_is_read(place, tmp_path, capsys):
    from gap_vla.cli.build_dataset import main

    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("the only copy")
    (tmp_path / "d.hdf5").write_text("no demonstrations")
    given = [str(tmp_path / "d.hdf5"), "--kind", "robomimic_hdf5", "--name", "toy", "--data-dir", str(tmp_path / place)]
    assert main(given) == 2
    assert "is a link that leads nowhere" in (said := capsys.readouterr().err) or "is a file; give a folder" in said


def test_hidden_folders_that_are_not_ours_stay(tmp_path):
    foreign = [
        tmp_path / name for name in (".x.hdf5.mine.partial", ".x.hdf5.abcdefgh.partial", ".other.hdf5.y.partial")
    ]
    ours = tmp_path / ".x.hdf5.gap_vla-abcdefgh.partial"
    for folder in (*foreign, ours):
        folder.mkdir()
        (folder / "thesis.txt").write_text("the only copy")
    (ours / "thesis.txt").rename(ours / "x.hdf5")
    for name in ("x.hdf5", "*.hdf5", "[a-z].hdf5"):
        with workplace(tmp_path / name) as new:
            assert new.parent.parent == tmp_path and [one.name for one in new.parent.iterdir()] == [LOCK]
    assert all((folder / "thesis.txt").exists() for folder in foreign) and not ours.exists()


def test_what_somebody_put_into_the_folder_of_a_killed_writer_is_named_and_stays(tmp_path):
    killed = tmp_path / ".x.gap_vla-abcdefgh.partial"
    (killed / "x").mkdir(parents=True)
    (killed / "thesis.txt").write_text("the only copy")
    with pytest.raises(UserError, match=rf"^{killed}/thesis\.txt lies where {tmp_path}/x is made and was not"):
        with workplace(tmp_path / "x"):
            pass
    assert (killed / "thesis.txt").read_text() == "the only copy"
    (killed / "thesis.txt").rename(tmp_path / "thesis.txt")
    (tmp_path / ".x.gap_vla-link.partial").symlink_to(tmp_path / "linked")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "replaced.x").touch()
    os.mkfifo(tmp_path / ".x.gap_vla-pipe.partial")
    with workplace(tmp_path / "x"):
        pass
    assert (tmp_path / "linked" / "replaced.x").exists() and not killed.exists()


def test_a_lock_on_a_full_disk_is_held_and_none_of_it_stays(tmp_path, monkeypatch):
    def full(handle, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with alone(tmp_path / "made" / ".lock", "it"):
        with pytest.raises(InUseError, match="it is in use by another process"), alone(tmp_path / "made/.lock", "it"):
            pass
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"the only copy", b"process 1 on x\nand more", b"\xff"])
def test_a_file_in_the_place_of_a_lock_is_named_and_stays(content, tmp_path):
    (tmp_path / ".lock").write_bytes(content)
    with pytest.raises(InUseError, match=r"/\.lock is in the place of a lock and was not written by gap_vla; move it"):
        with alone(tmp_path / ".lock", "it"):
            pass
    assert (tmp_path / ".lock").read_bytes() == content
    (tmp_path / ".lock").unlink()
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(InUseError, match=r"/\.lock is in the place of a lock and was not written"):
        with alone(tmp_path / ".lock", "it"):
            pass
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").write_text("process 1 on x\n")  # of one that was killed
    with alone(tmp_path / ".lock", "it"):
        pass
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_said_of_the_file_that_was_asked_for(tmp_path, monkeypatch):
    def refused(prefix, suffix, dir):
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/{prefix}ab12cd34{suffix}")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(PermissionError) as closed:
        write_json(tmp_path / "TASKS.json", {})
    assert closed.value.filename == str(tmp_path / "TASKS.json")


def test_an_output_is_contains_and_lies_in_nothing_that_is_read(tmp_path):
    source = tmp_path / "data" / "source"
    source.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(source)
    for out, how in itertools.product((source, source.parent, source / "deeper" / "out"), ("", "link", "relative")):
        path = Path(str(out).replace(str(source), str(link))) if how == "link" else out
        path = Path(os.path.relpath(path)) if how == "relative" else path
        with pytest.raises(OutputError, match="which is read"):
            claim(path, "dataset", sources=[source])
    claim(tmp_path / "data" / "other", "dataset", sources=[source, None])


@pytest.mark.parametrize("kind", ["dataset", "labelled_npz", "annotator"])
def test_nothing_is_written_into_a_folder_that_is_read_as_it_was_made(kind, tmp_path):
    sealed = tmp_path / "toy"
    sealed.mkdir()
    stamp(sealed, kind)
    for out in (sealed / "page.html", sealed / "deeper" / "page.html"):
        with pytest.raises(OutputError, match=rf"page.html lies in {sealed}, which would not be as it was made; name"):
            claim(out, "runs_report", suffixes=[".html"])
    claim(sealed, kind)
    claim(tmp_path / "page.html", "runs_report", suffixes=[".html"])


@pytest.mark.parametrize(
    ("linked", "out", "how"),
    [
        ("lab/one.npz", "lab", "contains"),
        ("lab", "lab", "is"),
        ("lab", "lab/made", "lies in"),
        ("lab/one.npz", "other", None),
    ],
)
def test_nothing_is_written_where_links_in_the_source_lead(linked, out, how, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/one.npz").touch()
    (tmp_path / "source/deeper").mkdir(parents=True)
    (link := tmp_path / "source/deeper/link").symlink_to(tmp_path / linked)
    (tmp_path / "source/deeper/circle").symlink_to(tmp_path / "source")
    said = pytest.raises(OutputError, match=f"{out} {how} {link}, which is read; name another place")
    with said if how else contextlib.nullcontext():
        claim(tmp_path / out, "dataset", overwrite=True, sources=[tmp_path / "source"])


def test_a_source_that_is_seen_through_a_mount_is_known(tmp_path):
    pairs = {("view/out", "source"): "lies in", ("view", "source/inner"): "contains", ("view", "source"): "is"}
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from gap_vla.core.outputs import OutputError, claim\n"
        f"for out, source in {[*pairs]}:\n"
        "    try: claim(out, 'dataset', sources=[source])\n"
        "    except OutputError as error: print(error)"
    )
    for name in ("source", "source/inner", "view"):
        (tmp_path / name).mkdir()
    line = f"mount --bind source view || exit 99; exec {shlex.join([sys.executable, '-c', program])}"
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    found = subprocess.run(["unshare", "-m", "bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this user may not mount")
    said = [f"{out} {how} {source}, which is read; name another place" for (out, source), how in pairs.items()]
    assert found.stdout.splitlines() == said


def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(tmp_path):
    write(tmp_path / "real.html", "episode")
    (tmp_path / "link.html").symlink_to("real.html")
    write_output(tmp_path / "link.html", "episode", "<!doctype html>new")
    assert (tmp_path / "link.html").is_symlink() and "new" in (tmp_path / "real.html").read_text()
    (tmp_path / "circle.html").symlink_to("circle.html")
    with pytest.raises(OutputError, match="a link in a circle"):
        write_output(tmp_path / "circle.html", "episode", "<!doctype html>")


def test_what_was_hidden_from_others_stays_so(tmp_path):
    umask = os.umask(0o022)
    try:
        for mode, then in ((0o600, 0o600), (0o640, 0o640), (0o444, 0o644), (None, 0o644)):
            page = tmp_path / f"{mode}.json"
            if mode:
                page.write_text("{}")
                page.chmod(mode)
            write_json(page, {"ours": 1})
            assert page.stat().st_mode & 0o777 == then
    finally:
        os.umask(umask)


def test_a_folder_of_a_group_stays_the_groups(tmp_path):
    tmp_path.chmod(0o2775)
    with workplace(out := tmp_path / "out") as new:
        (new / "in").mkdir(parents=True)
        (new / "in" / "page.md").touch()
        put(new, out)
    umask = os.umask(0o027)
    os.umask(umask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o2777 & ~umask
    assert (out / "in").stat().st_mode & stat.S_ISGID and not (out / "in" / "page.md").stat().st_mode & stat.S_ISGID


def test_no_file_of_another_thread_is_open_to_all_while_one_is_written(tmp_path, monkeypatch):
    usual = os.umask(0o077)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the process's own was changed"))
            write_json(tmp_path / "mine.json", 1)
            patch.setattr(os, "umask", lambda _: 0o077)
            patch.setattr("pathlib.Path.read_text", lambda *_, **__: "Name:\tpython\n")  # of an old kernel
            write_json(tmp_path / "old.json", 1)
    finally:
        os.umask(usual)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_results_are_no_step_of_a_checkpoint(tmp_path):
    (tmp_path / "example_batch.msgpack").touch()
    for place in (tmp_path / "7", tmp_path / "7" / "eval", tmp_path / "x" / ".." / "7"):
        with pytest.raises(OutputError, match=r"7 would be a step of the checkpoint .*; give a name that is no number"):
            claim_folder(place, "held_out")
    claim_folder(tmp_path / "step 7", "held_out")


def test_a_file_system_without_modes_is_written_to(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.chmod", refused)
    write_json(tmp_path / "table.json", {"ours": 1})
    write_json(tmp_path / "table.json", {"ours": 2})  # all have one mode there
    assert json.loads((tmp_path / "table.json").read_text()) == {"ours": 2}
    (tmp_path / "new.json").write_text("{}")
    os.chmod(tmp_path / "table.json", 0o640)
    os.chmod(tmp_path / "new.json", 0o644)
    with pytest.raises(PermissionError):  # it has modes, and others would read what was hidden from them
        put(tmp_path / "new.json", tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text()) == {"ours": 2}


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("said", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_not_taken_for_another_process(said, wait, tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(said, os.strerror(said))

    monkeypatch.setattr("fcntl.flock", unknown)
    with pytest.raises(ResourceError, match=rf"^{tmp_path}: its file system knows no locks; choose another place$"):
        with alone(tmp_path / "lock", "it", wait=wait):
            pass
    with alone_in(tmp_path / "out", wait=wait):  # of which the lock is no more than a help
        pass
    assert not [*tmp_path.iterdir()]


def test_where_no_locks_are_known_a_file_in_the_place_of_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda file, how: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    (lock := tmp_path / ".d.lock").write_text("my notes")
    for _ in range(2):
        with pytest.raises(ResourceError, match="its file system knows no locks"), alone(lock, "d"):
            pass
    assert lock.read_text() == "my notes"
    with pytest.raises(ResourceError), alone(tmp_path / ".e.lock", "e"):
        pass
    assert not (tmp_path / ".e.lock").exists()


def test_a_file_beside_an_output_is_never_written_through_a_link(tmp_path):
    (tmp_path / "note.txt").write_text("the only copy")
    for name in ("table.json", "lock"):
        (tmp_path / name).symlink_to("note.txt")
    write_json(tmp_path / "table.json", {"ours": 1})
    with pytest.raises(OSError, match="lock"), alone(tmp_path / "lock", "it", wait=True):
        pass
    assert (tmp_path / "note.txt").read_text() == "the only copy" and (tmp_path / "lock").is_symlink()
    assert not (tmp_path / "table.json").is_symlink()
    assert json.loads((tmp_path / "table.json").read_text()) == {"ours": 1}


def test_a_file_for_which_there_is_no_memory_is_not_read(tmp_path):
    (tmp_path / "policy.json").touch()
    os.truncate(tmp_path / "policy.json", 2**42)  # sparse
    with pytest.raises(UserError, match=r"policy\.json: needs 17,592,186,044,416 bytes of memory, .* are free"):
        content(tmp_path / "policy.json")
    with pytest.raises(UserError, match=r"policy\.json: 4,398,046,511,104 bytes of settings or results; copy the file"):
        Section.read(tmp_path / "policy.json")


def test_what_is_small_is_read_without_asking_how_much_memory_there_is(monkeypatch):
    monkeypatch.setattr("gap_vla.core.foreign.available_memory", lambda: 0)
    refuse_too_large("it", 2**16, 2**16)
    with pytest.raises(UserError, match="it: needs 65,537 bytes of memory, 0 are free"):
        refuse_too_large("it", 2**16 + 1, 2**16)


def test_a_pipe_in_the_place_of_a_file_of_json_is_named_once(tmp_path):
    os.mkfifo(tmp_path / "statistics.json")
    said = rf"^{tmp_path}/statistics\.json is a pipe or a device, no regular file; give one$"
    with pytest.raises(EpisodeError, match=said):
        Section.read(tmp_path / "statistics.json", EpisodeError)


@pytest.mark.parametrize("name", ["e.HTML", "e.Json"])
def test_capitals_are_the_same_suffix(name, tmp_path):
    for text in ("<!doctype html>first", "<!doctype html>second"):
        write_output(tmp_path / name, "episode", text if name == "e.HTML" else json.dumps({"text": text}))
    assert made_by(tmp_path / name) == "episode" and "second" in (tmp_path / name).read_text()
    assert claim(tmp_path / "D.HDF5", "demos", suffixes=HDF5)


def test_places_that_cannot_be_written_are_found_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="is a file; give a folder"):
        claim(tmp_path / "file" / "deeper" / "x.html", "episode", suffixes=(".html",))
    with pytest.raises(OutputError, match=r"must end in \.html or \.png"):
        claim(tmp_path / "x.txt", "episode", suffixes=(".html", ".png"))
    with pytest.raises(OutputError, match="the name has more than 229 bytes; give a shorter one"):
        claim(tmp_path / ("x" * 225 + ".html"), "episode", suffixes=(".html",))
    (tmp_path / "long.html").symlink_to(tmp_path / ("x" * 225 + ".html"))
    (tmp_path / ("x" * 225 + ".html")).touch()
    with pytest.raises(OutputError, match="the name has more than 229 bytes; give a shorter one"):
        claim(tmp_path / "long.html", "episode", suffixes=(".html",))
    assert write_output(tmp_path / ("x" * 224 + ".html"), "episode", "<p>").exists()
    assert write_output(tmp_path / "new" / "folder" / "x.html", "episode", "<p>").exists()


def test_what_may_not_be_replaced_is_found_before_any_work(tmp_path, monkeypatch):
    page, opened = write_output(tmp_path / "page.html", "page", "<html></html>"), os.open

    def forbidden(path, flags, *more, **options):  # as after `chattr +i`, which needs another user and file system
        if path == page and flags & os.O_WRONLY:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(OutputError, match=r"page\.html may not be replaced \(chattr"):
        claim(page, "page", suffixes=(".html",))


@pytest.mark.parametrize("before", ["old", None])
def test_of_two_files_that_belong_together_both_are_replaced_or_none(before, tmp_path, monkeypatch):
    account, page = tmp_path / "check.json", tmp_path / "check.html"
    if before:
        write_output(account, "check", '{"at": 1}')
        write_output(page, "check", "<html>1</html>")
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = os.replace

    def busy(source, place):
        if Path(place) == account:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))
        replace(source, place)

    def write():
        with writing_all([account, page], "check") as (first, second):
            first.write_text('{"at": 2}')
            second.write_text("<html>2</html>")

    def interrupted(source, place):
        replace(source, place)
        if Path(place) == interrupted_at and Path(source).name != "check.old":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(OSError, match="busy"):
        write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there
    monkeypatch.setattr(os, "replace", interrupted)
    interrupted_at = page
    with pytest.raises(KeyboardInterrupt):
        write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there
    interrupted_at = account  # the last of them
    with pytest.raises(KeyboardInterrupt):
        write()
    assert b"2" in account.read_bytes() and b"2</html>" in page.read_bytes()
    monkeypatch.undo()
    write()
    assert b"2" in account.read_bytes() and b"2</html>" in page.read_bytes() and len([*tmp_path.iterdir()]) == 2


def test_the_old_output_stays_when_the_new_one_fails(tmp_path):
    path = write(tmp_path / "x.png", "episode")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="not written whole"), writing(path, "episode") as temporary:
        Image.fromarray(FRAMES[0]).save(temporary)
        temporary.write_bytes(temporary.read_bytes()[:-700])
    with pytest.raises(KeyboardInterrupt), writing(path, "episode"):
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path):
    """200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_leaves_no_video_no_picture_and_no_page(small_disk):
    noise = np.random.default_rng(0).integers(0, 255, (60, 128, 128, 3), np.uint8)
    with pytest.raises(OutputError, match=r"x\.mp4"):
        write_video(small_disk / "x.mp4", noise, "episode")
    with pytest.raises(OSError, match="No space left"), writing(small_disk / "x.png", "episode") as temporary:
        Image.fromarray(np.concatenate(noise[:10])).save(temporary)
    with pytest.raises(OSError, match="No space left") as full:
        write_output(small_disk / "x.html", "episode", "x" * 300_000)
    assert full.value.filename == str(small_disk / "x.html") and list(small_disk.iterdir()) == []


VERSION = '[ "$1" = -version ] && echo ffmpeg version 0 && exit; '


@pytest.mark.parametrize(
    ("ffmpeg", "message"),
    [
        ("exit 0", "stranger is no ffmpeg that answers"),
        ("exec sleep 1000", "stranger is no ffmpeg that answers"),
        ('[ "$1" != -version ] || echo ffmpeg version 0', "0 of .* pictures arrived"),
        (VERSION + "kill -25 $$", r"ffmpeg failed: .* status -25; if disk or limit .ulimit -f. is reached, make room"),
        (VERSION + "echo no; echo space >&2; exit 3", r"ffmpeg failed: space; if disk or limit.*make room$"),
    ],
)
def test_what_is_no_ffmpeg_is_named_and_leaves_no_video(tmp_path, monkeypatch, ffmpeg, message):
    stranger = tmp_path / "stranger"
    stranger.write_text(f"#!/bin/sh\n{ffmpeg}\n")
    stranger.chmod(0o700)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(stranger))
    monkeypatch.setattr("gap_vla.drawing.video.ANSWER", 0.5)
    with pytest.raises(OutputError, match=rf"x\.mp4: .*{message}"):
        write_video(tmp_path / "x.mp4", FRAMES, "episode")
    assert list(tmp_path.iterdir()) == [stranger]


def test_a_video_without_any_ffmpeg_is_refused(tmp_path, monkeypatch):
    def absent():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", absent)
    with pytest.raises(OutputError, match=r"x\.mp4: what was found is no .*IMAGEIO_FFMPEG_EXE"):
        write_video(tmp_path / "x.mp4", FRAMES, "episode")


def test_a_read_only_folder_is_found_before_any_work(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ResourceError, match="is not writable"):
        claim(small_disk / "new" / "x.html", "episode", suffixes=(".html",))


def test_marks_are_the_same_bytes_each_time(tmp_path):
    paths = [write(tmp_path / f"{name}.png", "episode") for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for path in paths:
        stamp(path, "episode")
        assert np.array_equal(Image.open(path), FRAMES[0])


def test_a_volume_takes_results_and_is_replaced_by_nothing(tmp_path, monkeypatch):
    """As `docker run --user` shows it: an empty folder that may be written to, in one that may not."""
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # the tests may be root's, who may all
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "out")
    with pytest.raises(OutputError, match=r"out is a volume, .*; name one in it, .*out/NAME$"):
        claim(tmp_path / "out", "labelled_npz")
    assert claim(tmp_path / "out" / "NAME", "labelled_npz")
    assert made_by(claim_folder(tmp_path / "out", "check")) == "check"
    with pytest.raises(ResourceError, match=rf"^the folder of .*new is '{tmp_path}', but .* is not writable"):
        claim_folder(tmp_path / "new", "check")


@pytest.mark.parametrize("within", ["my annotator", "annotator/volume", "episode_0.npz"])
def test_a_folder_that_holds_a_volume_or_a_mounted_file_is_replaced_by_nothing(tmp_path, monkeypatch, within):
    with workplace(out := tmp_path / "out") as new:
        new.mkdir()
        deliver(new, out, "labelled_npz")
    beside = tmp_path / "outer"
    (said := tmp_path / "mountinfo").write_text(
        f"22 1 0:21 / /proc rw - proc proc rw\n23 1 0:5 / {beside} rw - a b c\n24 1 0:6 /a\rb /x\vy rw - a b c\n"
    )
    monkeypatch.setattr("gap_vla.core.outputs._MOUNTS", said)
    claim(out, "labelled_npz")
    place = f"{out / within}".replace(" ", r"\040")
    said.write_text(f"{said.read_text()}25 1 0:5 /vol {place} rw shared:1 - tmpfs none rw\n")
    with pytest.raises(OutputError, match=rf"out holds the volume {out}/{within}; unmount that, or name another"):
        claim(out, "labelled_npz")
    assert claim_folder(out.parent / "results", "check")


def test_a_folder_of_another_user_that_nobody_else_may_write_to_is_refused_before_any_work(tmp_path, monkeypatch):
    with workplace(out := tmp_path / "out") as new:
        new.mkdir()
        deliver(new, out, "labelled_npz")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != out)  # the tests may be root's, who may all
    assert claim(out, "labelled_npz") == out, "one's own"
    monkeypatch.setattr("os.geteuid", lambda: out.stat().st_uid + 1)
    with pytest.raises(ResourceError, match=rf"the folder is '{out}', but {out} is not writable; give another folder"):
        claim(out, "labelled_npz")


def test_a_folder_of_results_is_new_empty_or_ours(tmp_path):
    claim_folder(tmp_path / "new", "check", make=False)
    assert list(tmp_path.iterdir()) == []
    folder = claim_folder(tmp_path / "new", "check")
    write_output(folder / "check.json", "check", "{}")
    assert claim_folder(folder, "check") == folder
    with pytest.raises(OutputError, match=r"something else of gap_vla \(check\)"):
        claim_folder(folder, "diagnosis")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "note.txt").write_text("the only copy")
    for other in (tmp_path / "theirs", tmp_path / "theirs" / "note.txt"):
        with pytest.raises(OutputError):
            claim_folder(other, "check")
    with pytest.raises(OutputError, match="lies in"):
        claim_folder(tmp_path / "theirs" / "deeper", "check", sources=[tmp_path / "theirs"])


def test_a_mark_of_a_folder_is_whole_or_absent_and_the_same_call_goes_on(tmp_path, monkeypatch):
    def on_a_full_disk(path, text):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as changed:
        changed.setattr(Path, "write_text", on_a_full_disk)
        with pytest.raises(OSError, match=r"No space .*out/made_by\.json"):
            claim_folder(tmp_path / "out", "check")
    killed = tmp_path / "out" / ".made_by.json.gap_vla-abcd_123.partial"
    killed.mkdir()
    (killed / "made_by.json").touch()
    assert made_by(claim_folder(tmp_path / "out", "check")) == "check"
    killed.mkdir()  # after the mark had taken its place
    claim_folder(tmp_path / "out", "check")
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["made_by.json"]
    assert Section.read(tmp_path / "out" / FOLDER_MARK, OutputError).section("files").values == {}


def test_half_of_a_pair_of_characters_as_json_may_hold_is_written_as_its_number(tmp_path: Path) -> None:
    text = json.loads(r'"half \ud83d"')
    page = write_output(tmp_path / "page.html", "runs_report", f"<html>{text}</html>")
    assert r"half \ud83d</html>" in page.read_text(encoding="utf-8")
