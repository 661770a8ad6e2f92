"""Whether a change of the code leaves every number as it was: the same commands at two commits, results compared.

    python scripts/same_numbers.py main HEAD                           # about ten minutes on two idle cores
    python scripts/same_numbers.py main HEAD --only labels,vp_gap,gap
    python scripts/same_numbers.py main HEAD --cells                   # recorded cells mean the same training

Each commit is checked out into a temporary git worktree; what is not committed is in neither. Exit status 0: all is
equal; 1: something differs.

A part is a few command lines of `scripts/` and the files that they leave. What is compared are arrays by name
(demonstrations, labels, parameters), records of datasets byte for byte, and measurements and outcomes of rollouts
without what is time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.reproduce import names
from gap_vla.cli.arguments import command_parser
from gap_vla.core.errors import NEGATIVE, UserError, command
from gap_vla.core.hdf5_mark import CHECK
from gap_vla.core.identity import without_git

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).parents[1]
TIMES = ("seconds", "time", "machine", "path", "steps_per_second", "started", "seal")
"""Endings of keys that are no part of a result."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Command lines, run one after the other in a checkout, and the files to compare: patterns, by what they hold."""

    commands: tuple[str, ...]
    results: Mapping[str, tuple[str, ...]]


def _labels() -> Part:
    methods = ("lstm", "gaussian", "change_points")
    annotate = "scripts/annotate.py runs/labels/demos.hdf5 --method {0} --out runs/labels/{0}.hdf5 --overwrite"
    return Part(
        (
            "scripts/collect_demos.py --task threading --episodes 4 --image-size 32 --show 0 --quiet "
            "--out runs/labels/demos.hdf5",
            *(annotate.format(method) for method in methods),
            "scripts/build_dataset.py runs/labels/demos.hdf5 --name threading --data-dir runs/labels",
        ),
        {
            "demonstrations": ("runs/labels/demos.hdf5",),
            **{
                f"ρ and change points, {method}": (
                    f"runs/labels/{method}.hdf5",
                    f"runs/labels/{method}.hdf5.annotator/*.safetensors",
                )
                for method in methods
            },
            **_dataset("runs/labels/threading"),
        },
    )


def _training(script: str, config: str, task: str, method: str) -> Part:
    words = f"--config finetune_configs/{config}:debug --config.method={method} --run_name {method}"
    return Part((f"scripts/{script}.py {words}",), _trained(task, f"runs/*/{method}"))


def _cell(task: str, method: str, seed: int) -> Part:
    """A cell of the evidence, whole: each commit maps it to the configuration that it has."""
    words = f"--table evidence --tasks {task} --methods {method} --seeds {seed} --jobs 1 --budget 10h"
    return Part(
        (f"scripts/reproduce.py {words} --results runs/{task}-{method}",),
        _trained(task, f"runs/{task}/small-{method}-seed{seed}-*"),
    )


def _trained(task: str, run: str) -> dict[str, tuple[str, ...]]:
    return {
        **_dataset(f"data/rlds/{task}-*"),
        "parameters": (f"{run}/checkpoint/*.safetensors", f"{run}/checkpoint/*/default/checkpoint"),
        "metrics": (f"{run}/metrics.jsonl",),
        "rollouts": (f"{run}/rollouts/**/episodes.jsonl",),
    }


def _dataset(folder: str) -> dict[str, tuple[str, ...]]:
    return {"RLDS": (f"{folder}/**/*.tfrecord*",), "statistics": (f"{folder}/**/dataset_statistics.json",)}


DEBUG: dict[str, Part] = {
    "labels": _labels(),
    **{m: _training("finetune", "threading.py", "threading", m) for m in ("v", "vp", "vp_gap")},
    **{m: _training("train_small", "small_assembly.py", "assembly", m) for m in ("vision", "concat", "gap")},
}
CELLS = {"threading-vision": _cell("threading", "vision", 1), "assembly-gap": _cell("assembly", "gap", 1)}


PLACES = ("old", "new")
"""Of the two, each with a checkout of its own, also where both are one commit."""


def compare(commits: Sequence[str], parts: Mapping[str, Part]) -> dict[str, tuple[str, str]]:
    """Digests of what the parts make of the old commit and of the new one, by what they are of."""
    found: dict[str, tuple[str, str]] = {}
    with Checkouts() as checkouts:
        for name, part in parts.items():
            old, new = (checkouts.digests(commit, name, part, place) for place, commit in zip(PLACES, commits))
            found |= {f"{name}: {what}": (old.get(what, "-"), new.get(what, "-")) for what in {**old, **new}}
    return found


