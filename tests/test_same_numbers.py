"""A change that changes a number is found; what is time is no number."""

import json
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest

from experiments import same_numbers
from experiments.same_numbers import Checkouts, Part, compare, digest_of, table
from gap_vla.core.errors import UserError
from gap_vla.core.hdf5_mark import write_mark

sys.path.insert(0, str(Path(__file__).parent / "core"))

from scripts_under_test import call

MADE = {"labels": {"RLDS": "a", "statistics": "b"}, "gap": {"metrics": "c"}}


@pytest.fixture
def stand_in(monkeypatch):
    """Digests of parts without running them; `new` has those that a test changes."""
    changed = {}
    monkeypatch.setattr(
        Checkouts, "digests", lambda _, commit, name, *rest: MADE[name] | changed.get((commit, name), {})
    )
    monkeypatch.setattr(same_numbers, "commit_of", lambda name: name)
    monkeypatch.setattr(same_numbers, "_git", lambda *words: "")
    return changed


def test_equal_digests_end_with_0(stand_in, capsys):
    assert call("same_numbers", "old", "new", "--only", "labels,gap") == 0
    assert "all 3 are equal" in capsys.readouterr().out


def test_a_digest_that_differs_is_named_and_ends_with_1(stand_in, capsys):
    stand_in["new", "gap"] = {"metrics": "d"}
    assert call("same_numbers", "old", "new", "--only", "labels,gap") == 1
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines() if "DIFFERS" in line] == [["gap:", "metrics"]]
    assert "1 of 3 differ" in said


def test_what_only_one_commit_made_differs(stand_in):
    stand_in["new", "gap"] = {"rollouts": "d"}
    found = compare(("old", "new"), {"gap": None})
    assert found == {"gap: metrics": ("c", "c"), "gap: rollouts": ("-", "d")}
    assert "DIFFERS" in table(found)


def test_what_the_comparison_does_not_see_is_said(stand_in, monkeypatch, capsys):
    said = {"status": " M gap_vla/core/locks.py\n?? new.py", "diff": "constraints.txt"}
    monkeypatch.setattr(same_numbers, "_git", lambda word, *_: said[word])
    assert call("same_numbers", "HEAD", "HEAD", "--only", "gap") == 0
    said = capsys.readouterr().err
    assert "note: 2 changes of" in said and "are not committed and in no checkout" in said
    assert "note: HEAD and HEAD are one commit" in said
    assert "note: both run with the packages installed here, also where constraints.txt differ" in said


def test_unknown_commits_and_parts_are_said(capsys):
    assert call("same_numbers", "nowhere", "HEAD") == 2
    assert "'nowhere' is no commit" in capsys.readouterr().err
    assert call("same_numbers", "HEAD", "HEAD", "--only", "sewing") == 2
    assert "no part 'sewing'" in capsys.readouterr().err


@pytest.mark.parametrize("end", [UserError, KeyboardInterrupt])
def test_a_checkout_that_git_did_not_finish_is_taken_away_again(monkeypatch, end):
    asked, before = [], signal.getsignal(signal.SIGTERM)

    def git(*words):
        asked.append(words[1])
        if words[1] == "add" and end is KeyboardInterrupt:
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)  # as if it came
        if words[1] == "add":
            raise UserError("the hook after the checkout failed")
        return ""

    monkeypatch.setattr(same_numbers, "_git", git)
    with pytest.raises(end):
        compare(["f" * 40] * 2, {"labels": same_numbers.DEBUG["labels"]})
    assert asked == ["add", "remove"] and signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Three commits of a script that writes a number and a time: a number, the same one, another one."""
    root = tmp_path / "repository"
    (root / "gap_vla").mkdir(parents=True)
    (root / "gap_vla" / "__init__.py").touch()

    def git(*words):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return subprocess.run(
            ["git", *identity, "-C", str(root), *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    commits = []
    for number, note in ((1, "first"), (1, "second"), (2, "third")):
        value = f'{{"loss": {number}, "seconds": time.time()}}'
        (root / "write.py").write_text(
            f"import json, os, time  # {note}\nos.makedirs('runs')\n"
            f"open('runs/m.jsonl', 'w').write(json.dumps({value}))\n"
        )
        git("add", "-A")
        git("commit", "-qm", note)
        commits.append(git("rev-parse", "HEAD"))
    monkeypatch.setattr(same_numbers, "ROOT", root)
    return commits


def test_what_a_hook_of_another_repository_says_changes_nothing(repository, tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path / "other")], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert same_numbers.commit_of("HEAD") == repository[-1]
    shutil.move(same_numbers.ROOT / ".git" / "HEAD", tmp_path / "HEAD")
    with pytest.raises(UserError, match="git rev-parse --git-dir: fatal: not a git repository"):
        same_numbers.commit_of("HEAD")


def test_commits_are_run_in_checkouts_of_their_own_which_are_removed(repository):
    first, second, third = repository
    part = Part(("write.py",), {"metrics": ("runs/m.jsonl",)})
    for other, distinct in ((first, 1), (second, 1), (third, 2)):
        assert len({*compare((first, other), {"gap": part})["gap: metrics"]}) == distinct
    with pytest.raises(UserError, match="gone: nothing to compare"):
        compare((first, second), {"gone": Part(("write.py",), {"rollouts": ("runs/none",)})})
    with pytest.raises(UserError, match=r"missing.py ended with 2"):
        compare((first, second), {"broken": Part(("write.py", "missing.py"), part.results)})
    listed = ["git", "-C", str(same_numbers.ROOT), "worktree", "list"]
    assert len(subprocess.run(listed, capture_output=True, text=True).stdout.splitlines()) == 1


def test_digests_see_arrays_by_name_and_no_times(tmp_path):
    def made(name, seconds, rho, order):
        folder = tmp_path / name
        folder.mkdir()
        lines = [json.dumps({"step": step, "loss": 0.5, "seconds": seconds}) for step in order]
        (folder / "metrics.jsonl").write_text("\n".join(lines))
        with h5py.File(folder / "labels.hdf5", "w") as file:
            for key in ("rho", "action") if seconds else ("action", "rho"):
                file.attrs["seconds"], file[f"data/{key}_text"] = seconds, "a text that lies somewhere in memory"
                file[f"data/{key}"] = np.full(3, rho if key == "rho" else 0, np.float32)
        write_mark(folder / "labels.hdf5", "gap_vla:labelled_demos")  # with a checksum, of the attributes too
        return digest_of(sorted(folder.iterdir()), folder)

    same = made("a", 0, 0.25, (1, 2))
    assert made("b", 7, 0.25, (2, 1)) == same
    assert made("d", 0, 0.25, (1, 2, 2)) != same
    assert made("c", 0, np.nextafter(np.float32(0.25), np.float32(1)), (1, 2)) != same


def test_a_checkout_whose_code_scripts_would_not_import_is_refused(tmp_path):
    """PYTHONPATH is parted at a colon."""
    for place, refused in ((tmp_path / "job", False), (tmp_path / "job:17", True)):
        (place / "gap_vla").mkdir(parents=True)
        (place / "gap_vla" / "__init__.py").touch()
        with pytest.raises(UserError, match="TMPDIR to a folder without a colon") if refused else nullcontext():
            same_numbers._require_own_code(place)
