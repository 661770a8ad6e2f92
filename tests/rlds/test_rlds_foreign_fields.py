"""Fields that are there under the right name and are something else: every reader says so."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_rlds_damaged import record

from gap_vla.core.errors import UserError
from gap_vla.rlds import EpisodeStore, read_rlds
from gap_vla.rlds.annotating import AnnotationJob, annotate_files, rlds_files
from gap_vla.rlds.checking import check_dataset
from gap_vla.rlds.checking.episode_checks import check_structure, check_time
from gap_vla.rlds.checking.report import Recording
from gap_vla.rlds.reader import check_steps, pick_fields

STEPS = 6

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
"""Another field that is something else: each of them is quick with one value."""


def written(folder: Path, name: str, feature: Any, value: Any, *, observed: bool = False) -> Path:
    """Two episodes by TFDS alone, with one field more, or another one in its place; in the observation too, if it is
    `observed`."""
    numbers = {"action": tfds.features.Tensor(shape=(7,), dtype=np.float32)}
    inside = {name: feature} if observed else {}
    step = {**numbers, "observation": {"proprio": tfds.features.Tensor(shape=(9,), dtype=np.float32), **inside}}
    step |= {"is_first": np.bool_, "is_last": np.bool_, name: feature}

    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder

        def _info(self) -> Any:
            steps = tfds.features.Dataset(step)
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"steps": steps}))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for episode in range(2):
                yield episode, {"steps": [self._step(episode, i) for i in range(STEPS)]}

        def _step(self, episode: int, i: int) -> dict[str, Any]:
            state = np.array([0.01 * i + episode, 0, 0, 1, 0, 0, 0, 0.04, 0.04], np.float32)
            more = {name: value(i) if callable(value) else value}
            known = {"action": np.full(7, 0.1 * i - 0.2, np.float32)}
            known["observation"] = {"proprio": state, **(more if observed else {})}
            return {**known, "is_first": i == 0, "is_last": i == STEPS - 1, **more}

    builder = Foreign(data_dir=str(folder))
    builder.download_and_prepare()
    return Path(str(builder.data_path))


def wide(width: int, dtype: Any = np.float32) -> Any:
    return tfds.features.Tensor(shape=(width,), dtype=dtype)


def test_time_that_runs_backwards_is_refused_and_seconds_since_1970_are_not(tmp_path: Path) -> None:
    falling = written(tmp_path / "falling", "timestamp", np.float32, lambda i: np.float32(i % 4))
    message = r"timestamp is 0 at step 4, not after 3; write it with times that increase"
    with pytest.raises(UserError, match=message):
        list(read_rlds(falling))
    with pytest.raises(UserError, match=message):
        annotate_files(falling, tmp_path / "1.1.0", method="gaussian")
    coarse = written(tmp_path / "coarse", "timestamp", np.float32, lambda i: np.float32(1_790_000_000 + i))
    assert len(list(read_rlds(coarse))) == 2


def test_pictures_that_are_no_bytes_are_not_resized_to_some(tmp_path: Path) -> None:
    film = tfds.features.Tensor(shape=(4, 4, 3), dtype=np.float32)
    version = written(tmp_path, "film", film, np.full((4, 4, 3), 0.4, np.float32))
    with pytest.raises(UserError, match="no pictures 'film' of bytes to resize; there are none"):
        next(read_rlds(version, keys={"image_primary": "film"}, resize={"image_primary": (2, 2)}))
    with pytest.raises(UserError, match="resize names 'image_primary', and keys do not; name it there"):
        next(read_rlds(version, keys={"image_wrist": "film"}, resize={"image_primary": (2, 2)}))


def test_pictures_of_several_sizes_in_an_episode_are_not_called_damaged(tmp_path: Path) -> None:
    film = tfds.features.Image(shape=(None, None, 3))
    version = written(tmp_path, "film", film, lambda i: np.zeros((4 + i, 4, 3), np.uint8))
    with pytest.raises(UserError, match="episode 0: pictures, or another field of bytes, are not of one size at all"):
        next(read_rlds(version))


def test_angles_in_degrees_are_an_error_of_the_check_too(tmp_path: Path) -> None:
    turning = written(tmp_path, "state", wide(7), lambda i: np.array([0, 0, 0, 40 * i, 0, 0, 0], np.float32))
    found = check_dataset(turning, state_key="state", layout="bridge").findings
    assert [f.level for f in found if "are these degrees?" in f.message] == ["error"] * 2


@pytest.mark.parametrize(
    ("name", "feature", "value", "trained", "checked"),
    [
        ("rho", wide(3), np.full(3, 2, np.float32), "rho is no number per step but", "rho is no number per step"),
        slow("rho", tfds.features.Text(), "high", "not the fields of an episode", "rho is no number per step"),
        ("rho", np.float32, 0.5, "rho without change_point", "rho without change_point"),
        slow(
            "change_point",
            wide(2),
            np.zeros(2, np.float32),
            "change_point is no number",
            "change_point is no number",
        ),
        slow("action", tfds.features.Text(), "left", "not the fields of an episode", None),
        ("action", wide(7, np.bool_), np.zeros(7, bool), None, None),
        ("action", wide(7, np.int8), np.full(7, -128, np.int8), None, "action dimension 0 is -128, outside of [-1, 1]"),
        ("language_instruction", np.float32, 1.0, r"the instruction is .*1\.0.*, not text", "float32[6], not one text"),
        slow(
            "language_instruction",
            wide(512),
            np.zeros(512, np.float32),
            "the instruction is .*, not text",
            "the instruction is float32[6, 512], not one text a step",
        ),
        slow(
            "language_instruction",
            wide(2, np.object_),
            np.array([b"lift", b"push"], object),
            "the instruction is array.*, not text",
            "the instruction is text[6, 2], not one text a step",
        ),
    ],
)
@pytest.mark.usefixtures("blank_charts")
def test_a_field_that_is_something_else_is_named(
    tmp_path: Path, name: str, feature: Any, value: Any, trained: str | None, checked: str | None
) -> None:
    version = written(tmp_path, name, feature, value)
    if trained is not None:
        with pytest.raises(UserError, match=rf"train\[0\]: {trained}"):
            list(read_rlds(version, workers=1))
    if checked is None:
        with pytest.raises(UserError, match=r"train\[0\]: no 'action' of numbers among the step fields \(action, is"):
            check_dataset(version)
    else:
        report = check_dataset(version, pictures=2)
        assert any(checked in finding.message for finding in report.findings) and len(report.pictures) == 2
        said = {finding.message.partition(";")[0] for finding in report.findings if finding.check == "language"}
        assert len(said) == 1  # and not that it changes, or that there is none
        assert (name == "language_instruction") == ("steps/language_instruction" in report.text())


@pytest.mark.parametrize(
    ("feature", "value", "instruction"),
    [
        (tfds.features.ClassLabel(names=["lift", "push"]), "push", ""),
        slow(wide(2, np.object_), np.array([b"lift", b"push"], object), ""),
        slow(tfds.features.Text(), "lift", "lift"),
    ],
)
def test_an_instruction_that_is_no_text_is_named_where_it_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], feature: Any, value: Any, instruction: str
) -> None:
    version = written(tmp_path, "language_instruction", feature, value)
    assert rlds_files.read(version, 0, AnnotationJob(), "train").language_instruction == instruction
    assert ("not taken: steps/language_instruction\n" in capsys.readouterr().out) == (not instruction)


def test_a_sequence_that_tfds_cannot_read_is_named_with_what_to_write_in_its_place(tmp_path: Path) -> None:
    version = written(tmp_path, "wrench", tfds.features.Sequence(np.float32, length=3), [0.0] * 3)
    for open_it in (check_dataset, lambda it: list(read_rlds(it))):
        with pytest.raises(
            UserError, match=r"steps/wrench is a Sequence of a stated length.*, with a Tensor in its pl"
        ):
            open_it(version)


def test_an_observation_without_fields_is_read_by_name_alone(tmp_path: Path) -> None:
    version = written(tmp_path, "observation", wide(4), np.ones(4, np.float32))
    with pytest.raises(UserError, match="steps/observation is one array, not fields by name; name them with keys"):
        list(read_rlds(version))
    assert [one.proprio.shape for one in read_rlds(version, keys={"proprio": "observation"})] == [(STEPS, 4)] * 2


def test_numbers_that_are_called_as_a_camera_are_named_and_films_of_other_numbers_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = written(tmp_path / "row", "image_embed", wide(4), np.ones(4, np.float32), observed=True)
    assert [[*one.images] for one in read_rlds(version)] == [[]] * 2
    assert "; not read: steps/image_embed, steps/observation/image_embed\n" in capsys.readouterr().out
    keys = {"image_primary": "image_embed"}
    film = tfds.features.Tensor(shape=(4, 4, 3), dtype=np.float32)
    floats = written(tmp_path / "film", "image_primary", film, np.ones((4, 4, 3), np.float32), observed=True)
    for read_it in (lambda: list(read_rlds(version, keys=keys)), lambda: list(read_rlds(floats))):
        with pytest.raises(UserError, match=r"image_primary is float32\[6, 4.*\], not uint8\[T, h, w, 3\]"):
            read_it()


def test_a_state_of_nine_columns_without_any_quaternion_is_of_unknown_layout(tmp_path: Path) -> None:
    joints = [0.1, -0.5, 0.2, -2.1, 0.1, 1.7, 0.8, 0.04, 0.04]
    feature = {"proprio": wide(9)}
    version = written(tmp_path, "observation", feature, lambda i: {"proprio": np.array(joints, np.float32) + 0.01 * i})

    def found(**options: Any) -> list[str]:
        said = check_dataset(version, pictures=0, **options).findings
        return [str(f).partition(",")[0] for f in said if f.check in ("layout", "quaternion", "pose", "frame")]

    unknown = "note: layout: layout of observation/proprio unknown; give --layout to check poses and conventions"
    assert found() == [unknown]
    assert [one[:32] for one in found(layout="gap") if "error" in one] == [
        f"error: quaternion: train[{i}] step" for i in range(2)
    ]
    turned = [*joints[:3], 1, 0, 0, 0, *joints[7:]]
    record(lambda f: f["steps/observation/proprio"].float_list.value.__setitem__(slice(None), turned * STEPS))(version)
    assert [one[:32] for one in found() if "error" in one] == ["error: quaternion: train[0] step"]


def test_a_field_whose_length_changes_from_step_to_step_is_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    feature = tfds.features.Sequence(tfds.features.Tensor(shape=(3,), dtype=np.float32))
    version = written(tmp_path, "points", feature, lambda i: [np.ones(3, np.float32)] * (i % 4))
    episodes = list(read_rlds(version, "train"))
    assert [len(episode) for episode in episodes] == [STEPS, STEPS]
    assert [episode.proprio[0, 0] for episode in episodes] == [0, 1]
    several = tfds.features.Sequence({"x": np.float32})
    boxes = written(tmp_path / "boxes", "boxes", several, lambda i: {"x": [1.0] * (i % 4)})
    found = check_dataset(boxes, pictures=0)
    said = "error: structure: train[0]: from here on not checked: boxes/x; of one of them the length changes from step "
    assert found.summary["episodes"] == 2
    said += "to step: store it in one shape, or leave it out"
    assert [str(f) for f in found.findings if "boxes" in f.message] == [said]


def test_an_end_before_the_last_step_is_refused_and_what_is_not_read_is_said(tmp_path: Path, capsys) -> None:
    ended = written(tmp_path / "ended", "done", np.bool_, lambda i: i == 3)
    for read in (lambda: list(read_rlds(ended)), lambda: annotate_files(ended, tmp_path / "1.1.0", method="gaussian")):
        with pytest.raises(
            UserError, match=r"train\[0\]: done is true at step 3 of 6 and not at the last; cut the epis"
        ):
            read()
    found = check_dataset(ended, pictures=0).findings
    assert [f.level for f in found if "done is true at step 3" in f.message] == ["error"] * 2
    capsys.readouterr()
    assert list(read_rlds(written(tmp_path / "more", "has_image", np.bool_, lambda i: False)))
    assert "train, these are read: steps/action, " in (said := capsys.readouterr().out)
    assert "not read: steps/has_image\n" in said


@pytest.mark.parametrize(
    ("feature", "value"),
    [(tfds.features.Text(), "of air"), (wide(3), np.zeros(3, np.float32)), (np.float32, 997.0), (np.float32, 0.5)],
)
def test_what_is_no_label_in_the_place_of_rho_is_not_replaced(tmp_path: Path, feature: Any, value: Any) -> None:
    version = written(tmp_path, "rho", feature, value)
    said = r"('steps/rho' is (object\[None\]|float32\[None, 3\]|997.0 at step 0)|'rho' without 'change_point'), no"
    with pytest.raises(UserError, match=said):
        annotate_files(version, tmp_path / "1.1.0", method="gaussian")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"proprio": "extra+extra"}, r"proprio in keys is 'extra\+extra'; name each column once, joined by \+"),
        ({"proprio": "extra+"}, r"proprio in keys is 'extra\+'; name each column once"),
        ({"proprio": "extra+rows"}, r"'steps/rows' is \[6, 2, 3\], several rows a step; name one of one row"),
        ({"image_primary": "rows", "image_wrist": "rows"}, "keys take two cameras from rows; give each its own"),
        ({"image_a/b": "rows"}, "keys name 'image_a/b', no field of an episode"),
        ({"phase": "extra"}, r"phase in keys is extra, \[6, 2\]; name a field of one text a step"),
        ({"phase": "word+word2"}, r"phase in keys is word\+word2, \[6, 2\]; name a field of one text a step"),
        ({"language_instruction": "extra"}, r"language_instruction in keys is extra, \[6, 2\]; name a field of one"),
    ],
)
def test_fields_that_are_named_twice_or_have_several_rows_are_refused(keys: dict[str, str], said: str) -> None:
    steps = {"action": np.zeros((6, 1, 7)), "extra": np.zeros((6, 2)), "rows": np.zeros((6, 2, 3))}
    steps |= {"word": np.array([b"reach"] * 6), "word2": np.array([b"lift"] * 6)}
    assert pick_fields(steps, {"phase": "word"}, "toy, train[0]")["phase"] is steps["word"]
    assert pick_fields(steps, {"action": "action"}, "toy, train[0]")["action"].shape == (6, 7)
    with pytest.raises(UserError, match=said):
        pick_fields(steps, keys, "toy, train[0]")
    with pytest.raises(UserError, match=r"toy, train\[0\]: no steps; drop the episode"):
        pick_fields({"action": np.zeros((0, 7))}, {"action": "action"}, "toy, train[0]")


@pytest.mark.parametrize("keys", [["observation/proprio"], {"image_primary": None}, {"proprio": ["a", "b"]}])
def test_keys_that_are_no_map_of_texts_are_refused(tmp_path: Path, keys: Any) -> None:
    version = written(tmp_path, "extra", np.float32, 0.0)
    for read in (lambda: EpisodeStore.build(version, keys=keys), lambda: list(read_rlds(version, keys=keys))):
        with pytest.raises(UserError, match=r"^keys are .*; give a map from names to fields"):
            read()
    assert [*version.parent.iterdir()] == [version]


def test_an_episode_of_no_steps_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "STEPS", 0)
    version = written(tmp_path, "extra", np.float32, 0.0)
    with pytest.raises(UserError, match=r"1\.0\.0, split train, episode 0: no steps; drop the episode"):
        list(read_rlds(version))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("episode_id", [b"demo_0"] * 3 + [b"demo_1"] * 3, "episode_id changes at step 3 of 6"),
        ("task_index", [0, 0, 1, 1, 1, 1], "task_index changes at step 2 of 6"),
        ("observation/camera_timestamp", [0, 1, 2, 2, 1, 3], "camera_timestamp (is 1 at step 4|does not increase)"),
        ("timestamp", [[5, 0], [5, 9], [4, 0], [6, 0], [6, 5], [7, 0]], "timestamp (is 4 at step 2|does not increase)"),
    ],
)
def test_steps_of_two_recordings_and_times_that_fall_are_refused_and_found(
    name: str, values: list[Any], said: str
) -> None:
    rows = np.array(values)
    fields = {"is_first": np.eye(6)[0], "is_last": np.eye(6)[5], "action": np.ones((6, 7))}
    check_steps(fields | {name: np.repeat(rows[:1], 6, 0)}, "train[0]")
    with pytest.raises(UserError, match=said):
        check_steps(fields | {name: rows}, "train[0]")
    texts = {name: [text.decode() for text in values]} if rows.dtype.kind == "S" else {}
    recording = Recording("train[0]", {}, fields | ({} if texts else {name: rows}), [], None, fields["action"])
    found = [*check_structure(spoiled := dataclasses.replace(recording, texts=texts)), *check_time(spoiled)]
    assert [f.level for f in found if re.search(said, f.message)] == ["error"]


def test_numbers_of_bfloat16_are_looked_at(tmp_path: Path) -> None:
    def declared(version: Path, name: str) -> Path:
        described = json.loads((version / "features.json").read_text())
        step = described["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
        step[name]["tensor"]["dtype"] = "bfloat16"
        (version / "features.json").write_text(json.dumps(described))
        return version

    sound = written(tmp_path / "sound", "action", wide(7), lambda i: np.full(7, i / 8, np.float32))
    before = check_dataset(sound, pictures=0).findings
    assert check_dataset(declared(sound, "action"), pictures=0).findings == before
    assert [episode.action[1, 0] for episode in read_rlds(sound)] == [0.125, 0.125]
    lost = written(tmp_path / "lost", "wrench", wide(3), lambda i: np.full(3, np.nan if i == 2 else 0, np.float32))
    found = check_dataset(declared(lost, "wrench"), pictures=0).findings
    assert [f.step for f in found if f.message.startswith("wrench is NaN or infinite")] == [2, 2]
