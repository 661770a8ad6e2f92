"""The evaluation's folder: the identity of what was evaluated, a JSON line for each finished episode, some films."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import Section, content, parsed
from gap_vla.core.identity import differences, in_words
from gap_vla.core.marks import made_by
from gap_vla.core.progress import PATIENCE, Progress
from gap_vla.core.typed_config import EPISODES, STEPS
from gap_vla.core.whole import replacing, write_json
from gap_vla.drawing.video import packets, working_ffmpeg, write_video
from gap_vla.rollouts.film_notes import film_contradicts, film_of, put_note, scale_of, shown_otherwise, unlike_note

IDENTITY_FILE, EPISODES_FILE = "evaluation.json", "episodes.jsonl"
SUMMARY_FILE, PAGE_FILE = "summary.json", "index.html"

DAY = 86_400.0
"""Seconds that an answer of a simulator or a policy takes at most."""

SIMULATOR = "the simulator"
"""How the error of an episode begins, after the step, that was cut short by the simulator and not by the policy."""


class EvaluationError(UserError, RuntimeError):
    """An evaluation that cannot start or go on; the message says what to do."""


def cut_elsewhere(error: str | None, steps: int) -> str:
    """How an error says that an episode was cut short at another step than its last, in words; "" if it does not."""
    cut = re.match(r"at the start: |step ([0-9]{1,18}): ", error or "")
    return f"steps is {steps}, and error {cut[0][:-2]!r}" if cut and int(cut[1] or 0) != steps else ""


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """How one episode went.

    Attributes:
        episode: number within the evaluation; the layout depends on it and the evaluation's seed alone.
        layout_seed: what the environment was reset with.
        success: whether the task was achieved within the horizon. False if `error` is set.
        steps: control steps taken.
        phase: the last phase the watching expert got to, or None if nobody watched.
        error: why the episode was cut short and counted as failed, or None.
        simulation_seconds, rendering_seconds, policy_seconds: where the time went (a batch's policy time is
            divided equally among its episodes; building an environment and its first step are in none).
    """

    episode: int
    layout_seed: int
    success: bool
    steps: int
    phase: str | None = None
    error: str | None = None
    simulation_seconds: float = 0.0
    rendering_seconds: float = 0.0
    policy_seconds: float = 0.0

    @classmethod
    def read(cls, values: Any, where: str) -> EpisodeRecord:
        """From a line of `episodes.jsonl`, or EvaluationError naming what is none of an episode."""
        found = Section(values, where, EvaluationError)
        most = {"episode": EPISODES.most - 1, "layout_seed": 2**32 - 1, "steps": STEPS}  # as recordings name
        for key, bound in most.items():
            found.whole(key, int(key == "steps" and found.values.get("error") is None), int(bound))
        for key in ("simulation_seconds", "rendering_seconds", "policy_seconds"):
            found.finite(key, 0, DAY * (found.values["steps"] + 1))  # the start is one answer more
        for key in ("phase", "error"):
            if found.values.get(key) is not None and not found.text(key):
                raise EvaluationError(f"{found.name(key)} is empty; remove the line")
        if found.flag("success") and found.values.get("error") is not None:
            raise EvaluationError(f"{where}: an episode that was cut short cannot have succeeded; remove the line")
        if told := cut_elsewhere(found.values.get("error"), found.values["steps"]):
            raise EvaluationError(f"{where}: {told}; remove the line")
        if odd := set(found.values) - {field.name for field in dataclasses.fields(cls)}:
            raise EvaluationError(f"{where}: unknown key {min(odd)!r}; remove the line")
        return cls(**found.values)

    def checksum(self, seal: Any) -> str:
        """By which its line, with this seal, is known to say what was written, in whatever order and form; what is not
        said (None), as what later versions add, does not count."""
        said = {key: float(value) if key.endswith("_seconds") else value for key, value in vars(self).items()}
        known = {key: value for key, value in said.items() if value is not None}
        return hashlib.sha256(json.dumps([known, str(seal)], sort_keys=True).encode()).hexdigest()[:8]


def read_episodes(path: Path) -> tuple[dict[int, EpisodeRecord], int]:
    """The episodes of an `episodes.jsonl`, and how many bytes their lines are: behind them may be a part of one more.

    Raises:
        EvaluationError: a line that is none of an episode, or of another evaluation than the `evaluation.json` beside
            it says, or edited, or without its seal or checksum behind one that has it, or two of the same; behind them
            what begins no line.
    """
    marker = path.with_name(IDENTITY_FILE)
    own = _seal(Section.read(marker, EvaluationError).values) if marker.exists() else None
    found = content(path, EvaluationError)
    whole = found[: found.rfind(b"\n") + 1]
    with contextlib.suppress(ValueError):  # a last line may be whole without its end, as editors leave it
        parsed(found[len(whole) :])
        whole = found
    records: dict[int, EpisodeRecord] = {}
    before: set[str] = set()
    for number, line in enumerate(whole.removesuffix(b"\n").split(b"\n") if whole else (), 1):
        where = f"{path}, line {number}"
        try:
            values = parsed(line)
            said = {k: values.pop(k) for k in ("seal", "checksum") if k in values} if isinstance(values, dict) else {}
            record = EpisodeRecord.read(values, where)
        except UnicodeDecodeError:
            advice = "save the file as UTF-8, or remove the line if it alone is damaged"
            raise EvaluationError(f"{where}: not UTF-8; {advice}") from None
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"{where}: not an episode ({error}); remove the line") from None
        if own and said.get("seal", own) != own:
            raise EvaluationError(f"{where}: of another evaluation than {marker} says; remove it, or copy both again")
        if lost := before - said.keys():  # an earlier version may have begun, and goes on with none of these
            raise EvaluationError(f"{where}: without `{max(lost)}`, which the lines before it have; remove the line")
        before = {*said}
        if "checksum" in said and said["checksum"] != record.checksum(said.get("seal")):
            told = "not as it was written (`checksum` is of other values)"
            raise EvaluationError(f"{where}: {told}; copy the file again, or remove the line")
        if records.setdefault(record.episode, record) is not record:
            raise EvaluationError(f"{where}: episode {record.episode} again; remove one of them")
    if not re.fullmatch(rb"(\{[^\0-\x1f]*)?\0*", found[len(whole) :]):  # what a kill or a power cut leaves
        raise EvaluationError(f"{path}: behind its last whole line is no beginning of an episode; remove it")
    return records, len(whole)


def _seal(identity: Mapping[str, Any]) -> str:
    """By which the lines of an evaluation's episodes know it."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _changed(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How an identity differs, in words, from the one that is written down."""
    return in_words(differences(there, json.loads(json.dumps(wanted))))


