"""`build_dataset.py --dry_run` of every kind says where each field comes from and draws the first episode with ρ."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import typing
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from synthetic_demos import make_episode, write_robomimic

import gap_vla.cli.build_dataset
from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source
from gap_vla.demos.source import READERS, reader_class
from gap_vla.rlds.convert import dry_run

ROOT = Path(__file__).parents[2]


def npz(folder: Path) -> Path:
    for i in range(2):
        episode = make_episode(i, annotated=False)
        columns = {"proprio": episode.proprio, "action": episode.action, "torque": np.zeros((len(episode), 7))}
        columns |= {"late": np.zeros(3)} if i else {}
        np.savez(folder / f"demo_{i}.npz", image_primary=episode.images["image_primary"], **columns)
    return folder


def pickles(folder: Path) -> Path:
    recordings = [make_episode(i, annotated=False) for i in range(2)]
    plain = [
        {"state": e.proprio, "action": e.action, "image": e.images["image_primary"], "reset": 1} for e in recordings
    ]
    plain[1]["late"] = 1
    (folder / "all.pkl").write_bytes(pickle.dumps([{k: np.asarray(v) for k, v in one.items()} for one in plain]))
    return folder / "all.pkl"


def robomimic(folder: Path) -> Path:
    return write_robomimic(folder / "d.hdf5", [make_episode(i, annotated=False) for i in range(2)])


def lerobot(_: Path) -> Path:
    return ROOT / "tests" / "data" / "lerobot" / "v30_video"


EXPECTED = {
    "robomimic_hdf5": (
        robomimic,
        (),
        ["image_primary: uint8 16x16x3  <- obs/agentview_image", "not taken: attribute model_file, dones, obs/object"],
    ),
    "npz": (npz, (), ["proprio: float32 9  <- proprio", "not taken: late, torque\n", "''  (none; give one"]),
    "pickle": (
        pickles,
        ('image_keys={"image": "image_primary"}',),
        ["image_primary: uint8 16x16x3  <- image", "not taken: late, reset\n"],
    ),
    "lerobot": (lerobot, (), ["image_primary: uint8 64x64x3  <- observation.images.front", "'push block 0'"]),
}


@pytest.mark.usefixtures("blank_charts")
@pytest.mark.parametrize("kind", EXPECTED)
def test_dry_run_of_every_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, reader, lines = EXPECTED[kind]
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    before = sorted(p for p in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    options = [word for option in reader for word in ("--reader", option)]
    labels = ["--method", "fixed", "--workers", "1"]
    command = [str(source), "--kind", kind, "--name", "look", *labels, "--dry_run", *options]
    assert gap_vla.cli.build_dataset.main(command) == 0
    shown = capsys.readouterr().out
    for line in lines:
        assert line in shown, shown
    assert "task_index" not in shown
    assert sorted(p for p in tmp_path.rglob("*")) == sorted([*before, tmp_path / "look_dry_run.png"])


@pytest.mark.parametrize("kind", ["robomimic_hdf5", "npz", "pickle"])
@pytest.mark.parametrize(
    ("differs", "message"),
    [
        (
            "size",
            "pictures are image_primary 8x8.*, the first episode's image_primary 16x16.*; a dataset has",
        ),
        ("type", r"float32\[.*not uint8\[T, h, w, 3\]"),
        ("action", "action_dim is 14, the first episode has 7; a dataset has one layout"),
    ],
)
def test_a_dry_run_refuses_what_the_conversion_would(kind: str, differs: str, message: str, tmp_path: Path) -> None:
    make, reader, _ = EXPECTED[kind]
    source = make(tmp_path)

    def changed(arrays: dict[str, np.ndarray], action: str, *cameras: str) -> dict[str, np.ndarray]:
        half = {camera: arrays[camera][:, ::2, ::2] for camera in cameras}
        floats = {camera: arrays[camera] / np.float32(255) for camera in cameras}
        return {"size": half, "type": floats, "action": {action: np.tile(arrays[action], 2)}}[differs]

    if kind == "npz":
        file = source / "demo_1.npz"
        with np.load(file) as held:
            arrays = dict(held)
        np.savez(file, **arrays | changed(arrays, "action", "image_primary"))
    elif kind == "pickle":
        recordings = pickle.loads(source.read_bytes())
        recordings[1] |= changed(recordings[1], "action", "image")
        source.write_bytes(pickle.dumps(recordings))
    else:
        names = ["obs/agentview_image", "obs/robot0_eye_in_hand_image"]
        with h5py.File(source, "a") as file:
            demo = file["data/demo_1"]
            for name, value in changed({n: demo[n][()] for n in ("actions", *names)}, "actions", *names).items():
                del demo[name]
                demo[name] = value
    options = {"image_keys": {"image": "image_primary"}} if reader else {}
    if (kind, differs) == ("robomimic_hdf5", "action"):
        message = "divide|" + message
    with pytest.raises(EpisodeError, match=message):
        dry_run(open_source(source, kind, **options), tmp_path / "look.png", method="none")
    assert not (tmp_path / "look.png").exists()


def test_an_option_that_the_reader_has_not_is_not_recommended(tmp_path: Path) -> None:
    root = Path(shutil.copytree(lerobot(tmp_path), tmp_path / "in"))
    for file in root.glob("meta/episodes/**/*.parquet"):
        rows = pq.ParquetFile(file).read()
        empty = pa.array([[] for _ in range(len(rows))], pa.list_(pa.string()))
        pq.write_table(rows.set_column(rows.column_names.index("tasks"), "tasks", empty), file)
    for file in root.glob("data/**/*.parquet"):
        pq.write_table(pq.ParquetFile(file).read().drop_columns("task_index"), file)
    described = root / "meta" / "info.json"
    info = json.loads(described.read_text())
    del info["features"]["task_index"]
    described.write_text(json.dumps(info))
    shown = dry_run(open_source(root, "lerobot"), tmp_path / "look.png", method="fixed", workers=1)
    assert "steps/language_instruction: ''  (none)\n" in shown
    picture = np.asarray(Image.open(tmp_path / "look.png"))
    assert (picture[..., :3] == (199, 219, 250)).all(-1).any(), "the area below rho is drawn"


def test_the_page_names_every_option_of_every_reader() -> None:
    rows = re.findall(r"\n\| `(\w+)` \|.*\| (.*) \|", (ROOT / "docs" / "RLDS.md").read_text())
    named = {kind: sorted(re.findall("`([a-z_]+)`", options)) for kind, options in rows if kind in READERS}
    hints = {kind: typing.get_type_hints(reader_class(kind).__init__) for kind in READERS}
    assert named == {kind: sorted({*of} - {"path", "return"}) for kind, of in hints.items()}


def test_a_dry_run_names_what_lies_beside_as_the_conversion_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "npz").mkdir()
    source = open_source(npz(folder), "npz")
    (folder / "demo_2.csv").write_text("lost")
    dry_run(source, tmp_path / "dry.png", method="none")
    assert f"note: demo_2.csv of {folder} is not read, nor anything else but the npz" in capsys.readouterr().out
