"""Any RLDS dataset is a source of episodes: the public ones' layouts, and a copy with labels of each."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gap_vla.core.columns import DELTA, POSE
from gap_vla.core.errors import EpisodeError, UserError
from gap_vla.demos.fields import Fields
from gap_vla.demos.source import Source, open_source
from gap_vla.rlds.annotate import annotate_source, show_episode, write_report
from gap_vla.rlds.loader import WindowLoader
from gap_vla.rlds.source import MISSING, RLDS, dataset_metadata
from gap_vla.rlds.store import EpisodeStore
from tests.helpers import layouts

HAS = {"has_image_0": True, "has_image_1": lambda index: bool(index % 2)}


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.rlds("bridge_dataset", layouts.bridge, **HAS)(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def fractal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.rlds("fractal_data", layouts.fractal, success=True)(tmp_path_factory.mktemp("tfds"))


def test_cameras_that_an_episode_is_said_to_lack_are_known(bridge: Path) -> None:
    named = Fields(layout="bridge", images={"image_primary": "image_0", "image_wrist": "image_1"})
    missing = {e.metadata["file_path"]: e.metadata.get(MISSING) for e in RLDS(bridge, named)}
    assert missing == {f"/raw/{i}": None if i % 2 else ["image_wrist"] for i in range(4)}


def test_what_is_not_recognised_is_asked_for_with_what_there_is(fractal: Path, tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"observation/base_pose_tool_reached.*--state"):
        open_source(fractal)
    with pytest.raises(EpisodeError, match="observation/sate"):
        open_source(fractal, Fields(state="observation/sate"))
    state = Fields(state="base_pose_tool_reached", columns="position quat_xyzw")
    assert open_source(fractal, state).read(0).action.shape[1] == 0  # ρ needs no action
    with pytest.raises(EpisodeError, match="action/world_vector"):
        EpisodeStore.build(fractal, tmp_path / "store", fields=state)


def test_a_foreign_dataset_trains_without_val_and_without_rho(bridge: Path, tmp_path: Path) -> None:
    named = Fields(layout="bridge", images={"image_primary": "image_0", "image_wrist": "image_1"})
    store = EpisodeStore.build(bridge, tmp_path / "store", fields=named, val_fraction=0.4)
    assert {name: len(split) for name, split in store.splits.items()} == {"train": 2, "val": 2}
    assert np.flatnonzero(~store.statistics["action"]["mask"]).tolist() == [3, 4, 6]  # nothing turns about x and y
    loader = WindowLoader(
        store,
        split="train",
        window_size=2,
        action_horizon=4,
        batch_size=8,
        seed=0,
        rho=False,
        image_keys=("image_primary", "image_wrist"),
    )
    batch = next(loader)
    assert batch["action"].shape == (8, 2, 4, 7)
    black = ~batch["observation"]["image_wrist"].any(axis=(2, 3, 4))
    np.testing.assert_array_equal(batch["observation"]["pad_mask_dict"]["image_wrist"], ~black)


# ---- copies with labels


def records(version: Path) -> list[Any]:
    import tensorflow as tf

    files = sorted(map(str, version.glob("*.tfrecord*")))
    return [tf.train.Example.FromString(one.numpy()) for one in tf.data.TFRecordDataset(files)]


def test_a_copy_has_labels_and_is_otherwise_the_same(fractal: Path, tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    source = open_source(fractal, Fields(layout="fractal"))
    done = annotate_source(source, tmp_path / "1.1.0", method="gaussian")
    assert (done.path / "annotator" / "annotator.json").is_file()
    for before, after in zip(records(fractal), records(done.path), strict=True):
        added = {key for key in after.features.feature if key not in before.features.feature}
        assert added == {"steps/rho", "steps/change_point"}
        for key in added:
            del after.features.feature[key]
        assert before == after
    for index, episode in enumerate(tfds.builder_from_directory(str(done.path)).as_dataset(split="train")):
        rho = [step["rho"] for step in episode["steps"].as_numpy_iterator()]
        np.testing.assert_array_equal(rho, done.annotation.rho[index])
    assert dataset_metadata(done.path)["annotator"]["hash"] == done.annotation.identity["hash"]
    for episode in open_source(done.path):  # which needs no fields
        assert episode.columns == source.columns
        assert episode.rho is not None and episode.change_point.dtype == bool
    page = write_report(done, tmp_path / "report.html", episodes=2).read_text()
    assert page.count("<video") + page.count("<svg") >= 2 and done.annotation.identity["hash"] in page


def test_what_is_fitted_for_a_copy_sees_the_split_train_alone(version_dir: Path, tmp_path: Path) -> None:
    from gap_vla.phases import annotate

    done = annotate_source(open_source(version_dir), tmp_path / "1.1.0", method="gaussian")
    train = [RLDS(version_dir, Fields(episodes="train")).read(i, images=False) for i in range(8)]
    assert done.annotation.identity["hash"] == annotate(train, method="gaussian").identity["hash"]
    assert [e.metadata for e in open_source(done.path)] == [e.metadata for e in open_source(version_dir)]


def test_joints_beside_the_pose_count_if_they_are_named(fractal: Path, tmp_path: Path) -> None:
    source = open_source(fractal, Fields(layout="fractal"))
    done = annotate_source(source, tmp_path / "0.2.0", method="gaussian", extra="gripper_closed")
    again = annotate_source(source, tmp_path / "0.3.0", annotator=done.annotator)
    assert done.annotation.identity["hash"] == again.annotation.identity["hash"]
    for one, other in zip(done.annotation.rho, again.annotation.rho):
        np.testing.assert_array_equal(one, other)


def test_an_existing_copy_is_kept_unless_it_may_be_replaced(version_dir: Path, tmp_path: Path) -> None:
    source, out = open_source(version_dir), tmp_path / "1.1.0"
    annotate_source(source, out, method="gaussian")
    with pytest.raises(UserError, match=r"1\.1\.0"):
        annotate_source(source, out, method="fixed")
    annotate_source(source, out, method="fixed", overwrite=True)
    assert dataset_metadata(out)["annotator"]["method"] == "fixed"
    with pytest.raises(UserError, match=f"{version_dir}"):
        annotate_source(source, version_dir, overwrite=True)


def test_the_page_of_an_episode_shows_the_rho_that_annotate_writes(bridge: Path, tmp_path: Path) -> None:
    def shown(source: Source, **how: Any) -> list[float]:
        page = show_episode(source, tmp_path / "e.html", episode=1, **how).read_text()
        return json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[0])["rho"]

    source = open_source(bridge, Fields(layout="bridge"))
    annotate_source(source, tmp_path / "1.1.0", method="gaussian")
    copy = open_source(tmp_path / "1.1.0")
    written = [round(float(rho), 4) for rho in copy.read(1).rho]
    assert shown(source, method="gaussian") == written == shown(copy)
    assert shown(source) != written  # what no file holds is found by the default method


# ---- other people's and older files


def test_datasets_of_0_1_are_poses_and_deltas() -> None:
    source = open_source(Path(__file__).parent / "rlds" / "made_by_0.1.0" / "toy" / "1.0.0")
    for episode in source:
        assert (episode.columns, episode.action_columns) == (POSE, DELTA)
        assert episode.rho is not None


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_shard_is_named(version_dir: Path, tmp_path: Path, cut: bool) -> None:
    copy = shutil.copytree(version_dir, tmp_path / "1.0.0")
    (shard,) = copy.glob("*train*")
    content = shard.read_bytes()
    shard.write_bytes(content[:-9] if cut else content[:500] + b"??" + content[502:])
    with pytest.raises(EpisodeError, match=shard.name):
        list(RLDS(copy))


def test_features_of_other_libraries_are_not_imported(version_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(version_dir, tmp_path / "1.0.0")
    text = (copy / "features.json").read_text()
    features = json.loads(text.replace("tensorflow_datasets.core.features.text_feature.Text", "os.path.Text"))
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(EpisodeError, match=r"os\.path"):
        RLDS(copy)