def require_place(directory: Path, identity: Mapping[str, Any]) -> None:
    """Raises EvaluationError if a directory holds another evaluation (the differing entries are named), or files of
    others."""
    for name in (IDENTITY_FILE, EPISODES_FILE, SUMMARY_FILE, PAGE_FILE, "videos"):
        place, folder = directory / name, name == "videos"
        if place.is_symlink():
            raise EvaluationError(f"{place} is a link; an evaluation writes files of its own: remove it")
        if place.exists() and place.is_dir() != folder:
            raise EvaluationError(f"{place} is {'no' if folder else 'a'} folder; move it away")
    if (marker := directory / IDENTITY_FILE).exists():
        if changed := _changed(Section.read(marker, EvaluationError).values, identity):
            raise EvaluationError(
                f"{directory} holds another evaluation ({changed}); choose another --out, or move it away"
            )
    elif others := sorted(path.name for path in directory.glob("[!.]*")):
        raise EvaluationError(
            f"{directory} holds {others[0]}, but no evaluation; choose another --out, or move it away"
        )


def require_same(path: Path, of: Mapping[str, Any]) -> None:
    """Raises EvaluationError if a measurement that is there does not say that it is of this."""
    there = Section.read(path, EvaluationError, "move it away").values if path.exists() else of
    if changed := _changed({key: there.get(key) for key in of}, of):
        raise EvaluationError(f"{path} is of something else ({changed}); choose another --out")


