"""ρ beside a LeRobot dataset: `gap_rho.parquet` in its folder, a row for each annotated frame.

Its columns are `index`, `episode_index`, `frame_index`, `rho` and `change_point`. No column is called `observation.*`,
which LeRobot would make an input of the policy. LeRobot numbers `index` and `episode_index` anew where datasets are
merged or episodes are deleted. So the file has a hash of each episode's frames.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.files import replacing

NAME = "gap_rho.parquet"
METADATA = b"gap_rho"
"""The key of the schema's metadata. Its JSON has `annotator` (its identity), `state` (the names of the hashed columns)
and `frames` (`episode_index` to hash)."""


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """What a file holds.

    Attributes:
        state: names of the columns of the state that were hashed.
        frames: of each annotated episode the hash of its frames.
        rows: of each annotated episode its first row and the row behind its last one.
        rho, change_point: all rows, float32 and bool.
    """

    state: Sequence[str]
    frames: Mapping[int, str]
    rows: Mapping[int, tuple[int, int]]
    rho: np.ndarray
    change_point: np.ndarray


def frames_hash(frame_index: np.ndarray, state: Sequence[np.ndarray]) -> str:
    """A hash of an episode's frames: their numbers, and the columns of the state [T, width]."""
    total = hashlib.sha256(np.ascontiguousarray(frame_index, np.int64).tobytes())
    for rows in state:
        total.update(np.ascontiguousarray(rows, np.float32).tobytes())
    return total.hexdigest()[:16]


def write(
    path: Path,
    columns: Mapping[str, np.ndarray],
    annotator: Mapping[str, Any],
    state: Sequence[str],
    frames: Mapping[int, str],
) -> None:
    """Writes a sidecar, whole or not at all; the rows of an episode stand together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {"annotator": dict(annotator), "state": list(state), "frames": frames}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with replacing(path) as new:
        pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(about)}), new)


def read(path: Path) -> Sidecar | None:
    """The sidecar at `path`; None if there is none."""
    return _read(path, path.stat().st_mtime_ns) if path.exists() else None


@functools.lru_cache(maxsize=4)
def _read(path: Path, written: int) -> Sidecar:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[METADATA])
    numbers, firsts, counts = np.unique(table["episode_index"].to_numpy(), return_index=True, return_counts=True)
    return Sidecar(
        state=about["state"],
        frames={int(number): text for number, text in about["frames"].items()},
        rows={int(number): (int(first), int(first + n)) for number, first, n in zip(numbers, firsts, counts)},
        rho=table["rho"].to_numpy(),
        change_point=table["change_point"].to_numpy(),
    )
