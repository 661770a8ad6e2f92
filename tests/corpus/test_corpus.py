"""Hostile and unlucky calls of every command (calls.txt): none loses, executes, hangs, or accepts in silence.

    PYTHONPATH=tests python tests/corpus/test_corpus.py [KIND …]     # prints what each kind did, and each wrong call

For each call: the exit status is the one written beside it, stderr has no traceback, nothing in the box changes but the
output, and every file that is there afterwards is whole.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from inputs import Inputs
from runner import ROOT, Outcome, Runner

HERE = Path(__file__).parent
LIMIT = 300.0
"""Seconds; a call of the corpus that takes longer hangs."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One line of calls.txt, or one of the calls that it stands for: the `first`, of every test run, or another."""

    kind: str
    statuses: tuple[int, ...]
    command: str
    arguments: tuple[str, ...]
    says: str = ""
    interrupt_in: str | None = None
    file_bytes: int | None = None
    first: bool = True

    def __str__(self) -> str:
        return f"{self.kind}: {self.command} {' '.join(self.arguments)}"


def alternatives(line: str) -> Iterator[str]:
    """`a {b,c} d` to `a b d` and `a c d`; two lists of equal length go side by side. JSON in braces stays."""
    lists = [found for found in re.finditer(r"\{([^{}]*,[^{}]*)\}", line) if '"' not in found[1]]
    if not lists:
        yield line
        return
    parts = [_split(found[1]) for found in lists]
    same = all(len(part) == len(parts[0]) for part in parts)
    for index in range(len(parts[0])):
        text, shift = line, 0
        for found, part in zip(lists if same else lists[:1], parts, strict=False):
            text = text[: found.start() + shift] + part[index] + text[found.end() + shift :]
            shift += len(part[index]) - (found.end() - found.start())
        if same:
            yield text
        else:
            yield from alternatives(text)


def _split(text: str) -> list[str]:
    """At commas outside of parentheses."""
    return re.split(r",(?![^()]*\))", text)


