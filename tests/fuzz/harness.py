"""Damage to files, and the claim that every reader answers it with whole data or one line.

A round copies a healthy file or folder, damages the copy with a numbered seed and reads it. The reader must return or
raise a `UserError` of one line; `whole` then says whether what it returned is all that the file declares. A failure
names the seed: `run(target, folder, seeds=[SEED])` repeats it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gap_vla.core.errors import UserError

LONG_SECONDS = float(os.environ.get("GAP_VLA_FUZZ_SECONDS", 1800))
"""Time of all slow fuzz tests together."""

Damage = Callable[[random.Random, Path], None]


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader under damage.

    Attributes:
        name: of the test.
        make: writes a healthy file or folder below the given folder, and returns its path.
        damages: what may happen to a copy; one is drawn per round.
        read: reads everything.
        whole: raises AssertionError unless the result is all that the (damaged) file declares.
    """

    name: str
    make: Callable[[Path], Path]
    damages: Sequence[Damage]
    read: Callable[[Path], Any]
    whole: Callable[[Any, Path], None] = lambda result, path: None


def run(target: Target, folder: Path, seeds: Iterable[int], seconds: float | None = None) -> dict[str, int]:
    """Damages and reads once per seed, or until the time is over; counts what was read and what was refused."""
    healthy = target.make(folder / "healthy")
    target.whole(target.read(healthy), healthy)
    outcomes = {"read": 0, "refused": 0}
    start = time.monotonic()
    for seed in seeds:
        if seconds is not None and time.monotonic() - start > seconds:
            break
        draw = random.Random(seed)
        copy = folder / "damaged" / healthy.name
        _copy(healthy, copy)
        draw.choice(target.damages)(draw, copy)
        outcomes[read_or_refuse(functools.partial(_read_whole, target, copy), f"{target.name}, seed {seed}")] += 1
    return outcomes


def read_or_refuse(read: Callable[[], Any], what: str) -> str:
    """`read`, or `refused` if a `UserError` of one line says so; everything else fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except UserError as error:
        assert str(error).strip() and len(str(error).splitlines()) == 1, f"{what}: not one line: {error!r}"
        return "refused"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return "read"


def _read_whole(target: Target, path: Path) -> None:
    target.whole(target.read(path), path)


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Bytes with flipped bits, cut off, with a stretch zeroed, repeated, dropped or replaced by noise."""
    if not content:
        return draw.randbytes(draw.randint(0, 64))
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice((1, 4, 16, 256)))
    kind = draw.randrange(7)
    if kind <= 1:
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 3, 20))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == 2:
        return content[:start]
    middle = {
        3: bytes(end - start),
        4: content[start:end] * 2,
        5: b"",
        6: draw.randbytes(end - start),
    }[kind]
    return content[:start] + middle + content[end:]


def damage_a_file(draw: random.Random, path: Path) -> None:
    """Bytes of one file, of the folder's if it is one; sometimes the file is emptied."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    file = draw.choice(files)
    file.write_bytes(b"" if draw.random() < 0.1 else damaged(draw, file.read_bytes()))


def remove_a_file(draw: random.Random, path: Path) -> None:
    """One file of a folder; only for formats that say how many there are."""
    draw.choice(sorted(p for p in path.rglob("*") if p.is_file())).unlink()


def damaged_json(draw: random.Random, value: Any) -> Any:
    """JSON with one place of the tree dropped or holding something of another kind."""
    strange = (None, "", "x" * 300, -1, 0, 10**30, 1.5, float("nan"), float("inf"), [], {}, [None], {"a": 1}, True)
    places = list(_places(value))
    if not places:
        return draw.choice(strange)
    holder, key = draw.choice(places)
    if draw.random() < 0.3:
        del holder[key]
    else:
        holder[key] = draw.choice(strange)
    return value


def _places(value: Any) -> Iterable[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        yield value, key
        yield from _places(part)


def _copy(healthy: Path, copy: Path) -> None:
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir(parents=True)
    if healthy.is_dir():
        shutil.copytree(healthy, copy)
    else:
        shutil.copyfile(healthy, copy)
