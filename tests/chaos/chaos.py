"""Kills, starves and doubles every stage, and compares what comes out with an undisturbed run.

    make chaos                                                  # every stage, about half an hour on two cores
    python tests/chaos/chaos.py --stages annotate_rlds --seed 3

Each stage is a command of `scripts/`. It runs once undisturbed; then, in folders of its own:

- killed: SIGKILL to all of its processes at a random moment, twice in a row, then to the end;
- interrupted: Ctrl-C as a terminal sends it, to all of its processes, at four random moments in a row: each ends within
  a minute with exit status 130, or is done, and shows no traceback; then to the end;
- full disk: no file may grow beyond a part of what the stage writes, so it ends with exit status 2; then to the end;
- two at once: the same command twice at the same time; each ends with 0, or with 2 and a line on who is at work.

After each of them the result has to be the undisturbed one, byte for byte where `Stage.result` says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "corpus")]

import inputs  # noqa: E402

from experiments.same_numbers import without_times  # noqa: E402
from gap_vla.core.errors import INTERRUPTED  # noqa: E402

STARTED = 0.3
"""Seconds after which a command's first line has run; before that, Python itself answers a Ctrl-C."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command, run in a folder that holds `in/`.

    Attributes:
        command: script and arguments.
        result: what of the output has to be equal: files below the folder, as patterns.
        again: arguments that are added when the command is given again.
    """

    command: Sequence[str]
    result: Sequence[str]
    again: Sequence[str] = ()


RUN = (
    "--config.runs=out/runs --config.data.root=out/data --config.data.rlds=in/toy/1.0.0 --config.eval.episodes=0 "
    "--config.demos.image_size=32"
)
ONE_CAMERA = "--config.demos.cameras=('primary',) --config.data.augment.cameras=('primary',)"


def _finetune(script: str, file: str, more: str = "") -> Stage:
    words = [script, "--config", str(ROOT / "finetune_configs" / f"{file}.py:debug"), "--run_name", "run"]
    words += [*RUN.split(), *more.split()]
    result = ("out/runs/**/checkpoint/**/*", "out/runs/**/metrics.jsonl")
    return Stage(words, result, ("--resume",))


STAGES = {
    "collect": Stage(
        "collect_demos --task assembly --episodes 2 --image-size 32 --show 1 --quiet --out out/d.hdf5".split(),
        ("out/*.hdf5", "out/*.png"),
    ),
    "annotate_hdf5": Stage("annotate in/demos.hdf5 --out out/d.hdf5".split(), ("out/**/*",)),
    "annotate_npz": Stage("annotate in/npz --out out/d".split(), ("out/**/*",)),
    "annotate_rlds": Stage("annotate in/toy/1.0.0 --out out/toy/1.1.0".split(), ("out/toy/1.1.0/**/*",)),
    "build": Stage("build_dataset in/demos.hdf5 --name toy --data-dir out".split(), ("out/toy/1.0.0/**/*",)),
    "show": Stage("show_episode in/demos.hdf5 --method gaussian --out out/e.mp4".split(), ("out/e.mp4",)),
    "finetune": _finetune("finetune", "assembly", ONE_CAMERA),
    "train_small": _finetune("train_small", "small_assembly"),
    "evaluate": Stage(
        "evaluate --policy random --task assembly --episodes 3 --horizon 40 --workers 1 --quiet --out out/e"
        " --cameras".split(),
        ("out/e/episodes.jsonl",),
    ),
    "diagnose": Stage(
        "diagnose --policy random --task assembly --episodes 2 --workers 2 --image-size 32 --quiet --out out/d".split(),
        ("out/d/diagnosis.json",),
    ),
}


class Place:
    """A folder with inputs, in which a stage is run."""

    def __init__(self, folder: Path, good: Path, stage: Stage) -> None:
        self.folder, self.stage = folder, stage
        folder.mkdir()
        (folder / "out").mkdir()
        shutil.copytree(good, folder / "in")

    def start(self, *, again: bool = False, file_bytes: int | None = None) -> subprocess.Popen[str]:
        script, *arguments = [*self.stage.command, *(self.stage.again if again else ())]
        # Python 3.11 would keep bytecode that it could not write whole, for every later call.
        full = {} if file_bytes is None else {"PYTHONDONTWRITEBYTECODE": "1"}

        def limit() -> None:
            os.setsid()
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments],
            cwd=self.folder, env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | full,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
        )  # fmt: skip

    def finish(self, *, again: bool = False, file_bytes: int | None = None) -> tuple[int, str]:
        process = self.start(again=again, file_bytes=file_bytes)
        said = process.communicate(timeout=600)[1]
        return process.returncode, said

    def result(self) -> dict[str, str]:
        """Every file of the result, by what it holds."""
        found = {}
        for pattern in self.stage.result:
            for path in sorted(self.folder.glob(pattern)):
                if path.is_file():
                    found[str(path.relative_to(self.folder))] = hashlib.sha256(
                        without_times(path, self.folder)
                    ).hexdigest()
        return found


def killed(place: Place, seconds: float, draw: random.Random) -> list[str]:
    for number in range(2):
        process = place.start(again=number > 0)
        moment = draw.uniform(0.05, 1.0) * seconds
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return _to_the_end(place, again=True)


def interrupted(place: Place, seconds: float, draw: random.Random) -> list[str]:
    wrong = []
    for number in range(4):
        process = place.start(again=number > 0)
        moment = draw.uniform(STARTED, max(seconds, 2 * STARTED))
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
        try:
            said = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()[1]
            wrong.append(f"still there a minute after Ctrl-C at {moment:.2f} s: {said[-300:]}")
            continue
        there = process.returncode == 2 and "exist" in said
        if not (process.returncode in (0, INTERRUPTED) or there) or "Traceback" in said:
            wrong.append(f"exit status {process.returncode} after Ctrl-C at {moment:.2f} s: {said[-2000:]}")
    return wrong + _to_the_end(place, again=True)


def full_disk(place: Place, seconds: float, draw: random.Random) -> list[str]:
    status, said = place.finish(file_bytes=draw.choice([512, 4096, 20_000]))
    wrong = [f"exit status {status} on a full disk: {said[-300:]}"] if status not in (0, 2) else []
    wrong += ["a traceback on a full disk"] if "Traceback" in said else []
    return wrong + _to_the_end(place, again=True)


def two_at_once(place: Place, seconds: float, draw: random.Random) -> list[str]:
    first = place.start()
    time.sleep(draw.uniform(0, 0.5) * seconds)
    second = place.start(again=True)
    said = [process.communicate(timeout=600)[1] for process in (first, second)]
    statuses = [process.returncode for process in (first, second)]
    wrong = [f"exit statuses {statuses}: {said[0][-200:]} {said[1][-200:]}"] if not {*statuses} <= {0, 2} else []
    wrong += ["a traceback of one of two"] if any("Traceback" in text for text in said) else []
    return wrong + (_to_the_end(place, again=True) if 0 not in statuses else [])


def _to_the_end(place: Place, again: bool) -> list[str]:
    status, said = place.finish(again=again)
    there = status == 2 and "exist" in said  # it was finished before the blow, and says that it is there
    return [] if status == 0 or there else [f"exit status {status} afterwards: {said[-300:]}"]


BLOWS: dict[str, Callable[[Place, float, random.Random], list[str]]] = {
    "killed": killed,
    "interrupted": interrupted,
    "full disk": full_disk,
    "two at once": two_at_once,
}


def make_inputs(folder: Path) -> Path:
    """The good inputs of the corpus, with an RLDS dataset that has ρ."""
    inputs.make_demos(folder / "demos.hdf5")
    inputs.make_npz(folder / "npz")
    words = ["demos.hdf5", "--name", "toy", "--data-dir", ".", "--method", "gaussian", "--val-fraction", "0.4"]
    script = ROOT / "scripts" / "build_dataset.py"
    subprocess.run(
        [sys.executable, str(script), *words], cwd=folder, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    return folder


def chaos(stages: Sequence[str], blows: Sequence[str], seed: int, rounds: int = 1) -> int:
    """Prints what each blow did to each stage; returns how many results were not the undisturbed ones."""
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "good").mkdir()
        good = make_inputs(home / "good")
        for name in stages:
            stage = STAGES[name]
            whole, started = Place(home / name, good, stage), time.monotonic()
            status, said = whole.finish()
            seconds = time.monotonic() - started
            expected = whole.result()
            if status or not expected:
                print(f"{name}: undisturbed, it ended with {status}: {said[-500:]}", flush=True)
                wrong += 1
                continue
            for number in range(rounds):
                for blow in blows:
                    draw = random.Random(f"{seed} {name} {blow} {number}")
                    place = Place(home / f"{name}-{blow.replace(' ', '_')}-{number}", good, stage)
                    found = BLOWS[blow](place, seconds, draw)
                    result = place.result()
                    other = sorted(key for key in expected | result if expected.get(key) != result.get(key))
                    found += [f"differs: {', '.join(other[:5])}"] if other else []
                    wrong += bool(found)
                    print(f"{name}, {blow}: {'; '.join(found) or f'{len(result)} files as undisturbed'}", flush=True)
                    shutil.rmtree(place.folder)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="default: all")
    parser.add_argument("--blows", nargs="+", choices=BLOWS, default=list(BLOWS), help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each blow falls (default: 1)")
    options = parser.parse_args()
    wrong = chaos(options.stages, options.blows, options.seed, options.rounds)
    print(f"{wrong} results are not the undisturbed ones")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
