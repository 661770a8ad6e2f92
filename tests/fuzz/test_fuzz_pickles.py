"""No pickle crashes the process, calls anything or escapes as another error than one line."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import read_or_refuse
from pickle_mutations import MARK, healthy, mutated, tokens_of

from gap_vla.demos.array_pickles import load_arrays

_PLAIN = (str, bytes, int, float, bool, type(None), np.ndarray, np.generic)


def _only_plain(value: Any) -> None:
    if type(value) is dict:
        value = [*value, *value.values()]
    if type(value) in (list, tuple):
        for part in value:
            _only_plain(part)
        return
    assert isinstance(value, _PLAIN), type(value)
    if isinstance(value, (np.ndarray, np.generic)):
        assert value.dtype.kind in "biufUS" and not value.dtype.hasobject and value.dtype.names is None
        value.tolist()  # every number of it can be looked at


def _rounds(folder: Path, seeds: range) -> dict[str, int]:
    whole = [(content, tokens_of(content)) for content in healthy()]
    file, outcomes = folder / "mutated.pkl", {"read": 0, "refused": 0}
    MARK.unlink(missing_ok=True)
    for seed in seeds:
        draw = random.Random(seed)
        file.write_bytes(mutated(draw, *draw.choice(whole)))
        outcomes[read_or_refuse(lambda: _only_plain(load_arrays(file)), f"seed {seed}")] += 1
    assert not MARK.exists()
    return outcomes


def test_mutated_pickles_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = _rounds(tmp_path, range(1000))
    assert min(outcomes.values()) > 50, outcomes  # both happen often, or the mutations say little


@pytest.mark.slow
def test_a_hundred_thousand_mutated_pickles_are_read_or_refused(tmp_path: Path) -> None:
    outcomes = _rounds(tmp_path, range(100_000))
    assert min(outcomes.values()) > 10_000, outcomes


@pytest.mark.parametrize("content", healthy(), ids=range(6))
def test_what_numpy_writes_comes_back_without_pythons_pickle_machine(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole.pkl").write_bytes(content)
    wanted = pickle.loads(content)
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    found = load_arrays(tmp_path / "whole.pkl")
    assert list(found[0]) == list(wanted[0])
    assert np.array_equal(found[1], wanted[1])
    for key, value in wanted[0].items():
        if isinstance(value, np.ndarray):
            assert found[0][key].dtype.newbyteorder("=") == value.dtype.newbyteorder("=") and np.array_equal(
                found[0][key], value
            ), key
        else:
            assert type(found[0][key]) is type(value) and found[0][key] == value, key


def test_files_of_older_numpy_and_python_are_read(tmp_path: Path) -> None:
    file = tmp_path / "old.pkl"
    for content in healthy():
        if b"numpy._core" in content and content[1:2] < b"\x04":  # names of protocol 4 carry their lengths
            file.write_bytes(content.replace(b"numpy._core", b"numpy.core"))
            assert np.array_equal(load_arrays(file)[0]["state"], pickle.loads(content)[0]["state"])
    python_2 = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80\xbf\x00\x00\x00@tb."
    )
    file.write_bytes(python_2)
    assert load_arrays(file).tolist() == [-1, 2]


def _typed(code: bytes, state: bytes) -> bytes:
    return b"cnumpy\ndtype\nX%b%b\x89\x88\x87R" % (len(code).to_bytes(4, "little"), code) + state


_CLEARED = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"

NAMED_CASES = {
    "an object type whose flag is cleared": b"\x80\x02cnumpy.core.multiarray\nscalar\n"
    + _typed(b"O8", _CLEARED) + b"C\x08AAAAAAAA\x86R.",
    "an object type that was a number": b"\x80\x02cnumpy.core.multiarray\nscalar\n"
    + _typed(b"f8", b"(K\x03X\x01\x00\x00\x00OX\x01\x00\x00\x00ON" b"NJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb")
    + b"C\x08AAAAAAAA\x86R.",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "lists that double forty times": b"\x80\x02]q\x00(" + b"K\x01" * 9 + b"e" + b"".join(
        b"q%b](h%bh%be" % (bytes([i]), bytes([i]), bytes([i])) for i in range(1, 41)
    ) + b".",
    "an array larger than the file": pickle.dumps(np.zeros(4), 2).replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"),
    "a string longer than memory": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab.",
    "a number of a million digits": b"\x80\x02\x8b\x40\x42\x0f\x00" + b"\x7f" * 1_000_000 + b".",
    "half a surrogate pair": b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.",
    "text beyond Unicode": pickle.dumps(np.array(["ab"]), 2).replace(b"a\x00\x00\x00", b"\x7f\x7f\x7f\x7f"),
    "deep nesting": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("content", NAMED_CASES.values(), ids=NAMED_CASES)
def test_named_cases_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.pkl"
    file.write_bytes(content)
    assert read_or_refuse(lambda: load_arrays(file), "case") == "refused"
