"""Damaged demonstrations of every format are read whole or refused in one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from harness import LONG_SECONDS, Target, damage_a_file, run
from synthetic_demos import make_episode, write_robomimic

from gap_vla.demos import open_source
from gap_vla.episode import Episode

EPISODES = 2


def _episode(index: int) -> Episode:
    return make_episode(index, steps=6 + index, size=4, annotated=False)


def _is_whole(episodes: list[Episode]) -> None:
    assert len(episodes) == EPISODES
    for index, episode in enumerate(episodes):
        steps = {len(value) for value in (episode.proprio, episode.action, *episode.images.values())}
        assert steps == {len(_episode(index))}
        assert np.isfinite(episode.proprio).all() and np.abs(episode.action).max() <= 1.001


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


def _read(kind: str, **options: Any) -> Any:
    return lambda path: list(open_source(path, kind, **options))


TARGETS: list[tuple[Target, int]] = [
    (Target("hdf5 bytes", _hdf5, [damage_a_file], _read("robomimic_hdf5"), lambda e, _: _is_whole(e)), 300),
    (Target("hdf5 members", _hdf5, [damage_hdf5_members], _read("robomimic_hdf5"), lambda e, _: _is_whole(e)), 200),
]


@pytest.mark.parametrize(("target", "rounds"), TARGETS, ids=lambda value: getattr(value, "name", ""))
def test_damage_is_refused_or_harmless(target: Target, rounds: int, tmp_path: Path) -> None:
    outcomes = run(target, tmp_path, range(rounds))
    assert outcomes["refused"] > rounds / 10, outcomes  # or the damage says little


@pytest.mark.slow
@pytest.mark.parametrize("target", [target for target, _ in TARGETS], ids=lambda target: target.name)
def test_much_damage_is_refused_or_harmless(target: Target, tmp_path: Path) -> None:
    run(target, tmp_path, range(10_000, 10**9), LONG_SECONDS / 2 / len(TARGETS))