class EpisodeLog:
    """`episodes.jsonl` in `directory`, append-only; nothing is written before the first episode.

    Raises:
        EvaluationError: as `require_place`, or an `episodes.jsonl` that `read_episodes` refuses.
    """

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        self.path = directory / EPISODES_FILE
        self._marker = directory / IDENTITY_FILE
        require_place(directory, identity)
        self.identity = dict(Section.read(self._marker, EvaluationError).values) if self._marker.exists() else identity
        self.records = self._read()
        self._place = directory.stat() if directory.exists() else None

    def _read(self) -> dict[int, EpisodeRecord]:
        """Finished episodes; what a killed process began to write behind them is cut off."""
        if not self.path.exists():
            return {}
        records, whole = read_episodes(self.path)
        if whole < self.path.stat().st_size:
            self._leave_snapshots()
            os.truncate(self.path, whole)
        elif whole and not content(self.path, EvaluationError).endswith(b"\n"):
            self._leave_snapshots()
            with self.path.open("ab") as file:
                file.write(b"\n")
        return records

    def _leave_snapshots(self) -> None:
        """Somebody's snapshot by hard links stays as it is."""
        if self.path.exists() and self.path.stat().st_nlink > 1:
            with replacing(self.path) as temporary:
                shutil.copyfile(self.path, temporary)

    def require_there(self) -> None:
        """Raises EvaluationError if the folder was renamed, removed or replaced meanwhile."""
        folder = self.path.parent
        if (self._place or self.records) and not folder.exists():
            raise EvaluationError(f"{folder} was renamed or removed meanwhile; give it its name again")
        if self._place and not os.path.samestat(self._place, folder.stat()):
            raise EvaluationError(f"{folder} was renamed meanwhile, and another put there; give each a name of its own")

    def require_open(self) -> None:
        """Raises OSError if episodes may not be added, as to a file that may only be read."""
        if self.path.exists() and self.path.stat().st_nlink == 1:
            with self.path.open("ab"):
                pass

    def append(self, record: EpisodeRecord) -> None:
        self.require_there()
        if not self._marker.exists():
            if self.records:
                raise EvaluationError(f"{self.path.parent} was renamed or removed meanwhile; give it its name again")
            write_json(self._marker, self.identity)
        self._leave_snapshots()
        seal = _seal(self.identity)
        line = {**dataclasses.asdict(record), "seal": seal, "checksum": record.checksum(seal)}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # of a full disk it names no file
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.records[record.episode] = record


def _shelf(path: Path) -> tuple[bool, int | None]:
    """Failures first, then by episode."""
    return not path.stem.endswith("failure"), film_of(path.name)


def whose(identity: Mapping[str, Any], episode: int, layout_seed: int | None) -> str:
    """Of which evaluation, by its seal, and episode a film is; it ends in a blank if nobody knows the layout."""
    return f"evaluation {_seal(identity)}, episode {episode}, layout {'' if layout_seed is None else layout_seed}"


