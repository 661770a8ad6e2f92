"""Each spoiled dataset is caught by the check that is meant for it; sound ones pass, whatever their conventions."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gap_vla.cli.data import check_dataset as command
from gap_vla.core.columns import DELTA, POSE, Columns
from gap_vla.core.episode import Episode
from gap_vla.core.errors import EpisodeError
from gap_vla.demos.source import Place
from gap_vla.rlds.checking import Report, check_source
from gap_vla.rlds.checks import check_ends


@dataclasses.dataclass
class Memory:
    """Episodes in memory, as a source."""

    episodes: list[Any]
    splits: list[str] | None = None
    kind: str = "memory"
    path: Path = Path("demos")

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def places(self) -> list[Place]:
        return [Place(self.path, f"episode {index}") for index in range(len(self))]

    def read(self, index: int) -> Episode:
        if isinstance(one := self.episodes[index], Exception):
            raise one
        return one

    def account(self) -> str:
        return f"demos: {len(self)} episodes"


@functools.cache
def physical(index: int, steps: int = 60) -> Episode:
    """An arm that does what its actions say: 2 cm and 0.2 rad per unit, closing at half time."""
    rng = np.random.default_rng(index)
    smooth = np.tanh(np.cumsum(rng.normal(size=(steps, 6)), 0))
    action = np.concatenate([smooth, np.where(np.arange(steps) < steps // 2, -1, 1)[:, None]], 1)
    position = np.concatenate([np.zeros((1, 3)), np.cumsum(0.02 * action[:-1, :3], 0)])
    turns = [Rotation.identity()]
    for rotvec in action[:-1, 3:6]:
        turns.append(Rotation.from_rotvec(0.2 * rotvec) * turns[-1])
    quaternion = np.array([np.roll(turn.as_quat(), 1) for turn in turns])
    for before, after in itertools.pairwise(quaternion):
        after *= np.sign(before @ after)  # one hemisphere
    close = np.clip((np.arange(steps) - steps // 2) / 8, 0, 1)
    fingers = 0.04 * np.stack([1 - close, close - 1], 1)
    points = np.arange(steps) == steps // 2
    return Episode(
        images={"image_primary": rng.integers(0, 256, (steps, 8, 8, 3), np.uint8)},
        proprio=np.concatenate([position, quaternion, fingers], 1).astype(np.float32),
        action=action.astype(np.float32),
        language_instruction="lift",
        rho=(np.where(abs(np.arange(steps) - steps // 2) < 3, 0.9, 0.1) + 0.01 * rng.random(steps)).astype(np.float32),
        change_point=points,
        columns=POSE,
        action_columns=DELTA,
    )


SOUND = [physical(i) for i in range(4)]
LENGTHS = [[60] * 4, [24, 31, 150]]


def checked(episodes: list[Any], **source: Any) -> Report:
    return check_source(Memory(episodes, **source), pictures=0)  # type: ignore[arg-type]


def found(report: Report, level: str = "") -> set[tuple[str, str]]:
    return {(one.level, one.check) for one in report.findings if one.level.startswith(level)}


def told(report: Report, level: str) -> str:
    return "\n".join(str(one) for one in report.findings if one.level == level)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_sound_dataset_passes(lengths: list[int]) -> None:
    report = checked([physical(i, steps) for i, steps in enumerate(lengths)])
    assert found(report) == {("note", "convention")} and report.exit_status(strict=True) == 0
    assert "high gripper action closes the gripper" in told(report, "note")


# Conventions


def _converted(change: Callable[[Episode], dict[str, Any]], lengths: list[int]) -> Report:
    return checked([(e := physical(i, steps)).replace(**change(e)) for i, steps in enumerate(lengths)])


def _opens(e: Episode) -> dict[str, Any]:
    action = e.action.copy()
    action[:, 6] = (1 - action[:, 6]) / 2
    return {"action": action}


def _absolute(e: Episode) -> dict[str, Any]:
    """Targets, in coordinates of their own."""
    state, ahead = e.proprio + np.float32([0.4, 0, 0.2, 0, 0, 0, 0, 0, 0]), e.proprio[:, :3][[*range(1, len(e)), -1]]
    return {"proprio": state, "action": np.concatenate([ahead - np.float32([0.5, -0.5, -0.5]), e.action[:, 3:]], 1)}


def _joints(e: Episode) -> dict[str, Any]:
    """Six joints and a gripper, and their targets three steps ahead, as from a leader arm."""
    state = np.concatenate([e.proprio[:, :6] + 0.3, e.proprio[:, 7:8] * 25], 1)
    ahead = state[np.minimum(np.arange(len(e)) + 3, len(e) - 1)]
    arm = Columns.parse("joints:6 gripper_01")
    return {"proprio": state, "action": ahead, "columns": arm, "action_columns": arm}


def _missing_camera(e: Episode) -> dict[str, Any]:
    images = {**e.images, "image_1": np.zeros_like(e.images["image_primary"])}
    return {"images": images, "metadata": {"missing_cameras": ["image_1"]}}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(
    ("convention", "note"),
    [
        (_opens, "high gripper action opens"),
        (_absolute, "absolute positions"),
        (_joints, "absolute joints"),
        (lambda e: {"action": e.action[:, :0], "action_columns": None}, "no action"),
        (lambda e: {"language_instruction": ""}, "no language instruction"),
        (_missing_camera, "image_1 is missing"),
        (lambda e: {"action": e.action * np.float32(3.75)}, ""),
        (lambda e: {"columns": None}, "--columns"),
        (lambda e: {"rho": None, "change_point": None}, ""),
    ],
)
def test_a_convention_is_a_note_at_most_whatever_the_lengths(
    convention: Callable[[Episode], dict[str, Any]], note: str, lengths: list[int]
) -> None:
    report = _converted(convention, lengths)
    assert found(report, "e") == found(report, "w") == set() and note in told(report, "note")
    assert report.exit_status(strict=True) == 0


def test_another_frame_is_no_error() -> None:
    """As of a hand that points down: y and z the other way."""
    report = _converted(lambda e: {"action": e.action * np.float32([1, -1, -1, 1, 1, 1, 1])}, LENGTHS[0])
    assert report.exit_status() == 0 and "y, z" in told(report, "warning")


# Faults


def _set(field: str, change: Callable[[np.ndarray], Any]) -> Callable[[Episode], dict[str, Any]]:
    def changed(e: Episode) -> dict[str, Any]:
        values = getattr(e, field).copy()
        new = change(values)
        return {field: (values if new is None else new).astype(values.dtype)}

    return changed


def _film(change: Callable[[np.ndarray], Any]) -> Callable[[Episode], dict[str, Any]]:
    def changed(e: Episode) -> dict[str, Any]:
        frames = e.images["image_primary"].copy()
        change(frames)
        return {"images": {"image_primary": frames}}

    return changed


def _put(where: Any, value: Any) -> Callable[[np.ndarray], Any]:
    return lambda array: array.__setitem__(where, value)


def _jump(p: np.ndarray) -> None:
    p[12:, 0] += 0.9


def _flip(p: np.ndarray) -> None:
    p[10:, 3:7] *= -1


def _stutter(f: np.ndarray) -> None:
    f[1::2] = f[: len(f) - len(f) % 2 : 2]


def _xyzw(p: np.ndarray) -> None:
    p[:, 3:7] = np.roll(p[:, 3:7], -1, 1)


def _degrees(e: Episode) -> dict[str, Any]:
    turns = 90 * np.sin(np.linspace(0, 3, len(e)))[:, None] + np.zeros((1, 3))
    state = np.concatenate([e.proprio[:, :3], turns, e.proprio[:, 7:]], 1).astype(np.float32)
    return {"proprio": state, "columns": Columns.parse("position euler_xyz gripper:2")}


ERRORS = [
    (_set("action", lambda a: a * [1, -1, 1, 1, 1, 1, 1]), "frame"),
    (_set("action", lambda a: a * [1, 1, 1, 1, 1, -1, 1]), "frame"),
    (_set("action", lambda a: np.concatenate([a[:1], a[:-1]])), "time"),
    (_set("proprio", _xyzw), "quaternion"),
    (_set("proprio", lambda p: p * [1, 1, 1, 1.5, 1.5, 1.5, 1.5, 1, 1]), "quaternion"),
    (_film(_put(7, 0)), "blank"),
    (_film(_put(7, (0, 135, 0))), "blank"),
    (_set("change_point", _put(0, True)), "rho"),
    (_degrees, "unit"),
]
WARNINGS = [
    (_set("proprio", _jump), "jump"),
    (_set("proprio", lambda p: p * [1000, 1000, 1000, 1, 1, 1, 1, 1, 1]), "reach"),
    (_set("proprio", lambda p: p[:1] + 0 * p), "constant"),
    (_set("action", lambda a: 0 * a), "constant"),
    (_set("proprio", _flip), "quaternion"),
    (_film(_stutter), "still"),
    (_film(_put(slice(None), 0)), "blank"),
    (_film(lambda f: f.__ifloordiv__(64)), "blank"),
    (_set("rho", lambda r: 1 - r), "rho"),
    (_set("rho", lambda r: 0.3 * r), "rho"),
]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("spoil", "check"), ERRORS)
def test_what_would_spoil_a_training_is_an_error_whatever_the_lengths(
    spoil: Callable[[Episode], dict[str, Any]], check: str, lengths: list[int]
) -> None:
    report = _converted(spoil, lengths)
    assert ("error", check) in found(report) and report.exit_status() == 1


@pytest.mark.parametrize(("spoil", "check"), WARNINGS)
def test_what_should_be_looked_at_is_a_warning(spoil: Callable[[Episode], dict[str, Any]], check: str) -> None:
    report = _converted(spoil, LENGTHS[0])
    assert ("warning", check) in found(report)
    assert report.exit_status() == 0 and report.exit_status(strict=True) == 1


def test_a_finding_of_many_episodes_is_one_line_with_a_count() -> None:
    report = _converted(_film(_put(slice(None), 0)), [20] * 30)
    lines = [line for line in report.text().splitlines() if "one colour" in line]
    assert len(lines) == 1 and "30 episodes" in lines[0]


def test_an_episode_that_cannot_be_read_is_an_error_and_the_others_are_checked() -> None:
    report = checked([*SOUND, EpisodeError("proprio is NaN at step 3")])
    assert ("error", "unreadable") in found(report) and "NaN at step 3" in report.text()
    assert report.summary["episodes"] == "4"


def _cut(e: Episode, first: int, last: int) -> Episode:
    parts = {name: getattr(e, name)[first:last] for name in ("proprio", "action", "rho", "change_point")}
    return e.replace(**parts, images={})


@pytest.mark.parametrize(
    ("again", "splits", "level"),
    [
        (SOUND[0], None, "warning"),
        (SOUND[0], ["train"] * 4 + ["val"], "error"),
        (_cut(SOUND[0], 20, 50), None, "warning"),
    ],
)
def test_episodes_that_occur_twice_are_found(again: Episode, splits: list[str] | None, level: str) -> None:
    assert (level, "duplicate") in found(checked([*SOUND, again], splits=splits))


def test_two_cameras_that_show_the_same_are_found() -> None:
    report = _converted(lambda e: {"images": {**e.images, "image_wrist": e.images["image_primary"]}}, LENGTHS[0])
    assert ("warning", "pictures") in found(report)


def test_the_page_shows_the_verdict_the_findings_and_some_episodes(tmp_path: Path) -> None:
    odd = SOUND[2].replace(**_set("proprio", _jump)(SOUND[2]))
    report = check_source(Memory([*SOUND[:2], odd]), pictures=2)  # type: ignore[arg-type]
    page = report.save(tmp_path / "check").read_text()
    assert report.verdict in page and page.count("data:image/png") == 2 and "far in one step" in page
    assert report.pictures[0][0].startswith("episode 2")
    assert (tmp_path / "check" / "check.json").exists() and (tmp_path / "check" / "made_by.json").exists()


@pytest.mark.parametrize(
    ("flags", "sound"),
    [
        ({"is_first": [1, 0, 0], "is_last": [0, 0, 1], "is_terminal": [0, 0, 0]}, True),
        ({"is_first": [1, 0, 0], "is_last": [0, 0, 1]}, True),
        ({"is_first": [1, 1, 0], "is_last": [0, 0, 1]}, False),
        ({"is_first": [1, 0, 0], "is_last": [1, 1, 1]}, False),
    ],
)
def test_an_rlds_episode_begins_and_ends_where_its_flags_say(flags: dict[str, list[int]], sound: bool) -> None:
    assert (not list(check_ends({key: np.array(value, bool) for key, value in flags.items()}))) == sound


def test_the_command_checks_a_dataset_and_answers_by_its_exit_status(tmp_path: Path, capsys: Any) -> None:
    toy = Path(__file__).parent / "rlds" / "made_by_0.1.0" / "toy" / "1.0.0"
    words = [str(toy), "--out", str(tmp_path / "check")]
    status = command(words)
    found = json.loads((tmp_path / "check/check.json").read_text())
    assert status == int(found["verdict"].startswith("it would spoil")) and (tmp_path / "check/check.html").exists()
    assert command(words) == 2 and "check exists" in capsys.readouterr().err
    assert command([*words, "--overwrite"]) == status
    assert command([str(tmp_path / "nothing")]) == 2
