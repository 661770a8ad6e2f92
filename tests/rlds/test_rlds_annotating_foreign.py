"""Datasets of others get ρ without losing anything, and train from a store with their own field names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from annotating_demos import read_episode

from gap_vla.core.episode import EpisodeError
from gap_vla.core.marks import FOLDER_MARK
from gap_vla.demos import open_source
from gap_vla.rlds import EpisodeStore, WindowLoader, dataset_metadata
from gap_vla.rlds.annotating import AnnotatedFiles, AnnotationError, AnnotationJob, annotate_files
from gap_vla.rlds.reader import read_steps

BRIDGE = {"state": "observation/state", "layout": "bridge"}


def bridge_steps(index: int) -> list[dict[str, Any]]:
    """Back and forth along x, so that there is a change point; state is xyz, roll pitch yaw, opening."""
    rng = np.random.default_rng(index)
    steps = 24 + index
    x = 0.01 * np.abs(np.arange(steps) - steps // 2)
    state = np.concatenate([x[:, None], np.zeros((steps, 5)), np.ones((steps, 1))], 1).astype(np.float32)
    return [
        {
            "observation": {
                "image_0": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
                "state": state[t],
                "nested": {"joints": rng.normal(size=3).astype(np.float32)},
            },
            "action": rng.normal(size=7).astype(np.float32),
            "language_instruction": f"task {index}",
            "language_embedding": rng.normal(size=4).astype(np.float32),
            "is_first": t == 0,
            "is_last": t == steps - 1,
            "is_terminal": False,
            "reward": 0.0,
            "discount": 1.0,
        }
        for t in range(steps)
    ]


class BridgeLike(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Written by TFDS itself, with fields that this library does not know."""

    VERSION = tfds.core.Version("0.1.0")
    pkg_dir_path = Path("/nowhere")

    def _info(self) -> tfds.core.DatasetInfo:
        step = {
            "observation": {
                "image_0": tfds.features.Image(shape=(16, 16, 3), encoding_format="jpeg"),
                "state": tfds.features.Tensor(shape=(7,), dtype=np.float32),
                "nested": {"joints": tfds.features.Tensor(shape=(3,), dtype=np.float32)},
            },
            "action": tfds.features.Tensor(shape=(7,), dtype=np.float32),
            "language_instruction": tfds.features.Text(),
            "language_embedding": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            **{k: np.bool_ for k in ("is_first", "is_last", "is_terminal")},
            **{k: np.float32 for k in ("reward", "discount")},
        }
        episode = {"steps": tfds.features.Dataset(step), "episode_metadata": {"file_path": tfds.features.Text()}}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(episode))

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(range(4)), "val": self._generate_examples(range(4, 6))}

    def _generate_examples(self, which: range) -> Any:
        for i in which:
            yield i, {"steps": bridge_steps(i), "episode_metadata": {"file_path": f"file_{i}"}}


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = BridgeLike(data_dir=str(tmp_path_factory.mktemp("bridge")))
    builder.download_and_prepare()
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def done(bridge: Path) -> AnnotatedFiles:
    return annotate_files(bridge, bridge.parent / "1.1.0", method="gaussian", **BRIDGE)


@pytest.fixture(scope="module")
def labelled(done: AnnotatedFiles) -> Path:
    return done.path


def test_everything_is_kept_and_rho_is_added(bridge: Path, labelled: Path) -> None:
    for split in ("train", "val"):
        before, after = list(read_steps(bridge, split)), list(read_steps(labelled, split))
        assert len(before) == len(after)
        for (old, old_metadata), (new, new_metadata) in zip(before, after):
            assert old_metadata == new_metadata
            rho, points = new.pop("rho"), new.pop("change_point")
            tf.nest.map_structure(np.testing.assert_array_equal, old, new)
            assert rho.dtype == np.float32 and (rho[points] == 1).all()
            turn = len(rho) // 2
            assert abs(np.flatnonzero(points) - turn).min() <= 2
    assert dataset_metadata(labelled)["annotator"]["method"] == "gaussian"


def test_a_store_of_foreign_fields_delivers_windows_with_rho_and_statistics_of_the_training_split(
    labelled: Path,
) -> None:
    keys = {"image_primary": "observation/image_0", "proprio": "observation/state+observation/nested/joints"}
    store = EpisodeStore.build(labelled, keys=keys, resize={"image_primary": (8, 8)})
    loader = WindowLoader(store, split="train", window_size=2, action_horizon=2, batch_size=4, seed=0)
    batch = next(loader)
    assert batch["observation"]["image_primary"].shape == (4, 2, 8, 8, 3)
    assert batch["observation"]["proprio"].shape == (4, 2, 10) and batch["rho"].shape == (4, 2)
    assert batch["task"]["language_instruction"][0].startswith(b"task ")
    train = store.split("train")
    assert store.statistics["num_trajectories"] == len(train) == 4
    np.testing.assert_allclose(store.statistics["action"]["mean"], train.fields["action"].mean(0), atol=1e-6)


