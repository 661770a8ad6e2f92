"""Whether a change of the code leaves every number as it was: the same commands at two commits, results compared.

    python scripts/same_numbers.py main HEAD                           # about ten minutes on two idle cores
    python scripts/same_numbers.py main HEAD --only labels,vp_gap,gap

Each commit is checked out into a temporary git worktree; what is not committed is in neither. Compared are arrays by
name (demonstrations, labels, parameters), records of datasets byte for byte, and measurements and outcomes of rollouts
without what is time. Exit status 0: all is equal; 1: something differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.core.errors import NEGATIVE, UserError, command

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).parents[1]
TIMES = ("seconds", "time", "machine", "path", "steps_per_second", "started", "seal")
"""Endings of keys that are no part of a result."""
OUTCOME = ("episode", "layout_seed", "success", "steps", "phase", "error")
"""What counts of a line of `episodes.jsonl`."""
NO_RESULT = "made_by_check"
"""A dataset in the files of version 0.2."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Command lines, run one after the other in a checkout, and the files to compare: patterns, by what they hold."""

    commands: tuple[str, ...]
    results: Mapping[str, tuple[str, ...]]


def _dataset(folder: str) -> dict[str, tuple[str, ...]]:
    return {"RLDS": (f"{folder}/**/*.tfrecord*",), "statistics": (f"{folder}/**/dataset_statistics.json",)}


def _labels() -> Part:
    methods, folder = ("lstm", "gaussian", "change_points"), "runs/labels"
    annotate = f"scripts/annotate.py {folder}/demos.hdf5 --method {{0}} --out {folder}/{{0}}.hdf5 --overwrite"
    collect = "scripts/collect_demos.py --task threading --episodes 4 --image-size 32 --quiet --out"
    build = f"scripts/build_dataset.py {folder}/demos.hdf5 --name threading --data-dir {folder}"
    found = {
        f"ρ and change points, {method}": (f"{folder}/{method}.hdf5", f"{folder}/{method}.hdf5.annotator/*.safetensors")
        for method in methods
    }
    return Part(
        (f"{collect} {folder}/demos.hdf5", *map(annotate.format, methods), build),
        {"demonstrations": (f"{folder}/demos.hdf5",), **found, **_dataset(f"{folder}/threading")},
    )


def _training(script: str, config: str, task: str, method: str) -> Part:
    words = f"scripts/{script}.py --config finetune_configs/{config}:debug --config.method={method} --run_name {method}"
    run = f"runs/*/{method}"
    results = {
        "parameters": (f"{run}/checkpoint/*.safetensors", f"{run}/checkpoint/*/default/checkpoint"),
        "metrics": (f"{run}/metrics.jsonl",),
        "rollouts": (f"{run}/rollouts/**/episodes.jsonl",),
    }
    return Part((words,), {**_dataset(f"data/rlds/{task}-*"), **results})


PARTS: dict[str, Part] = {
    "labels": _labels(),
    **{m: _training("finetune", "threading.py", "threading", m) for m in ("v", "vp", "vp_gap")},
    **{m: _training("train_small", "small_assembly.py", "assembly", m) for m in ("vision", "concat", "gap")},
}


def digests(commit: str, names: Sequence[str], tree: Path) -> dict[str, str]:
    """What the parts leave at a commit, by what it is; `tree` is where the commit is checked out."""
    _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        found = {}
        for name in names:
            for words in PARTS[name].commands:
                print(f"{commit[:7]} {name}: {words}", flush=True)
                _run(shlex.split(words), tree)
            for what, patterns in PARTS[name].results.items():
                files = sorted({path for pattern in patterns for path in tree.glob(pattern) if path.is_file()})
                found[f"{name}: {what}"] = digest_of(files, tree) if files else "nothing"
        return found
    finally:
        _git("worktree", "remove", "--force", str(tree))


def digest_of(files: Sequence[Path], folder: Path) -> str:
    """A short hash of what files hold, without times and without `folder`, in which they lie."""
    content = hashlib.sha256()
    for path in files:
        content.update(path.name.encode())
        if (arrays := _arrays(path)) is None:
            content.update(without_times(path, folder))
            continue
        for name, array in sorted(arrays, key=lambda named: named[0]):
            values = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()  # texts are objects
            content.update(f"{name} {array.dtype} {array.shape}".encode() + values)
    return content.hexdigest()[:16]


def _arrays(path: Path) -> list[tuple[str, np.ndarray]] | None:
    """Every array of a file by its name, or None for files of another kind."""
    if path.suffix == ".hdf5":
        import h5py
        import numpy as np

        found: list[tuple[str, np.ndarray]] = []
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.append((name, item[()])) if isinstance(item, h5py.Dataset) else None
            )
        return [(name, np.asarray(value)) for name, value in found if name != NO_RESULT]
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return list(load_file(path).items())
    if path.name == "checkpoint" or path.suffix == ".msgpack":
        from flax import serialization

        return list(_leaves(serialization.msgpack_restore(path.read_bytes())))
    return None


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if not isinstance(tree, dict):
        import numpy as np

        yield name, np.asarray(tree)
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{name}/{key}")


def without_times(path: Path, folder: Path) -> bytes:
    """What a file holds; JSON without the keys of `TIMES`, its lines in order, and with FOLDER for `folder`."""
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    found = [_timeless(json.loads(line)) for line in lines]
    if path.name == "episodes.jsonl":
        found = [{key: record.get(key) for key in OUTCOME} for record in found]
    values = [json.dumps(value, sort_keys=True) for value in found]
    return "\n".join(sorted(values)).replace(str(folder), "FOLDER").encode()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if not key.endswith(TIMES)}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def _run(words: Sequence[str], tree: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise UserError(f"{shlex.join(words)} ended with {done.returncode} at {tree.name}: {said}")


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {shlex.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="commit, branch or tag")
    parser.add_argument("new", help="another one")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART[,PART]", help=f"of {', '.join(PARTS)}")
    options = parser.parse_args(argv)
    names = options.only.split(",")
    if unknown := {*names} - {*PARTS}:
        parser.error(f"--only: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    commits = [_git("rev-parse", "--verify", f"{name}^{{commit}}") for name in (options.old, options.new)]
    with tempfile.TemporaryDirectory(prefix="same_numbers-") as temporary:
        old, new = (digests(one, names, Path(temporary) / place) for one, place in zip(commits, ("old", "new")))
    for what in {**old, **new}:
        same = old.get(what) == new.get(what)
        print(f"{what:40}  {old.get(what, '-'):16}  {new.get(what, '-'):16}  {'equal' if same else 'DIFFERS'}")
    return 0 if old == new else NEGATIVE