def table(found: Mapping[str, tuple[str, str]]) -> str:
    """A line per comparison, and how many differ."""
    width = max(map(len, found))
    lines = [f"{'':{width}}  {'old':16}  {'new':16}"]
    for what, (old, new) in found.items():
        lines.append(f"{what:{width}}  {old:16}  {new:16}  {'equal' if old == new else 'DIFFERS'}")
    differing = sum(old != new for old, new in found.values())
    return "\n".join([*lines, f"{differing} of {len(found)} differ" if differing else f"all {len(found)} are equal"])


class Checkouts:
    """Runs parts in a checkout of their commit; as a context, it removes the checkouts at its end, also at SIGTERM."""

    def __enter__(self) -> Checkouts:
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._trees = dict[str, Path]()
        self._temporary = Path(tempfile.mkdtemp(prefix="same_numbers-"))
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it to the whole group, too
        for tree in self._trees.values():
            with contextlib.suppress(UserError):  # git had not begun to make it
                _git("worktree", "remove", "--force", str(tree))
        shutil.rmtree(self._temporary, ignore_errors=True)
        signal.signal(signal.SIGTERM, self._before)

    def digests(self, commit: str, name: str, part: Part, place: str) -> dict[str, str]:
        """What a part left, by what it is. Raises UserError: one of its commands failed, or left nothing to compare."""
        tree = self._tree(commit, place)
        for words in part.commands:
            print(f"{commit[:7]} {name}: {words}", flush=True)
            _run(shlex.split(words), tree)
        found = {}
        for what, patterns in part.results.items():
            files = sorted({path for pattern in patterns for path in tree.glob(pattern) if path.is_file()})
            if not files:
                raise UserError(f"{commit[:7]} {name}: nothing to compare, no {' or '.join(patterns)}")
            found[what] = digest_of(files, tree)
        return found

    def _tree(self, commit: str, place: str) -> Path:
        if place not in self._trees:
            tree = self._trees[place] = self._temporary / place / commit[:12]  # first: git may fail when it has made it
            _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
            _require_own_code(tree)
        return self._trees[place]


def commit_of(name: str) -> str:
    """The whole hash of a commit, branch or tag. Raises UserError: the repository has none of this name."""
    _git("rev-parse", "--git-dir")  # else git itself says what is wrong, as with a repository of another user
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except UserError:
        raise UserError(f"{name!r} is no commit of {ROOT}; git log --oneline lists them") from None


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
        return [(name, np.asarray(value)) for name, value in found if name != CHECK]
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
    values = [json.dumps(_timeless(json.loads(line)), sort_keys=True) for line in lines]
    return "\n".join(sorted(values)).replace(str(folder), "FOLDER").encode()


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if not key.endswith(TIMES)}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def _require_own_code(tree: Path) -> None:
    """An installed gap_vla must not be what runs."""
    used = _run(["-P", "-c", "import gap_vla; print(gap_vla.__file__)"], tree).strip()  # -P: scripts have no tree first
    if not Path(used).resolve().is_relative_to(tree.resolve()):
        advice = "set TMPDIR to a folder without a colon" if os.pathsep in str(tree) else "uninstall that one"
        raise UserError(f"{sys.executable} imports gap_vla from {used} instead of {tree}; {advice}")


def _run(words: Sequence[str], tree: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise UserError(f"{shlex.join(words)} ended with {done.returncode} at {tree.name}: {said}")
    return done.stdout


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, env=without_git())
    if done.returncode:
        raise UserError(f"git {shlex.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("old", help="commit, branch or tag")
    parser.add_argument("new", help="another one")
    add = parser.add_argument
    add("--cells", action="store_true", help="two recorded cells of the evidence, whole; about 20 minutes a commit")
    add("--only", type=names, default=[], metavar="PART[,PART]", help=f"of {', '.join(DEBUG)}")
    options = parser.parse_args(arguments)
    known = CELLS if options.cells else DEBUG
    if unknown := [part for part in options.only if part not in known]:
        parser.error(f"--only {','.join(options.only)}: no part {unknown[0]!r} here; there are {', '.join(known)}")
    options.parts = {name: part for name, part in known.items() if name in (options.only or known)}
    return options


@command
def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    commits = [commit_of(name) for name in (options.old, options.new)]
    if commits[0] == commits[1]:
        print(f"note: {options.old} and {options.new} are one commit, which is run twice", file=sys.stderr)
    if changed := _git("status", "--porcelain").splitlines():
        print(f"note: {len(changed)} changes of {ROOT} are not committed and in no checkout", file=sys.stderr)
    if other := _git("diff", "--name-only", *commits, "--", "constraints.txt", "pyproject.toml").split():
        print(f"note: both run with the packages installed here, also where {', '.join(other)} differ", file=sys.stderr)
    found = compare(commits, options.parts)
    print(table(found))
    return 0 if all(old == new for old, new in found.values()) else NEGATIVE
