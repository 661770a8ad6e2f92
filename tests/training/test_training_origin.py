"""What a run is made from: the values of the data whatever their layout, and versions of the code."""

import json
import os
import re
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from gap_vla.training.recorded import notes_on_data
from made_up_demos import made_up_episodes

from gap_vla.cli import check_dataset
from gap_vla.core.errors import UserError as PolicyError
from gap_vla.core.typed_config import ConfigError
from gap_vla.rlds import write_rlds
from gap_vla.training import stages
from gap_vla.training.run import Run
from gap_vla.training.stages import digests, origin
from gap_vla.training.torch import SmallConfig


def lerobot(folder, fps, names):
    (folder / "meta").mkdir()
    info = {"fps": fps, "features": {"action": {"names": names}}}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return {"path": str(folder), "kind": "lerobot"}


def hdf5(folder, attributes, settings, beside=None):
    """`beside`: attributes by their place in the file."""
    with h5py.File(folder / "demos.hdf5", "w") as file:
        file.create_group("data").attrs.update({**attributes, "env_args": json.dumps({"env_kwargs": settings})})
        for place, told in (beside or {}).items():
            file.require_group(place).attrs.update(told)
    return {"path": str(folder / "demos.hdf5")}


def npz(folder, **arrays):
    np.savez(folder / "one.npz", **arrays)
    return {"path": str(folder), "kind": "npz"}


OWN = ["dx", "dy", "dz", "rx", "ry", "rz", "gripper"]
ABSOLUTE = {"controller_configs": {"control_delta": False}}


@pytest.mark.parametrize(
    ("make", "how", "said"),
    [
        (lerobot, (20, OWN), ""),
        (
            lerobot,
            (10, OWN),
            r"has 10 steps a second \(fps\), rollouts of threading 20: the policy will act at another",
        ),
        (lerobot, (20, ["x", "y", "z", *OWN[3:]]), r"its actions are called x, y, z; rollouts of threading take diff"),
        (lerobot, (20, {"motors": [f"motor_{n}" for n in range(7)]}), r"called motor_0, motor_1, motor_2; rollouts"),
        (hdf5, ({}, {}), ""),
        (hdf5, ({"control_hz": 20}, {"control_freq": 20}), ""),
        (hdf5, ({"control_hz": 10}, {}), r"has 10 steps a second \(control_hz of data\), rollouts of threading 20"),
        (
            hdf5,
            ({}, {"control_freq": 5}),
            r"has 5 steps a second \(control_freq of env_args\), rollouts of",
        ),
        (npz, {"fps": 20}, ""),
        (npz, {"fps": 50}, r"has 50 steps a second \(fps of one\.npz\), rollouts of threading 20"),
        (hdf5, ({"fps": 50}, {}), r"has 50 steps a second \(fps of data\), rollouts of threading 20"),
        (hdf5, ({"control_hz": 20, "FPS": 30}, {}), r"has 30 steps a second \(fps of data; control_hz of data 20\)"),
        (hdf5, ({}, {"hz": 5}), r"has 5 steps a second \(hz of env_args\), rollouts of threading 20"),
        (hdf5, ({}, {}, {"/": {"frequency": 5.0}}), r"has 5 steps a second \(frequency of file\), rollouts"),
        (
            hdf5,
            ({}, {}, {f"data/demo_{n}": {"control_freq": 50} for n in range(3)}),
            r"has 50 steps a second \(control_freq of demo_0\), rollouts of threading 20",
        ),
        (hdf5, ({}, ABSOLUTE), r"its actions are absolute \(control_delta is false\); rollouts of threading take"),
    ],
)
def test_demonstrations_that_were_recorded_otherwise_than_rollouts_run_are_noted(tmp_path, make, how, said):
    demos = make(tmp_path, **how) if isinstance(how, dict) else make(tmp_path, *how)
    values = {"task": "threading", "method": "concat", "demos": demos, "eval": {"episodes": 1}}
    notes = notes_on_data(SmallConfig.from_dict(values), [])
    assert len(notes) == bool(said) and re.search(said, "".join(notes))
    assert not notes_on_data(SmallConfig.from_dict({**values, "eval": {"episodes": 0}}), [])


def test_demonstrations_that_say_two_rates_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.preflight.require_rendering", lambda: None)
    demos = hdf5(tmp_path, {"control_hz": 20}, {"control_freq": 5})
    values = {"task": "threading", "method": "concat", "runs": str(tmp_path / "runs"), "demos": demos}
    with pytest.raises(PolicyError, match=r"demos\.hdf5 says control_hz 20, and its env_args 5; correct one"):
        Run(SmallConfig.from_dict({**values, "data": {"root": str(tmp_path / "data")}})).to_the_end()


