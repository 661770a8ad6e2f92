"""LeRobot datasets of format v2 and v3 become Episodes, whatever their index says beside the data."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gap_vla.cli.data import annotate, show_episode
from gap_vla.core.errors import EpisodeError, UserError
from gap_vla.demos import Fields, lerobot, open_source
from tests.helpers.demonstrations import assert_equal, smooth_frames, write_film, write_lerobot

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "lerobot"))
from write_tiny import recording  # noqa: E402

NAMES = {"observation.state": ["x", "y", "z", "rx", "ry", "rz", "gripper"], "action": None}
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def episode(index: int, cameras: tuple[str, ...] = (FRONT,), **more: Any) -> dict[str, Any]:
    steps, rng = 12 + index, np.random.default_rng(index)
    columns = {"observation.state": rng.random((steps, 7)), "action": rng.random((steps, 3))}
    images = {camera: smooth_frames(steps, index) for camera in cameras}
    return {"task": f"task {index}", "columns": columns, "images": images, **more}


def dataset(root: Path, number: int = 4, cameras: tuple[str, ...] = (FRONT,), **options: Any) -> Path:
    return write_lerobot(root / "set", [episode(i, cameras) for i in range(number)], NAMES, **options)


def require_read(source: Any, numbers: list[int]) -> None:
    """Each episode has its own rows, text and pictures."""
    assert [e.metadata["episode_id"] for e in source] == [str(number) for number in numbers]
    for found, number in zip(source, numbers):
        made = episode(number)
        np.testing.assert_array_equal(found.proprio, np.float32(made["columns"]["observation.state"]))
        np.testing.assert_array_equal(found.action, np.float32(made["columns"]["action"]))
        assert found.language_instruction == made["task"]
        np.testing.assert_allclose(found.images["image_primary"], made["images"][FRONT], atol=4)


@pytest.mark.parametrize("folder", ["v21_video", "v30_video", "v30_image"])
def test_what_lerobot_itself_wrote_is_read(folder: str) -> None:
    source = open_source(HERE / "lerobot" / folder)
    assert str(source.columns) == "position quat_wxyz gripper:2"
    assert str(source.action_columns) == "position rotvec gripper_01"
    for i, found in enumerate(source):
        made = recording(i)
        np.testing.assert_array_equal(found.proprio, made["state"])
        np.testing.assert_array_equal(found.action, made["action"])
        assert found.language_instruction == f"push block {i}"
        apart = np.abs(found.images["image_primary"].astype(int) - made["frames"]).mean()
        assert apart < 2 if "video" in folder else apart == 0


@pytest.mark.parametrize("options", [{"version": "v2.1"}, {"pictures": "image"}, {"files": [0, 0, 1, 1]}], ids=str)
def test_tables_films_and_texts_are_aligned(tmp_path: Path, options: dict[str, Any]) -> None:
    require_read(open_source(dataset(tmp_path, **options)), [0, 1, 2, 3])


def change_index(root: Path, change: Any) -> None:
    """Changes each row of the index of episodes."""
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(file).to_pylist()
    for row in rows:
        change(row)
    pq.write_table(type(pq.read_table(file)).from_pylist(rows), file)


def stale_file(row: dict[str, Any]) -> None:
    row["data/file_index"] = 0


def counted_anew(row: dict[str, Any]) -> None:
    row["dataset_from_index"], row["dataset_to_index"] = 0, row["length"]


def odd_window(row: dict[str, Any]) -> None:
    row[f"videos/{FRONT}/to_timestamp"] = 1e6


def overlapping_windows(row: dict[str, Any]) -> None:
    row[f"videos/{FRONT}/from_timestamp"] = 0.0


def window_in_all_films(row: dict[str, Any]) -> None:
    row[f"videos/{FRONT}/from_timestamp"] = row["dataset_from_index"] / 10


@pytest.mark.parametrize(
    ("change", "noted"),
    [
        pytest.param(stale_file, True, id="lerobot#2401"),
        pytest.param(counted_anew, False, id="lerobot#1919"),
        (odd_window, False),
        pytest.param(overlapping_windows, True, id="lerobot#2627"),
        (window_in_all_films, False),
    ],
)
def test_odd_bookkeeping_in_the_index_is_at_most_a_note(tmp_path: Path, change: Any, noted: bool) -> None:
    root = dataset(tmp_path, files=[0, 0, 1, 1])
    change_index(root, change)
    source = open_source(root)
    require_read(source, [0, 1, 2, 3])
    assert ("note:" in source.account()) == noted


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_part_of_a_dataset_may_be_here(tmp_path: Path, version: str) -> None:
    root = dataset(tmp_path, version=version, files=[0, 1, 2, 3])
    for path in ("data/chunk-000/*1.parquet", f"videos/**/{FRONT}/**/*2.mp4", f"videos/{FRONT}/**/*2.mp4"):
        for file in root.glob(path):
            file.unlink()
    source = open_source(root)
    require_read(source, [0, 3])
    assert source.account().count("left out") == 2
    require_read(open_source(root, Fields(episodes="3,1")), [3])


def test_a_camera_whose_films_are_not_here_is_left_out(tmp_path: Path) -> None:
    root = dataset(tmp_path, cameras=(FRONT, WRIST))
    for file in root.glob(f"videos/{WRIST}/**/*.mp4"):
        file.unlink()
    require_read(source := open_source(root), [0, 1, 2, 3])
    assert [*source.cameras] == ["image_primary"] and WRIST in source.account()
    with pytest.raises(EpisodeError, match=WRIST):
        open_source(root, Fields(images={"image_wrist": "wrist"}))
    assert open_source(root, Fields(images={}))[0].images == {}


def test_cameras_are_taken_by_what_they_are_on(tmp_path: Path) -> None:
    root = dataset(tmp_path, cameras=(WRIST, "observation.images.depth", FRONT), pictures="image")
    assert open_source(root).cameras == {"image_primary": FRONT, "image_wrist": WRIST}


def test_each_step_may_have_a_task_of_its_own(tmp_path: Path) -> None:
    texts = ["open"] * 5 + ["close"] * 7
    source = open_source(write_lerobot(tmp_path / "set", [episode(0, task=texts), episode(1)], NAMES))
    assert source[0].language_instruction == tuple(texts)
    assert source[1].language_instruction == "task 1"


def test_a_column_may_number_the_instructions(tmp_path: Path) -> None:
    made = [episode(i) for i in range(2)]
    for one in made:
        one["columns"]["annotation.human.task"] = np.zeros((len(one["columns"]["action"]), 1))
    root = write_lerobot(tmp_path / "set", made, NAMES)
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("annotation.human.task")
    pq.write_table(table.set_column(at, "annotation.human.task", [0 * table["task_index"].to_numpy() + 1]), file)
    source = open_source(root, Fields(instruction="annotation.human.task"))
    assert [e.language_instruction for e in source] == ["task 1", "task 1"]


@pytest.mark.parametrize(("more", "begin"), [(1, 0), (-1, 0), (-3, 0), (0, 2)])
def test_a_film_may_be_a_little_longer_shorter_or_later(tmp_path: Path, more: int, begin: int, capsys: Any) -> None:
    root = dataset(tmp_path, version="v2.1")
    frames = smooth_frames(14 + max(more, 0), 2)[: 14 + more]
    write_film(root / f"videos/chunk-000/{FRONT}/episode_000002.mp4", frames, 10, begin)
    found = open_source(root)[2].images["image_primary"]
    expected = np.concatenate([frames, frames[-1:].repeat(max(-more, 0), 0)])[:14]
    np.testing.assert_allclose(found, expected, atol=4)
    assert ("note" in capsys.readouterr().out) == (more < 0)


def test_states_of_several_features_are_joined_with_their_names(tmp_path: Path) -> None:
    columns = {"action": np.ones((9, 3)), "observation.ee": np.ones((9, 3)), "observation.hand": np.zeros(9)}
    names = {"observation.ee": ["x", "y", "z"], "observation.hand": ["gripper"]}
    root = write_lerobot(tmp_path / "set", [{"task": "", "columns": columns}], names)
    source = open_source(root, Fields(state="ee+observation.hand"))
    assert source[0].proprio.tolist() == [[1, 1, 1, 0]] * 9
    assert str(source.columns) == "position gripper_01"


def test_success_is_that_of_the_last_step(tmp_path: Path) -> None:
    made = [episode(i) for i in range(2)]
    for i, one in enumerate(made):
        one["columns"]["next.success"] = np.arange(12 + i) == (11 if i == 0 else 3)
    assert [e.success for e in open_source(write_lerobot(tmp_path / "set", made, NAMES))] == [True, False]


def test_damage_is_named_where_it_is_read(tmp_path: Path) -> None:
    root = dataset(tmp_path, version="v2.1")
    table, film = root / "data/chunk-000/episode_000001.parquet", root / f"videos/chunk-000/{FRONT}/episode_000003.mp4"
    table.write_bytes(table.read_bytes()[:700])
    write_film(film, smooth_frames(2), 10)  # of another episode
    source = open_source(root)
    assert len(source[2].images) == 1
    for number, file in ((1, table), (3, film)):
        with pytest.raises(EpisodeError, match=file.name):
            source.read(number)


def test_other_versions_are_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    with pytest.raises(EpisodeError, match=r"v1\.6"):
        open_source(root)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_labelled_copy_has_the_labels_in_its_tables(tmp_path: Path, version: str) -> None:
    source = open_source(dataset(tmp_path, version=version))
    labels = [
        {"rho": np.linspace(0, 1, len(e), dtype=np.float32), "change_point": np.arange(len(e)) == 3} for e in source
    ]
    source.write_labels(tmp_path / "out", labels, {"method": "lstm"})
    copy = open_source(tmp_path / "out")
    for found, made, own in zip(copy, source, labels):
        assert_equal(found, made.replace(**own))
    features = json.loads((tmp_path / "out/meta/info.json").read_text())["features"]
    assert features["rho"]["dtype"] == "float32" and features["change_point"]["dtype"] == "bool"


@pytest.fixture(params=["v30_image"])
def annotated(request: Any, tmp_path: Path) -> Path:
    """A folder that LeRobot itself wrote, with ρ beside its data."""
    root = shutil.copytree(HERE / "lerobot" / request.param, tmp_path / "set")
    assert not annotate([str(root), "--method", "gaussian"])
    return root


@pytest.mark.parametrize("annotated", ["v21_video", "v30_image"], indirect=True)
def test_rho_goes_beside_the_data_and_comes_back(annotated: Path, tmp_path: Path, capsys: Any) -> None:
    table, of_data = pq.read_table(annotated / "gap_rho.parquet"), pq.read_table(annotated / "data")
    assert table.column_names == ["index", "episode_index", "frame_index", "rho", "change_point"]  # no `observation.*`
    for name in ("index", "episode_index", "frame_index"):
        np.testing.assert_array_equal(table[name], of_data[name])
    source = open_source(annotated)
    np.testing.assert_array_equal(np.concatenate([e.rho for e in source]), table["rho"])
    np.testing.assert_array_equal(np.concatenate([e.change_point for e in source]), table["change_point"])
    assert not show_episode([str(annotated), "--out", str(tmp_path / "page.html")])
    assert "as it is stored" in capsys.readouterr().out


def test_a_sidecar_may_be_elsewhere_and_made_by_a_saved_annotator(annotated: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "rho.parquet"
    saved = annotated / "gap_rho.parquet.annotator"
    assert not annotate([str(annotated), "--annotator", str(saved), "--out", str(elsewhere)])
    assert pq.read_table(elsewhere).equals(pq.read_table(annotated / "gap_rho.parquet"))


def test_episodes_that_are_not_in_the_sidecar_have_no_rho(annotated: Path) -> None:
    call = [str(annotated), "--method", "gaussian", "--episodes", "1"]
    assert annotate(call) == 2
    assert not annotate([*call, "--overwrite"])
    assert [e.rho is None for e in open_source(annotated)] == [True, False]


@pytest.mark.parametrize("annotated", ["v21_video", "v30_image"], indirect=True)
def test_a_sidecar_of_another_version_of_the_dataset_is_refused(annotated: Path) -> None:
    file = sorted(annotated.glob("data/**/*.parquet"))[-1]
    table = pq.read_table(file)
    at, state = table.schema.get_field_index("observation.state"), np.stack(table["observation.state"].to_pylist())
    state[-1, 0] += 0.01
    pq.write_table(table.set_column(at, "observation.state", [state.tolist()]), file)
    lerobot._column.cache_clear()  # another process
    assert open_source(annotated)[0].rho is not None
    with pytest.raises(UserError, match=r"gap_rho\.parquet"):
        open_source(annotated)[1]
    assert not annotate([str(annotated), "--method", "gaussian", "--overwrite"])
    assert open_source(annotated)[1].rho is not None
