"""Damaged demonstrations of every format are read whole or refused in one line."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import LONG_SECONDS, Target, damage_a_file, damaged_json, remove_a_file, run
from synthetic_demos import make_episode, write_robomimic

from gap_vla.core.episode import Episode
from gap_vla.demos import open_source

EPISODES = 2


def _episode(index: int) -> Episode:
    return make_episode(index, steps=6 + index, size=4, annotated=False)


def _whole(*lengths: int) -> Callable[[list[Episode], Path], None]:
    def check(episodes: list[Episode], _: Path) -> None:
        assert len(episodes) == len(lengths)
        for steps, episode in zip(lengths, episodes):
            assert {len(v) for v in (episode.proprio, episode.action, *episode.images.values())} == {steps}
            assert np.isfinite(episode.proprio).all() and np.abs(episode.action).max() < 1e6

    return check


def _hdf5(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return write_robomimic(folder / "demos.hdf5", [_episode(i) for i in range(EPISODES)])


def _members(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def _opaque(group: h5py.Group, name: str) -> None:
    """Eight bytes that h5py would take for the address of an object."""
    kind = h5py.h5t.create(h5py.h5t.OPAQUE, 8)
    kind.set_tag(b"NUMPY:|O")
    h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple((6,)))


def damage_hdf5_members(draw: random.Random, path: Path) -> None:
    """One member or attribute removed, linked elsewhere, or of another kind, shape or value."""
    with h5py.File(path, "r+") as file:
        name = draw.choice(_members(file))
        parent, _, last = name.rpartition("/")
        group, old = file[parent or "/"], file[name]
        steps = draw.choice((0, 1, 6))
        strange = h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/etc/passwd", "/x")
        new: Any = draw.choice(
            (
                None, "group", "opaque", "huge", "attribute", "nan", np.float64(1), b"text", np.zeros(steps),
                h5py.Empty("f"),
                *strange, np.zeros((6, 2)), np.full((6, 4), 1e308), np.full((6, 7), 127.0), np.array([b"a"] * 6),
                np.zeros((6, 4), complex),
            )
        )  # fmt: skip
        if isinstance(new, str) and new == "nan" and isinstance(old, h5py.Dataset) and old.dtype.kind == "f":
            old[draw.randrange(len(old))] = np.nan
        elif isinstance(new, str) and new == "attribute":
            owner = draw.choice([file["data"], old])
            key = draw.choice([*owner.attrs, "success", "num_samples", "language_instruction"])
            owner.attrs[key] = draw.choice([b"False", "perhaps", np.nan, np.zeros(3), -1, b"\xff\xfe", h5py.Empty("f")])
        else:
            del group[last]
            if isinstance(new, str):
                {
                    "group": lambda: group.create_group(last),
                    "opaque": lambda: _opaque(group, last),
                    "huge": lambda: group.create_dataset(last, (2**40, 9), "f8", chunks=(64, 9)),
                }.get(new, lambda: None)()
            elif new is not None:
                group[last] = new


def _npz(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for index in range(EPISODES):
        np.savez_compressed(folder / f"demo_{index}.npz", **_arrays(_episode(index)), success=np.bool_(True))
    return folder


def _arrays(episode: Episode) -> dict[str, Any]:
    return {**episode.images, "proprio": episode.proprio, "action": episode.action, "phase": episode.phase}


def damage_npz_arrays(draw: random.Random, path: Path) -> None:
    """One array removed or of another kind, shape or value, or one whose header declares the impossible."""
    file = draw.choice(sorted(path.iterdir()))
    with np.load(file) as stored:
        arrays = dict(stored)
    name = draw.choice(sorted(arrays))
    kind = draw.choice(("gone", "other", "other", "value", "header", "objects"))
    if kind == "gone":
        del arrays[name]
    elif kind == "value" and arrays[name].dtype.kind == "f":
        arrays[name][0, 0] = draw.choice((np.nan, 1e30, -127))
    elif kind == "other":
        arrays[name] = draw.choice(
            (np.zeros(0), np.zeros((0, 9)), np.zeros((6, 0)), np.full((6, 9), 1e308), np.float64(1), np.array("False"),
             np.zeros((6, 9), complex), np.array(["a"] * 6), np.zeros((7, 9), np.int64),
             np.zeros((6, 4, 4, 3), np.uint8))
        )  # fmt: skip
    np.savez_compressed(file, **arrays)
    if kind in ("header", "objects"):
        shape = draw.choice((b"(6, 10**12, )", b"(99999999999, 99999)", b"(-1, 9)", b"(6, 9, ", b"()"))
        kind_of = draw.choice((b"'<f4'", b"'|O'", b"'V8'"))
        header = b"{'descr': %b, 'fortran_order': False, 'shape': %b}" % (kind_of, shape)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(
                "proprio.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(216)
            )


def _pickles(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "all.pkl").write_bytes(pickle.dumps([_arrays(_episode(i)) for i in range(EPISODES)], 4))
    return folder / "all.pkl"


def _lerobot(version: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return Path(shutil.copytree(Path(__file__).parents[1] / "data" / "lerobot" / version, folder / version))

    return make


def damage_lerobot_json(draw: random.Random, path: Path) -> None:
    file = draw.choice([path / "meta" / "info.json", *(path / "meta").glob("episodes.jsonl")])
    if file.suffix == ".json":
        file.write_text(json.dumps(damaged_json(draw, json.loads(file.read_text()))))
        return
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    place = draw.randrange(len(lines))
    lines[place] = damaged_json(draw, lines[place])
    file.write_text("\n".join(json.dumps(line) for line in lines))


def damage_lerobot_tables(draw: random.Random, path: Path) -> None:
    """A column removed, or with other values."""
    file = draw.choice(sorted(path.rglob("*.parquet")))
    columns = pq.read_table(file).to_pydict()
    name = draw.choice(sorted(columns))
    count = len(columns[name])
    new = draw.choice(
        (None, [None] * count, ["x"] * count, [[1.0]] * count, [[]] * count, [1e308] * count, [b""] * count)
    )
    if new is None:
        del columns[name]
    else:
        columns[name] = new
    pq.write_table(pa.table(columns), file)


def _read(kind: str, images: bool = True, **options: Any) -> Callable[[Path], list[Episode]]:
    def read(path: Path) -> list[Episode]:
        source = open_source(path, kind, **options)
        return list(source) if images else source.without_images()

    return read


OURS = _whole(6, 7)
THEIRS = _whole(12, 9)
LEROBOT = (damage_a_file, remove_a_file, damage_lerobot_json, damage_lerobot_tables)

TARGETS: list[tuple[Target, int]] = [
    (Target("hdf5 bytes", _hdf5, [damage_a_file], _read("robomimic_hdf5"), OURS), 50),
    (Target("hdf5 members", _hdf5, [damage_hdf5_members], _read("robomimic_hdf5"), OURS), 30),
    (Target("npz", _npz, [damage_a_file, damage_npz_arrays], _read("npz"), OURS), 60),
    (Target("pickle", _pickles, [damage_a_file], _read("pickle", state_key="proprio"), OURS), 60),
    (Target("lerobot 2", _lerobot("v21_video"), LEROBOT, _read("lerobot", images=False), THEIRS), 25),
    (Target("lerobot 3", _lerobot("v30_image"), LEROBOT, _read("lerobot"), THEIRS), 25),
]


@pytest.mark.parametrize(("target", "rounds"), TARGETS, ids=lambda value: getattr(value, "name", ""))
def test_damage_is_refused_or_harmless(target: Target, rounds: int, tmp_path: Path) -> None:
    outcomes = run(target, tmp_path, range(rounds))
    assert outcomes["refused"] > rounds / 10, outcomes  # or the damage says little


@pytest.mark.slow
@pytest.mark.parametrize("target", [target for target, _ in TARGETS], ids=lambda target: target.name)
def test_much_damage_is_refused_or_harmless(target: Target, tmp_path: Path) -> None:
    run(target, tmp_path, range(10_000, 10**9), LONG_SECONDS / 2 / len(TARGETS))