def test_a_state_may_lie_in_several_fields(bridge: Path, done: AnnotatedFiles, tmp_path: Path) -> None:
    layout = {"position": 0, "rotation": 3, "rotation_kind": "euler_xyz", "gripper": [6], "width": 10}
    state = "observation/state+observation/nested/joints"
    other = annotate_files(bridge, tmp_path / "1.2.0", method="gaussian", state=state, layout=layout)
    for joined, single in zip(other.annotation.change_points, done.annotation.change_points, strict=True):
        np.testing.assert_array_equal(joined, single)


def test_wrong_fields_and_layouts_are_named_and_leave_nothing(bridge: Path, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no 'steps/observation/pose' .*observation/nested/joints"):
        annotate_files(bridge, tmp_path / "1.0.0", method="gaussian", state="observation/pose", layout="bridge")
    with pytest.raises(EpisodeError, match=r"train\[0\]: the state has shape .* the layout has 9 columns"):
        annotate_files(bridge, tmp_path / "1.0.0", method="gaussian", state="observation/state", layout="gap")
    joints = {"position": 0, "rotation_kind": "none", "gripper": [9], "width": 10}
    with pytest.raises(EpisodeError, match=r"train\[0\]: .* takes columns observation/nested/joints as x, y, z; name"):
        both = "observation/nested/joints+observation/state"
        annotate_files(bridge, tmp_path / "1.0.0", method="gaussian", state=both, layout=joints)
    assert not list(tmp_path.iterdir())
    with pytest.raises(EpisodeError, match=r"no step field 'observation/image_9'"):
        EpisodeStore.build(bridge, tmp_path / "store", keys={"image_primary": "observation/image_9"})


def test_a_folder_of_theirs_in_the_place_of_our_annotator_is_not_left_out_in_silence(
    bridge: Path, labelled: Path, tmp_path: Path
) -> None:
    theirs = shutil.copytree(bridge, tmp_path / "0.1.0")
    (theirs / "annotator").mkdir()
    annotate_files(theirs, tmp_path / "0.2.0", method="gaussian", **BRIDGE)
    (theirs / "annotator" / "people.csv").write_text("who, when")
    with pytest.raises(AnnotationError, match=r"0\.1\.0/annotator is somebody else's, .*; rename it first"):
        annotate_files(theirs, tmp_path / "0.3.0", method="gaussian", **BRIDGE)
    ours = shutil.copytree(labelled, tmp_path / "1.1.0")
    (ours / FOLDER_MARK).unlink()
    annotate_files(ours, tmp_path / "1.2.0", method="gaussian", **BRIDGE)


def test_what_a_record_says_of_success_is_not_needed_for_labels(
    bridge: Path, done: AnnotatedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([np.zeros(2, bool), np.bool_(False), np.bool_(True), np.float32(0.5), b"no", np.float32(1)])

    def read(*arguments: Any, **named: Any) -> Any:
        return ((steps, {**about, "success": next(said)}) for steps, about in read_steps(*arguments, **named))

    monkeypatch.setattr("gap_vla.rlds.annotating.rlds_files.read_steps", read)
    found = annotate_files(bridge, tmp_path / "0.2.0", method="gaussian", **BRIDGE)
    assert [episode.success for episode in found.episodes] == [True, False, True, True, False, True]
    for one, other in zip(found.annotation.change_points, done.annotation.change_points, strict=True):
        np.testing.assert_array_equal(one, other)


def test_openings_are_drawn_in_the_unit_of_the_layout(bridge: Path, tmp_path: Path) -> None:
    from gap_vla.demos.layout import StateLayout
    from gap_vla.phases.pages import view_of
    from gap_vla.rlds import write_rlds

    def drawn(source: Path, **job: Any) -> tuple[str, float]:
        signal = view_of(read_episode(source, 0, job=AnnotationJob(**job))).signals[-1]
        return signal.name, float(max(values.max() for values in signal.lines.values()))

    assert drawn(bridge, **BRIDGE) == ("opening (no unit)", 1.0)
    in_metres = {**vars(StateLayout.of("bridge")), "opening_unit": "m"}
    assert drawn(bridge, state="observation/state", layout=in_metres) == ("fingers (mm)", 1000.0)
    # a dataset of ours that was converted from such data remembers it
    (tmp_path / "npz").mkdir()
    for index in range(2):
        steps = bridge_steps(index)
        state = np.stack([step["observation"]["state"] for step in steps])
        action = np.clip(np.stack([step["action"] for step in steps]), -1, 1)
        np.savez(tmp_path / "npz" / f"demo_{index}.npz", proprio=state, action=action)
    converted = write_rlds(open_source(tmp_path / "npz", "npz", layout="bridge"), tmp_path, "converted")
    assert drawn(converted) == ("opening (no unit)", 1.0)
    with pytest.raises(AnnotationError, match="its columns are those of 'gap', whatever it was made of; leave layout"):
        drawn(converted, layout="robomimic")
    assert drawn(tmp_path / "npz", layout="bridge") == ("opening (no unit)", 1.0)