def calls() -> list[Call]:
    made = []
    for line in (HERE / "calls.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        texts = list(alternatives(line))
        for index, text in enumerate(texts):
            kind, statuses, command, rest = (*text.split(None, 3), "")[:4]
            words = rest.split() if '"' in rest or "'" in rest else shlex.split(rest)
            options = dict(word[1:].split("=") for word in words if word.startswith("!"))
            made.append(
                Call(
                    kind,
                    tuple(int(status) for status in statuses.split("|")),
                    command,
                    tuple(word for word in words if word[0] not in "~!"),
                    "".join(word[1:] for word in words if word.startswith("~")),
                    options.get("interrupt_in"),
                    int(options["file_bytes"]) if "file_bytes" in options else None,
                    index == 0 and "slow" not in options,
                )
            )
    return made


def make_box(box: Path) -> None:
    """What somebody else has: files of every kind that our commands write, none of them ours."""
    foreign = box / "foreign"
    (foreign / "toy" / "1.0.0").mkdir(parents=True)
    (foreign / "data" / "theirs" / "1.0.0").mkdir(parents=True)
    (foreign / "toy" / "1.0.0" / "dataset_info.json").write_text("{}")
    (foreign / "data" / "theirs" / "1.0.0" / "dataset_info.json").write_text("{}")
    for name in (
        "note.txt",
        "page.html",
        "film.mp4",
        "sheet.png",
        "other.hdf5",
        "index.html",
        "summary.json",
        "check.html",
    ):
        (foreign / name).write_text(f"the only copy of {name}")
    (foreign / "keys_number.json").write_text('{"observation": 5}')
    (foreign / "keys_list.json").write_text("[1, 2]")
    (foreign / "syntax.py").write_text("def get_config(:\n")
    (foreign / "raises.py").write_text("1 / 0\n")
    (foreign / "empty.py").write_text("")
    (foreign / "exits.py").write_text("raise SystemExit\n")
    (box / "taken.hdf5.annotator").mkdir()
    (box / "taken.hdf5.annotator" / "thesis.tex").write_text("the only copy")
    (box / "out").mkdir()


def contents(folder: Path) -> dict[str, str]:
    """Every file below, by what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def problems(call: Call, outcome: Outcome, box: Path, before: dict[str, str]) -> list[str]:
    """What is wrong with an outcome, in words; empty if nothing is."""
    found = []
    if outcome.status is None:
        return [f"still running after {LIMIT:.0f} s"]
    if outcome.status < 0:
        found.append(f"ended by signal {-outcome.status}")
    if outcome.traceback:
        found.append("a traceback")
    if outcome.status not in call.statuses:
        found.append(f"exit status {outcome.status} instead of {' or '.join(map(str, call.statuses))}")
    if outcome.status == 2 and call.says not in outcome.stderr:
        found.append(f"the message lacks {call.says!r}")
    after = contents(box)
    for name, value in before.items():
        if after.get(name) != value and name != "out":
            found.append(f"{name} was {'changed' if name in after else 'deleted'}")
    found += [f"{name} was executed" for name in after if Path(name).name == "called"]
    new = [box / name for name in after if name not in before and (box / name).is_file()]
    found += [problem for path in new if not _in_progress(path, box) for problem in broken(path)]
    return found


def _in_progress(path: Path, box: Path) -> bool:
    """Whether it says by its name that it is not finished."""
    return any(part.startswith(".") or part.endswith((".parts", ".partial")) for part in path.relative_to(box).parts)


def broken(path: Path) -> list[str]:
    """Why a file is not whole; an empty list if it is, or if nothing is known of its kind."""
    try:
        if path.suffix == ".hdf5":
            import h5py

            with h5py.File(path) as file:
                counts = [len(demo["actions"]) for demo in file["data"].values()]
                assert counts and all(counts), "no steps"
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), "no end"
        elif path.suffix == ".png":
            from PIL import Image

            Image.open(path).load()
        elif path.suffix == ".mp4":
            import imageio.v3

            assert imageio.v3.improps(path).shape[0] > 0 and sum(1 for _ in imageio.v3.imiter(path)), "no frames"
        elif path.name == "dataset_info.json":
            _whole_dataset(path.parent)
    except Exception as error:
        return [f"{path.name} is not whole: {type(error).__name__} {str(error)[:80]}"]
    return []


def _whole_dataset(folder: Path) -> None:
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info["splits"]:
        names = sorted(folder.glob(f"*-{split['name']}.tfrecord*"))
        assert [str(_records(name)) for name in names] == list(split["shardLengths"]), split["name"]


def _records(path: Path) -> int:
    content, place, count = path.read_bytes(), 0, 0
    while place < len(content):
        place += 16 + int.from_bytes(content[place : place + 8], "little")
        count += 1
    assert place == len(content), "cut"
    return count


class Corpus:
    """A runner and good inputs, and a fresh box for every call."""

    def __init__(self, folder: Path, runner: Runner) -> None:
        self.folder, self.runner = folder, runner
        (folder / "good").mkdir(parents=True)
        self.inputs = Inputs(folder / "good")
        good = folder / "good"
        self._make("build_dataset", "demos.hdf5", "--name", "toy", "--data-dir", "made", "--method", "none",
                   "--val-fraction", "0.4")  # fmt: skip
        (good / "made" / "toy" / "1.0.0").rename(good / "rlds")
        self._make("annotate", "demos.hdf5", "--out", "labelled.hdf5", "--option", "epochs=1")
        (good / "labelled.hdf5.annotator").rename(good / "annotator")

    def _make(self, command: str, *arguments: str) -> None:
        outcome = self.runner.run(command, list(arguments), self.folder / "good", limit=900)
        assert outcome.status == 0, outcome.stderr

    def run(self, number: int, call: Call) -> tuple[Outcome, list[str]]:
        box = self.folder / f"box{number}"
        box.mkdir()
        make_box(box)
        arguments = [self._word(word, box) for word in call.arguments]
        (box / "link.hdf5").symlink_to(box / "in" / "demos.hdf5")
        before = contents(box)
        outcome = self.runner.run(
            call.command,
            arguments,
            box,
            limit=LIMIT,
            interrupt_in=call.interrupt_in,
            file_bytes=call.file_bytes,
        )
        found = problems(call, outcome, box, before)
        shutil.rmtree(box)
        return outcome, found

    def _word(self, word: str, box: Path) -> str:
        if word.startswith("%"):
            name, _, profile = word[1:].partition(":")
            return f"{ROOT / 'finetune_configs' / name}.py:{profile}"
        option, equals, value = word.partition("=")
        if equals and value.startswith("@"):
            return f"{option}={self.inputs.expand(value, box)}"
        if word.startswith("replay:@"):
            return "replay:" + self.inputs.expand(word.removeprefix("replay:"), box)
        return self.inputs.expand(word, box)


@pytest.fixture(scope="module")
def corpus(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus") / "corpus", runner)


ALL = list(enumerate(calls()))


def test_the_corpus_covers_every_command() -> None:
    assert {call.command for _, call in ALL} == {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert sum(call.first for _, call in ALL) >= 300


@pytest.mark.parametrize("kind", sorted({call.kind for _, call in ALL}))
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one of a line", "all"])
def test_no_call_loses_executes_hangs_or_accepts_in_silence(corpus: Corpus, kind: str, every: bool) -> None:
    wrong = []
    for number, call in ALL:
        if call.kind == kind and (every or call.first):
            outcome, found = corpus.run(number, call)
            wrong += [f"{call}\n    {'; '.join(found)}\n    {outcome.stderr[-300:]}"] if found else []
    assert not wrong, "\n" + "\n".join(wrong)


def main(kinds: list[str]) -> int:
    import tempfile

    made = Corpus(Path(tempfile.mkdtemp()) / "corpus", Runner())
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for number, call in ALL:
        if kinds and call.kind not in kinds:
            continue
        outcome, found = made.run(number, call)
        tally = counts[call.kind]
        tally["calls"] += 1
        tally["wrong"] += bool(found)
        tally["tracebacks"] += outcome.traceback
        tally["hung"] += outcome.status is None
        tally["crashed"] += outcome.status is not None and outcome.status < 0
        tally["accepted"] += outcome.status == 0 and 0 not in call.statuses
        tally["lost"] += any("deleted" in problem or "changed" in problem for problem in found)
        tally["seconds"] += round(outcome.seconds)
        if found:
            said = outcome.stderr.strip().splitlines()[-1:]
            print(f"{outcome.seconds:5.1f} s  {call}\n    {'; '.join(found)}\n    {said}", flush=True)
    columns = ("calls", "wrong", "tracebacks", "hung", "crashed", "accepted", "lost", "seconds")
    print(f"\n{'kind':12}" + "".join(f"{name:>12}" for name in columns))
    for kind, tally in counts.items():
        print(f"{kind:12}" + "".join(f"{tally[name]:12}" for name in columns))
    print(f"{'all':12}" + "".join(f"{sum(t[name] for t in counts.values()):12}" for name in columns))
    made.runner.close()
    return int(any(tally["wrong"] for tally in counts.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
