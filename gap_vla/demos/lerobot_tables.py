"""The parquet tables of a LeRobot dataset: rows of an episode, columns, and what is said of them.

They are read group by group and in this thread: on some damaged ones `pyarrow.parquet.read_table` waits for
ever for threads that have failed, and looking at a column's statistics ends the process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import refuse_too_large, refusing, regular
from gap_vla.demos.content import stamp


def read_rows(
    file: Path,
    columns: list[str] | None = None,
    where: tuple[str, int] | None = None,
    *,
    optional: Iterable[str] = (),
    most: int = 2**63,
) -> dict[str, list[Any]]:
    """Columns of a table as lists, and the optional ones that it has: all rows, or those `where` a column of whole
    numbers has a value. Raises EpisodeError: no such table, a damaged one, or one of more rows than `most`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    advice = "download it again"
    with (
        refusing(f"{file}: the table cannot be read", advice, EpisodeError, (pa.ArrowException,)),
        _opened(file) as table,
    ):
        refuse_too_large(file, 8 * table.metadata.num_rows, file.stat().st_size, EpisodeError)
        if (count := table.metadata.num_rows) > most:
            raise EpisodeError(f"{file}: {count} rows, the index lists {most} steps of it; download both again")
        held = table.schema_arrow.names
        names = list(dict.fromkeys([*(columns or held), *(name for name in optional if name in held)]))
        if odd := [name for name in names if held.count(name) != 1]:
            what = f"{held.count(odd[0])} columns" if odd[0] in held else "no column"
            raise EpisodeError(f"{file}: {what} {odd[0]!r}; {'keep one' if odd[0] in held else advice}")
        rows: dict[str, list[Any]] = {name: [] for name in names}
        several, seen = where is not None and table.num_row_groups > 1, stamp(file)
        spans = _spans(file, seen, where[0]) if where and several else None
        for group in range(table.num_row_groups):
            if where and spans and not spans[group][0] <= where[1] <= spans[group][1]:
                continue
            if where is None:
                part = table.read_row_group(group, columns=names, use_threads=False)
            else:
                part = _group(file, seen, group, tuple(names), where[0])
                part = part.filter(pc.equal(part[where[0]], where[1]))
            for name in names:
                rows[name] += part[name].to_pylist()
        return rows


def _opened(file: Path) -> Any:
    """A table. Of one with many parts the description is read once, as long as it stays as it is."""
    import pyarrow.parquet as pq

    path = regular(file.absolute())
    return pq.ParquetFile(path, metadata=_described(path, stamp(path)), page_checksum_verification=True)


@functools.lru_cache(maxsize=16)
def _described(file: Path, seen: tuple[int, ...]) -> Any:
    import pyarrow.parquet as pq

    return pq.read_metadata(file)


@functools.lru_cache(maxsize=16)
def _spans(file: Path, seen: tuple[int, ...], column: str) -> list[tuple[int, int]]:
    """First and last number of each row group's column: a table of many episodes may have a group of each. Raises
    EpisodeError: the rows are not in the order of that column."""
    spans: list[tuple[int, int]] = []
    with _opened(file) as table:
        for group in range(table.num_row_groups):
            values = table.read_row_group(group, columns=[column], use_threads=False)[column].to_numpy()
            _require_order(file, column, behind := np.concatenate([[one[1] for one in spans[-1:]], values]))
            spans.append((values[0], values[-1]) if len(values) else (behind[-1] + 1, behind[-1]) if spans else (0, -1))
    return spans


@functools.lru_cache(maxsize=1)
def _group(file: Path, seen: tuple[int, ...], group: int, columns: tuple[str, ...], ordered: str) -> Any:
    """The last row group that was read, as long as the file stays as it is: it may hold many episodes, or all. Raises
    EpisodeError: its rows are not in the order of a column."""
    with _opened(file) as table:
        part = table.read_row_group(group, columns=list(columns), use_threads=False)
    _require_order(file, ordered, part[ordered].to_numpy())
    return part


def _require_order(file: Path, column: str, values: np.ndarray) -> None:
    if (values[1:] < values[:-1]).any():
        raise EpisodeError(f"{file}: its rows are not in the order of {column!r}; download it again")


def columns_of(file: Path) -> dict[str, dict[str, str]]:
    """What a table says of each of its columns, in order. Raises EpisodeError: no such table, or a damaged one."""
    schema, _ = _known(file)
    return {name: _texts(schema.field(place).metadata) for place, name in enumerate(schema.names)}


def remarks_of(file: Path) -> dict[str, str]:
    """What a table says of itself. Raises EpisodeError: no such table, or a damaged one."""
    return _texts(_known(file)[1])


def _known(file: Path) -> tuple[Any, Mapping[bytes, bytes] | None]:
    import pyarrow as pa

    with refusing(f"{file}: the table cannot be read", "download it again", EpisodeError, (pa.ArrowException,)):
        path = regular(file.absolute())
        known = _described(path, stamp(path))
        return known.schema.to_arrow_schema(), known.metadata


def _texts(said: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in (said or {}).items()}