def test_datasets_tell_their_steps_a_second_and_tasks_and_whether_anybody_has_checked_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    version = write_rlds(made_up_episodes(), tmp_path / "rlds", "dots", val_fraction=0.2, annotator={}, identity={})
    values = {"task": "threading", "method": "concat", "data": {"rlds": str(version)}, "eval": {"episodes": 1}}
    config = SmallConfig.from_dict(values)

    def store(metadata, *episodes):
        splits = {"train": SimpleNamespace(episodes=[{"metadata": about} for about in episodes])}
        return SimpleNamespace(metadata=metadata, splits=splits)

    for metadata, said in (
        ({}, r"\(control_hz of train\[1\]; control_hz of train\[0\] 20\)"),
        ({"fps": 50}, r"\(fps of metadata\.json"),
    ):
        [note] = notes_on_data(config, [store(metadata, {"control_hz": 20}, {"control_hz": 50})])
        assert re.search(rf"{version} has 50 steps a second {said}", note)
    assert notes_on_data(config, [store({}, {"control_hz": 20, "task": "threading"}, {"task": "lift it"})]) == []
    with pytest.raises(ConfigError, match=rf"{version} holds demonstrations of assembly, not of threading"):
        notes_on_data(config, [store({}, {}, {"task": "assembly"})])

    for name in ("made_by.json", "metadata.json"):
        (version / name).unlink()
    [note] = notes_on_data(config, [])
    assert note.startswith(f"note: `gap-vla check-dataset {version}` looks for contradictions")
    check_dataset.main([str(version), "--show", "0", "--episodes", "1"])
    assert notes_on_data(config, []) == [note]
    check_dataset.main([str(version), "--show", "0"])
    assert notes_on_data(config, []) == []
    os.utime(version / "dataset_info.json", (4e9, 4e9))  # it was written again
    assert notes_on_data(config, []) == [note]


def store_of(**changed):
    """Two episodes of 4 and 3 steps in `train`, as a store holds them; `changed` replaces fields."""
    steps = np.arange(7)
    fields = {
        "image_primary": np.tile(steps[:, None, None, None], (1, 2, 2, 3)).astype(np.uint8),
        "proprio": np.tile(steps[:, None], (1, 9)).astype(np.float32),
        "action": np.tile(steps[:, None], (1, 7)).astype(np.float32),
        "rho": (steps / 7).astype(np.float32),
        "change_point": steps == 2,
        "phase": (steps > 3).astype(np.int32),
    }
    split = SimpleNamespace(
        offsets=np.array([0, 4, 7]), languages=["go"], language=np.zeros(2, int), phases=["reach", "lift"], fields={}
    )
    split.fields = {**fields, **changed}
    return SimpleNamespace(splits={"train": split})


def test_the_same_values_in_another_layout_have_the_same_digests():
    plain = digests(store_of())
    wide = store_of(proprio=store_of().splits["train"].fields["proprio"].astype(np.float64))
    wide.splits["train"].fields["extra"] = np.zeros(7)
    wide.splits["train"].phases = ["lift", "reach"]
    wide.splits["train"].fields["phase"] = 1 - wide.splits["train"].fields["phase"]
    assert digests(wide) == plain


@pytest.mark.parametrize("field", ["image_primary", "proprio", "action", "phase", "rho", "change_point"])
def test_a_changed_value_changes_the_digest_of_its_part_only(field):
    before = digests(store_of())
    value = store_of().splits["train"].fields[field].copy()
    value[3] = 1 - value[3]
    after = digests(store_of(**{field: value}))
    part = "labels" if field in ("rho", "change_point") else "episodes"
    assert {key for key in before if before[key] != after[key]} == {part}


def test_other_episode_borders_splits_or_instructions_are_other_data():
    before = digests(store_of())
    borders, split, words = store_of(), store_of(), store_of()
    borders.splits["train"].offsets = np.array([0, 3, 7])
    split.splits["val"] = split.splits.pop("train")
    words.splits["train"].languages = ["stop"]
    assert all(digests(other)["episodes"] != before["episodes"] for other in (borders, split, words))


def test_data_without_labels_have_no_digest_of_labels():
    store = store_of()
    del store.splits["train"].fields["rho"], store.splits["train"].fields["change_point"]
    assert set(digests(store)) == {"episodes"}


def test_a_raised_version_gives_runs_another_directory_and_another_origin(monkeypatch):
    config = SmallConfig("assembly")
    before = Run(config).directory.path, origin("small", "assembly", store_of())
    raised = {**stages.TRAINING_VERSION, "small": 1000}
    monkeypatch.setattr(stages, "TRAINING_VERSION", raised)
    after = Run(config).directory.path, origin("small", "assembly", store_of())
    assert after[0] != before[0]
    assert {key for key in before[1] if before[1][key] != after[1][key]} == {"training_version"}


def test_a_finished_run_answers_for_the_data_that_it_was_trained_on_alone(tmp_path):
    data, others = (
        write_rlds(made_up_episodes(seed=seed), tmp_path / name, "dots", val_fraction=0.2, annotator={}, identity={})
        for seed, name in enumerate(("mine", "others"))
    )
    values = {
        "task": "threading",
        "method": "concat",
        "runs": str(tmp_path / "runs"),
        "data": {"rlds": str(data), "root": str(tmp_path / "data")},
        "demos": {"image_size": 32, "cameras": ["primary"]},
        "train": {"steps": 2, "batch_size": 4},
        "eval": {"episodes": 0},
    }
    config = SmallConfig.from_dict(values)
    trained = Run(config, "named").to_the_end()
    page = tmp_path / "runs" / "threading" / "named" / "report.html"
    page.unlink()  # as of a run that was killed while it was written
    assert Run(config, "named").to_the_end(resume=True) == trained
    written = page.read_text()
    assert written.rstrip().endswith("</html>")
    assert Run(config, "named").to_the_end(resume=True) == trained and page.read_text() == written
    shutil.rmtree(data)
    shutil.copytree(others, data)
    with pytest.raises(ConfigError, match=rf"{data} holds other data than this run was trained on"):
        Run(config, "named").to_the_end(resume=True)
