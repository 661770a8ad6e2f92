"""`scripts/build_dataset.py` and `tfds build` end to end, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_demos import make_episode, write_robomimic

from gap_vla.rlds import dataset_metadata, read_rlds

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    return write_robomimic(folder / "d.hdf5", [make_episode(i, annotated=False) for i in range(6)])


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_build_dataset_annotates_writes_and_reuses(file: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "build_dataset.py"
    command = (script, file, "--name", "my_task", "--data-dir", tmp_path, "--method", "gaussian", "--workers", 1)
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    path = tmp_path / "my_task" / "1.0.0"
    assert f"dataset: {path}" in first.stdout
    episodes = list(read_rlds(path, "train"))
    assert all(e.rho is not None and np.ptp(e.rho) > 0 for e in episodes)
    assert dataset_metadata(path)["annotator"]["method"] == "gaussian"
    assert list((path / "annotator").iterdir())
    stamp = (path / "metadata.json").stat().st_mtime_ns
    assert run(*command, cwd=tmp_path).returncode == 0
    assert (path / "metadata.json").stat().st_mtime_ns == stamp
    other = run(*command[:-4], "--method", "fixed", cwd=tmp_path)
    assert other.returncode == 1 and "gaussian → fixed" in other.stderr and "Traceback" not in other.stderr


def test_dry_run_shows_mapping_and_picture_and_writes_no_dataset(file: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "build_dataset.py"
    shown = run(script, file, "--name", "my_task", "--method", "gaussian", "--dry_run", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr[-2000:]
    for line in (
        "6 episodes",
        "image_primary: uint8 16x16x3  <- obs/agentview_image",
        "steps/rho: float32 scalar  <- annotator",
        "dropped: obs/object",
    ):
        assert line in shown.stdout, shown.stdout
    assert Image.open(tmp_path / "my_task_dry_run.png").size[0] > 400
    assert not (tmp_path / "data").exists()


BUILD = """
import sys, tensorflow_datasets as tfds
import importlib.util
spec = importlib.util.spec_from_file_location("threading_dataset_builder", "threading_dataset_builder.py")
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
builder = module.Threading(data_dir=sys.argv[1])
builder.download_and_prepare()
print(builder.info.splits["train"].num_examples, len(list(builder.as_dataset(split="val"))))
"""


def test_a_builder_folder_makes_the_same_dataset(file: Path, tmp_path: Path) -> None:
    folder = ROOT / "rlds_builders" / "threading"
    missing = run("-c", BUILD, tmp_path, cwd=folder)
    assert missing.returncode != 0 and "no demonstrations; set GAP_VLA_SOURCE" in missing.stderr
    built = run("-c", BUILD, tmp_path, cwd=folder, GAP_VLA_SOURCE=str(file))
    assert built.returncode == 0, built.stderr[-2000:]
    assert built.stdout.split() == ["5", "1"]
    assert all(e.rho is not None for e in read_rlds(tmp_path / "threading" / "1.0.0", "train"))


@pytest.mark.skipif(not find_spec("apache_beam"), reason="the tfds command itself needs apache-beam")
def test_tfds_build_works_in_a_builder_folder(file: Path, tmp_path: Path) -> None:
    folder = ROOT / "rlds_builders" / "threading"
    command = ("-m", "tensorflow_datasets.scripts.cli.main", "build", "--data_dir", tmp_path)
    built = run(*command, cwd=folder, GAP_VLA_SOURCE=str(file))
    assert built.returncode == 0, built.stderr[-2000:]
    assert len(list(read_rlds(tmp_path / "threading" / "1.0.0", "train"))) == 5
