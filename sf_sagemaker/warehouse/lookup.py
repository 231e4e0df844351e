"""Columns of the source that a dataset doesn't hold, for rows that it does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sf_sagemaker.warehouse.catalog import find_columns
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.selection import select_rows
from sf_sagemaker.warehouse.warehouse import Warehouse, quote

_BATCH_ROWS = 50_000

Key = tuple[Any, ...]


def look_up(
    warehouse: Warehouse,
    spec: DatasetSpec,
    columns: Sequence[str],
    keys: Collection[Key],
    start: datetime,
    end: datetime,
    *,
    timezone: str = "UTC",
) -> dict[Key, tuple[str | None, ...]]:
    """The columns' values, as the warehouse writes them, by row key, of events in [start, end).

    Keys are values of the row key's columns, as a dataset holds them. A row that the source has no more is
    not in the answer; where it has several of a key by now, their values follow one another. Raises
    ColumnNotFound, AmbiguousName, what `select_rows` raises, and what sessions of the warehouse raise.
    """
    wanted = set(keys)
    found: dict[Key, tuple[str | None, ...]] = {}
    with warehouse.reading() as session:
        selection = select_rows(session, spec, timezone)
        table = selection.table
        sources = find_columns(columns, table.columns, str(table))
        text = session.dialect.text
        types = {column.name: column.type for column in selection.columns}
        key_names = [name.lower() for name in spec.row_key]
        selected = [
            *(
                f"cast({selection.source(name)} as {types[name]}) as {quote(f'key_{i}')}"
                for i, name in enumerate(key_names)
            ),
            *(
                f"cast({quote(sources[name].name)} as {text}) as {quote(f'value_{i}')}"
                for i, name in enumerate(columns)
            ),
        ]
        sql = (
            f"select {', '.join(selected)} from {table.sql} as source "
            f"where {selection.in_interval(start, end)}"
        )
        for batch in session.batches(sql, _BATCH_ROWS):
            values = [column.to_pylist() for column in batch.columns]
            for row in zip(*values, strict=True):
                key = row[: len(key_names)]
                if key in wanted:
                    found[key] = found.get(key, ()) + row[len(key_names) :]
    return found
