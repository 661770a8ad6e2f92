"""What a dataset holds and nobody reads is named by all who read it, wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_rlds_damaged import STEPS, edited, record, step_features, tiny

from gap_vla.core.errors import UserError
from gap_vla.rlds import read_rlds, write_rlds
from gap_vla.rlds.annotating import AnnotationJob, annotate_files
from gap_vla.rlds.annotating.rlds_files import read
from gap_vla.rlds.checking import check_dataset

_NUMBER = {
    "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
    "tensor": {"dtype": "int32", "encoding": "none", "shape": {}},
}
_TEXT = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
NAMES = (
    "steps/has_image, steps/frame_index, steps/observation/force, steps/num_steps, steps/timestamp, "
    "episode_metadata/recorder, steps/observation/hidden (not in features.json), color_order in extra_json, "
    "configName in dataset_info.json, description in features.json, camera in metadata.json"
).split(", ")
"""One at each place; a `timestamp` that is text is not compared, and `num_steps` of each step is nowhere."""


def _describe(features: Any) -> None:
    step, metadata = step_features(features), features["featuresDict"]["features"]["episode_metadata"]
    pair = {**_NUMBER, "tensor": {"dtype": "int32", "encoding": "none", "shape": {"dimensions": ["2"]}}}
    step |= {"frame_index": pair, "has_image": _NUMBER, "num_steps": _NUMBER, "timestamp": _TEXT}
    step["observation"]["featuresDict"]["features"]["force"] = _NUMBER
    step["action"]["description"] = "in millimetres"
    metadata["featuresDict"]["features"]["recorder"] = _TEXT


def _fill(features: Any) -> None:
    for name in ("has_image", "num_steps", "observation/force", "observation/hidden"):
        features[f"steps/{name}"].int64_list.value.extend([7] * STEPS)
    features["steps/frame_index"].int64_list.value.extend([7] * (2 * STEPS))
    features["steps/timestamp"].bytes_list.value.extend([b"noon"] * STEPS)
    features["episode_metadata/recorder"].bytes_list.value.append(b"BGR")
    features["episode_metadata/extra_json"].bytes_list.value[:] = [json.dumps({"color_order": "BGR"}).encode()]


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    version = write_rlds([tiny(i) for i in range(2)], tmp_path_factory.mktemp("strange"), "toy", val_fraction=0.0)
    (version / "made_by.json").unlink()
    record(_fill, slice(None))(version)
    edited("features.json", _describe)(version)
    edited("dataset_info.json", lambda info: info.update(configName="panda"))(version)
    (version / "metadata.json").write_text(json.dumps({"camera": "BGR"}))
    return version


COMMANDS: dict[str, Callable[[Path, Path], Any]] = {
    "check": lambda version, out: print(check_dataset(version, pictures=0).text()),
    "store": lambda version, out: list(read_rlds(version)),
    "annotate": lambda version, out: annotate_files(version, out, method="gaussian"),
    "show": lambda version, out: read(version, 0, AnnotationJob(), "train"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_nobody_reads_is_named_by_every_reader(
    strange: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    COMMANDS[command](strange, tmp_path / "1.1.0")
    said = capsys.readouterr().out
    assert {name: said.count(name) for name in NAMES} == dict.fromkeys(NAMES, 1)
    taken = "observation/image_primary <- observation/image_primary"
    assert ("image_primary" in said.partition("not ")[2]) == (command == "annotate") and (
        taken in said or command != "show"
    )


def test_what_only_a_later_record_holds_is_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = write_rlds([tiny(i) for i in range(2)], tmp_path, "toy", val_fraction=0.0)
    for name in ("made_by.json", "metadata.json"):
        (version / name).unlink()
    assert list(read_rlds(version)) and "; not read: seed in extra_json\n" in capsys.readouterr().out
    assert check_dataset(version, pictures=0).summary["not looked at"] == "seed in extra_json (NaN aside)"
    record(lambda features: features["steps/hidden"].int64_list.value.append(1))(version)
    assert list(read_rlds(version)) and "train, not read: steps/hidden (not in " in capsys.readouterr().out
    said = "seed in extra_json (NaN aside); steps/hidden (not in features.json) (NaN included)"
    assert check_dataset(version, pictures=0).summary["not looked at"] == said
    annotate_files(version, tmp_path / "1.1.0", method="gaussian")
    assert "not taken: steps/hidden (not in features.json)" in capsys.readouterr().out


def test_metadata_that_are_one_text_are_named_as_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = write_rlds([tiny(i) for i in range(2)], tmp_path, "toy", val_fraction=0.0)
    for name in ("made_by.json", "metadata.json"):
        (version / name).unlink()

    def one_text(features: Any) -> None:
        for name in ("success", "episode_id", "file_path", "extra_json"):
            del features[f"episode_metadata/{name}"]
        features["episode_metadata"].bytes_list.value.append(b"in the kitchen")

    record(one_text, slice(None))(version)
    edited("features.json", lambda said: said["featuresDict"]["features"].update(episode_metadata=_TEXT))(version)
    assert len(list(read_rlds(version))) == 2 and "; not read: episode_metadata\n" in capsys.readouterr().out
    assert check_dataset(version, pictures=0).summary["not looked at"] == "episode_metadata (NaN included)"
    read(version, 0, AnnotationJob(), "train")
    assert "not taken: episode_metadata\n" in capsys.readouterr().out


def test_rho_is_not_made_of_positions_that_say_millimetres_and_false_statistics_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = write_rlds([tiny(i) for i in range(2)], tmp_path, "toy", val_fraction=0.0)
    (version / "made_by.json").unlink()
    edited("dataset_statistics.json", lambda said: said.update(num_transitions=7777))(version)
    annotate_files(version, tmp_path / "1.1.0", method="gaussian")
    assert "json: num_transitions is not that of the training split" in capsys.readouterr().out
    said = json.dumps({"units": "mm"}).encode()
    record(lambda features: features["episode_metadata/extra_json"].bytes_list.value.__setitem__(0, said))(version)
    with pytest.raises(UserError, match=r"train\[1\]: units in extra_json is 'mm'; positions are read as metres"):
        annotate_files(version, tmp_path / "1.2.0", method="gaussian")
    assert not (tmp_path / "1.2.0").exists()