class VideoShelf:
    """At most `limit` videos in a folder, or as many as were there: a failure takes the place of a success, but one
    success stays where there is room for two. Survives a resumed evaluation.

    Raises:
        EvaluationError: a file in the place of a video that no evaluation made, or a link, or pictures of another form;
            also when found later.
    """

    def __init__(self, directory: Path, limit: int, *, log: EpisodeLog | None = None, fps: float = 20.0) -> None:
        self._directory, self._log, self._fps = directory, log, fps
        there = len(self.paths)
        self._limit = max(limit, there) if limit else 0

    @property
    def paths(self) -> list[Path]:
        """What is there, failures first, then by episode."""
        found = [path for path in self._directory.glob("*.mp4") if film_of(path.name) is not None]
        for path in found:
            if path.is_symlink() or made_by(path) != "rollout":
                what = "a link" if path.is_symlink() else "or not as it is now"
                raise EvaluationError(f"{path} was not made by an evaluation ({what}); move it away")
        return sorted(found, key=_shelf)

    def require_ready(self) -> None:
        """Raises EvaluationError: films are asked for, and there is no program that makes them."""
        if self.films:
            working_ffmpeg(self._directory, EvaluationError, writes=True)

    def require_of(self, log: EpisodeLog, always: bool, size: int | None = None) -> None:
        """Raises EvaluationError: a film ends otherwise than its episode, or says that it is of another one, or was
        changed; or, where films are asked for and ffmpeg is there, shows more steps, or fewer of a task that `always`
        shows pictures, or pictures of another `size` (of the simulator's) or rate."""
        outcomes, films = {number: record.success for number, record in log.records.items()}, self.paths
        if counted := self.films and bool(films):
            try:
                working_ffmpeg(self._directory, EvaluationError)
            except EvaluationError:
                counted = False
        progress = Progress("look at films", len(films), "film", after=PATIENCE, out=sys.stderr)
        for film in films:  # whose names have a number
            progress.advance(1)
            if film_contradicts(film.name, outcomes):
                raise EvaluationError(f"{film} is of an episode that ended otherwise in {log.path}; move it away")
            number = film_of(film.name) or 0
            record = log.records.get(number)  # none, where the command was killed before it was written
            other = unlike_note(film, whose(log.identity, number, None if record is None else record.layout_seed))
            if record is not None and record.error is None and counted and not other:
                least = record.steps if always else 0  # some show none of the end
                told = packets(film)
                if not least <= (shown := sum(not line.startswith("#") for line in told)) <= record.steps + 1:
                    other = f"shows {shown} pictures, and episode {number} of {log.path} has {record.steps + 1}"
                else:
                    other = shown_otherwise(told, size, self._fps)
            if other:
                raise EvaluationError(f"{film} {other}; move it away")

    @property
    def films(self) -> bool:
        """Whether it takes any; else nobody keeps pictures for it."""
        return self._limit > 0

    def add(self, episode: int, success: bool, frames: Sequence[np.ndarray]) -> None:
        path = self._directory / f"episode_{episode:04d}_{'success' if success else 'failure'}.mp4"
        for other in self.paths:
            if other != path and other.name.startswith(f"episode_{episode:04d}_"):  # which was played again
                other.unlink()
        if not self.films:
            path.unlink(missing_ok=True)  # of how it went before
            return
        shelved = [other for other in self.paths if other != path]
        shelved += [path] if frames or path.exists() else []
        shelved.sort(key=_shelf)  # episodes end in any order
        lost = [one for one in shelved if one.stem.endswith("failure")]
        won = [one for one in shelved if one not in lost]
        lost = lost[: self._limit - bool(won and self._limit > 1)]
        kept = {*lost, *won[: self._limit - len(lost)]}
        if frames and path in kept:
            first = frames[0]
            if odd := [one for one in frames if one.dtype != np.uint8 or one.shape != (*first.shape[:2], 3)]:
                what = f"pictures are {odd[0].dtype}{[*odd[0].shape]}, and a film needs uint8[h, w, 3] of one size"
                raise EvaluationError(f"{path}: {what}; correct the simulator, or ask for no videos")
            write_video(path, frames, fps=self._fps, scale=scale_of(first.shape[0]))
            if self._log and episode in self._log.records:
                put_note(path, whose(self._log.identity, episode, self._log.records[episode].layout_seed))
        for surplus in set(shelved) - kept:
            surplus.unlink(missing_ok=True)
