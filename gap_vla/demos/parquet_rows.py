"""Rows of a parquet table, read group by group and in this thread.

`pyarrow.parquet.read_table` is left alone: on some damaged tables it waits for ever for threads that have failed, and
looking at a column's statistics ends the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import refuse_too_large, refusing


def read_rows(
    file: Path, columns: list[str] | None = None, where: tuple[str, int] | None = None
) -> dict[str, list[Any]]:
    """Columns of a table as lists, all rows or those in which a column of whole numbers has a value.

    Raises:
        EpisodeError: no such file, or a damaged one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    advice = "download it again"
    with (
        refusing(f"{file}: the table cannot be read", advice, EpisodeError, (pa.ArrowException,)),
        pq.ParquetFile(file) as table,
    ):
        refuse_too_large(file, 8 * table.metadata.num_rows, file.stat().st_size, EpisodeError)
        names = columns or table.schema_arrow.names
        if missing := [name for name in names if name not in table.schema_arrow.names]:
            raise EpisodeError(f"{file}: no column {missing[0]!r}; {advice}")
        rows: dict[str, list[Any]] = {name: [] for name in names}
        for group in range(table.num_row_groups):
            chosen = None
            if where is not None:
                values = table.read_row_group(group, columns=[where[0]], use_threads=False)[where[0]]
                chosen = pc.equal(values, where[1])
                if not pc.any(chosen).as_py():
                    continue
            part = table.read_row_group(group, columns=names, use_threads=False)
            part = part if chosen is None else part.filter(chosen)
            for name in names:
                rows[name] += part[name].to_pylist()
        return rows
