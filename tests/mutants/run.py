"""Applies every change of `changes.py` to a copy of the package, one after the other, and runs the test that must fail.

`make mutants`, or `python tests/mutants/run.py [words]` for those whose description holds all the words. Prints what
survives; exit status 1 if anything does, 2 if a change no longer fits the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from changes import MUTANTS, Mutant  # noqa: E402

COPIED = ("gap_vla", "experiments", "tests", "scripts", "finetune_configs", "pyproject.toml")


def misfit(mutant: Mutant, root: Path = ROOT) -> str:
    """Why a change cannot be made; empty if it can."""
    path = root / "gap_vla" / mutant.file
    if not path.is_file():
        return f"{mutant.what}: there is no gap_vla/{mutant.file}"
    text = path.read_text()
    if (found := text.count(mutant.old)) != 1:
        return f"{mutant.what}: gap_vla/{mutant.file} holds {mutant.old!r} {found} times, not once"
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    file, _, test = mutant.killer.partition("::")
    if not (root / file).is_file() or f"def {test.partition('[')[0]}(" not in (root / file).read_text():
        return f"{mutant.what}: there is no test {mutant.killer}"
    return ""


def survivors(mutants: Sequence[Mutant] = MUTANTS) -> list[str]:
    """Runs the changes and prints a line for each; what its test did not notice.

    Raises:
        RuntimeError: a test fails on the code as it is, or cannot be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, copy / name)
        killers = sorted({mutant.killer for mutant in mutants})
        status, output = run_tests(copy, killers)
        if status != 0:
            raise RuntimeError(f"on the unchanged code the tests end with status {status}:\n{output}")
        alive = []
        for number, mutant in enumerate(mutants, 1):
            started = time.monotonic()
            status, output = noticed(copy, mutant)
            if status not in (0, 1):
                raise RuntimeError(f"{mutant.what}: the test ends with status {status}:\n{output}")
            if status == 0:
                alive.append(f"{mutant.what} ({mutant.file}), by {mutant.killer}")
            word = "SURVIVES" if status == 0 else "killed"
            seconds = time.monotonic() - started
            print(f"{number:3}/{len(mutants)} {word:8} {seconds:4.0f} s  {mutant.what}", flush=True)
    return alive


def noticed(copy: Path, mutant: Mutant) -> tuple[int, str]:
    path = copy / "gap_vla" / mutant.file
    status, original = path.stat(), path.read_text()
    path.write_text(original.replace(mutant.old, mutant.new))
    try:
        return run_tests(copy, [mutant.killer])
    finally:
        path.write_text(original)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # what is compiled of it stays good


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit status of pytest and the end of its output."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "JAX_COMPILATION_CACHE_DIR": str(copy / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout[-3000:]


def main(words: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.what for word in words)]
    if not chosen:
        print(f"no change of changes.py holds {' and '.join(words)}", file=sys.stderr)
        return 2
    if wrong := [reason for mutant in chosen if (reason := misfit(mutant))]:
        print(*wrong, sep="\n", file=sys.stderr)
        return 2
    alive = survivors(chosen)
    print(f"{len(chosen) - len(alive)} of {len(chosen)} killed", *(f"survives: {line}" for line in alive), sep="\n")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
