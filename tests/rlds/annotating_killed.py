"""Annotates files again and again in processes that kill themselves at a chosen line.

Run by test_rlds_annotating_killed.py:

    python annotating_killed.py SOURCE OUT METHOD NUMBER SEED [no-exchange]

Prints JSON: how many lines the whole takes, and for each kill the state of OUT afterwards (see `digest`), the one that
the same command then leaves, and what lies beside it.
"""

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

WATCHED = ("gap_vla/rlds/annotating/", "gap_vla/core/whole.py", "gap_vla/phases/saving.py")
LAST = 10
"""So many lines before the end are all tried, or twice NUMBER: there the old gives way to the new."""


def digest(out: Path) -> str:
    """Of every byte of a file or folder."""
    hashed = hashlib.sha256()
    for path in sorted([out, *out.rglob("*")]):
        if path.is_file():
            hashed.update(str(path.relative_to(out.parent)).encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()[:16]


def annotator_of(out: Path) -> Path:
    """Where the annotator of labelled files lies."""
    return out / "annotator" if out.is_dir() else out.with_name(out.name + ".annotator")


def load() -> None:
    """What all children need, so that none of them spends its time on importing; nothing that starts threads."""
    import h5py
    import numpy as np

    from gap_vla.phases import segment
    from gap_vla.rlds.annotating import hdf5_files, npz_files

    segment(np.zeros((9, 3)))
    assert h5py and hdf5_files and npz_files


def in_child(action) -> tuple[int, int]:
    """Runs `action` in a forked process; its exit status and what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, str(action()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(said or 0)


def labelling(source: Path, out: Path, method: str, kill_at: int = -1) -> int:
    """Labels; returns the number of watched lines, or kills this process just before one of them."""
    from gap_vla.rlds.annotating import annotate_files

    lines = 0

    @functools.cache
    def watched(file: str) -> bool:
        return any(part in file for part in WATCHED)

    def trace(frame, event, argument):
        nonlocal lines
        if not watched(frame.f_code.co_filename):
            return None
        if event == "line":
            if lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            lines += 1
        return trace

    sys.settrace(trace)
    annotate_files(source, out, method=method, overwrite=True)
    sys.settrace(None)
    return lines


def main() -> None:
    source, out, method, number, seed, *rest = sys.argv[1:]
    source, out = Path(source), Path(out)
    if rest:
        import gap_vla.core.whole as replacing

        replacing._exchange = lambda one, other: False
    load()
    if source.is_dir() and (source / "features.json").exists():
        import tensorflow as tf
        import tensorflow_datasets as tfds

        assert tf.train.Example and tfds.features.FeaturesDict  # loads what is loaded late
    old = out.with_name("old") / out.name
    states = {}
    for name, first in (("old", "change_points"), ("new", method)):
        status, lines = in_child(lambda first=first: labelling(source, out, first))
        assert status == 0
        states[name] = digest(out)
        if name == "old":
            shutil.copytree(out.parent, old.parent, ignore=lambda *_: ["old"])
    rng = random.Random(int(seed))
    last = min(LAST, 2 * int(number))
    kills = sorted(rng.sample(range(lines - last), int(number))) + list(range(lines - last, lines))
    results = []
    for kill_at in kills:
        for path in [p for p in out.parent.iterdir() if p.name != "old"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(old.parent, out.parent, dirs_exist_ok=True)
        status, _ = in_child(lambda kill_at=kill_at: labelling(source, out, method, kill_at))
        assert status == -signal.SIGKILL, status
        after = digest(out)
        assert in_child(lambda: labelling(source, out, method))[0] == 0
        beside = sorted(p.name for p in out.parent.iterdir() if p.name != "old")
        results.append({"line": kill_at, "killed": after, "again": digest(out), "beside": beside})
        annotator = json.loads((annotator_of(out) / "annotator.json").read_text())
        results[-1]["annotator"] = annotator["method"]
    print(json.dumps({**states, "lines": lines, "kills": results}))


if __name__ == "__main__":
    main()
