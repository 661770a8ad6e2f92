"""A limit reached or a kill at a random moment leaves nothing half-written, and the same command finishes the work."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from runner import Runner
from synthetic_demos import make_episode, write_robomimic

from gap_vla.core.episode import EpisodeError
from gap_vla.core.resources import ResourceError
from gap_vla.rlds import DatasetError, EpisodeStore, build_dataset, read_rlds, write_rlds
from gap_vla.rlds.annotating import annotate_files


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to make files longer, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Python 3.11 would keep what is not whole
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = bytecode


def leftovers(home: Path) -> list[str]:
    return [p.name for p in home.iterdir() if not p.name.startswith(".")] if home.exists() else []


def test_writing_says_that_the_disk_is_full_and_goes_on_later(tmp_path: Path) -> None:
    episodes = [make_episode(i, steps=20, size=32) for i in range(3)]
    with files_of_at_most(20_000), pytest.raises(DatasetError, match=r"no space left.*same command again: finished"):
        write_rlds(episodes, tmp_path, "toy")
    assert leftovers(tmp_path / "toy") == []
    path = write_rlds(episodes, tmp_path, "toy")
    clean = write_rlds(episodes, tmp_path / "clean", "toy")
    (tmp_path / "usual").mkdir()
    assert path.stat().st_mode & 0o777 == (tmp_path / "usual").stat().st_mode & 0o777 != 0o700
    assert all(p.read_bytes() == (clean / p.name).read_bytes() for p in path.iterdir())


def test_a_kept_shard_whose_numbers_were_damaged_is_written_again(tmp_path: Path, monkeypatch) -> None:
    episodes = [make_episode(i, steps=20, size=8) for i in range(3)]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("gap_vla.rlds.builder.describe", Mock(side_effect=KeyboardInterrupt))
        write_rlds(episodes, tmp_path, "toy", val_fraction=0)
    (kept,) = (tmp_path / "toy").glob(".1.0.0.partial/*.npz")
    assert kept.parent.stat().st_mode & 0o077 == 0  # what is not finished may be of a private dataset
    content = bytearray(kept.read_bytes())
    content[len(content) // 3] ^= 1  # among the actions
    kept.write_bytes(content)
    path = write_rlds(episodes, tmp_path, "toy", val_fraction=0)
    clean = write_rlds(episodes, tmp_path / "clean", "toy", val_fraction=0)
    assert all(p.read_bytes() == (clean / p.name).read_bytes() for p in path.iterdir())


def test_annotating_says_that_the_disk_is_full_and_blames_no_source(tmp_path: Path) -> None:
    file = write_robomimic(tmp_path / "d.hdf5", [make_episode(i, annotated=False) for i in range(2)])
    with files_of_at_most(20_000), pytest.raises(DatasetError, match=rf"^no space left on the disk of {tmp_path}/out"):
        annotate_files(file, tmp_path / "out" / "o.hdf5", method="fixed")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_copy_that_the_disk_cannot_hold_is_refused_before_phases_are_looked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("gap_vla.core.resources.free_disk", lambda folder: 100)
    file = write_robomimic(tmp_path / "d.hdf5", [make_episode(0, annotated=False)])
    with pytest.raises(
        ResourceError, match=r"of disk in .* are needed \(the copy .* are free; free some, or name another disk"
    ):
        annotate_files(file, tmp_path / "out" / "o.hdf5", method="fixed")
    assert not (tmp_path / "out").exists()


def test_a_store_says_that_the_disk_is_full(version_dir: Path, tmp_path: Path) -> None:
    with files_of_at_most(20_000), pytest.raises(DatasetError, match=r"no space left.*nothing of the store is left"):
        EpisodeStore.build(version_dir, tmp_path / "store")
    assert leftovers(tmp_path) == [] and not (tmp_path / ".store.partial").exists()
    assert EpisodeStore.build(version_dir, tmp_path / "store").splits


KILLED = """
import os, random, shutil, signal, sys
from pathlib import Path
import tensorflow, tensorflow_datasets
from gap_vla.demos import open_source
from gap_vla.rlds import build_dataset, shards
shards.MAX_EPISODES_PER_SHARD = 2
source, home = Path(sys.argv[1]), Path(sys.argv[2])

def convert(die_after=0):
    '''In a child process, which is killed at its `die_after`-th function call or return; returns its status.'''
    child = os.fork()
    if not child:
        events = 0
        def count(frame, event, argument):
            nonlocal events
            events += 1
            if events == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        build_dataset(open_source(source), home, "toy", method="none", workers=1)
        sys.setprofile(None)
        (home / "events").write_text(str(events))
        os._exit(0)
    return os.waitpid(child, 0)[1]

assert convert() == 0
total = int((home / "events").read_text())
clean = {p.name: p.read_bytes() for p in (home / "toy/1.0.0").iterdir() if p.is_file()}
chance = random.Random(int(sys.argv[3]))
for moment in [chance.randrange(1, total) for _ in range(int(sys.argv[4]))]:
    shutil.rmtree(home / "toy")
    assert convert(moment) == signal.SIGKILL
    finished = home / "toy" / "1.0.0"
    assert not finished.exists() or (finished / "metadata.json").exists()
    assert convert() == 0, moment
    found = {p.name: p.read_bytes() for p in finished.iterdir() if p.is_file()}
    assert found == clean, (moment, sorted(found), sorted(clean))
    assert not list((home / "toy").glob(".1.0.0.partial")), moment
print("survived", total)
"""


def test_a_kill_at_any_moment_is_survived(runner: Runner, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    file = write_robomimic(tmp_path / "d.hdf5", [make_episode(i, annotated=False) for i in range(6)])
    (tmp_path / "data").mkdir()
    run = runner.run(script, [str(file), str(tmp_path / "data"), "0", "2"], tmp_path, limit=600)
    assert run.status == 0, run.stderr[-3000:]
    assert "survived" in run.stdout


def test_demonstrations_of_no_steps_are_named(tmp_path: Path) -> None:
    import h5py
    import numpy as np

    file = write_robomimic(tmp_path / "d.hdf5", [make_episode(i, annotated=False) for i in range(3)])
    with h5py.File(file, "a") as stored:
        demo = stored["data/demo_1"]
        for name in ("actions", "obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos"):
            width = demo[name].shape[1]
            del demo[name]
            demo[name] = np.zeros((0, width))
        stored["data"].attrs["total"] -= demo.attrs["num_samples"]
        demo.attrs["num_samples"] = 0
    with pytest.raises(ValueError, match=r"d.hdf5, episode demo_1: .*(0 steps|no steps|empty)"):
        build_dataset(file, tmp_path / "data", "toy", method="fixed", workers=1)
    assert leftovers(tmp_path / "data" / "toy") == []


def test_a_shard_that_did_not_reach_the_disk_whole_is_noticed_before_the_old_dataset_goes(tmp_path):
    episodes = [make_episode(i) for i in range(4)]
    old = write_rlds(episodes[:2], tmp_path, "toy", identity={"of": "two"})

    def lose_a_record(directory: Path) -> None:
        shard = directory / "toy-train.tfrecord-00000-of-00001"
        shard.write_bytes(shard.read_bytes()[:-40])

    said = r"1\.0\.0 did not arrive whole on the disk, .* \(.*tfrecord.* is truncated or damaged.*\); give the same"
    with pytest.raises(EpisodeError, match=said):
        write_rlds(episodes, tmp_path, "toy", identity={"of": "four"}, overwrite=True, companion=lose_a_record)
    assert sum(1 for split in ("train", "val") for _ in read_rlds(old, split)) == 2
