"""The role of a warehouse: where rows come from, what its SQL looks like, how it exports them.

Everything that differs between DuckDB and Snowflake is behind `Dialect` and `Session`; sampling,
validation, export and landing are written once against them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sf_sagemaker.storage import Storage

if TYPE_CHECKING:
    import pyarrow

Family = Literal[
    "integer", "decimal", "float", "boolean", "text", "date", "timestamp", "zoned", "other"
]

# Columns that a staged table carries beside a dataset's own.
SPLIT = "__split"
SHARD = "__shard"
ORDER = "__order"


@dataclass(frozen=True)
class SourceColumn:
    """A column as the warehouse stores it: exact name, and type in the warehouse's language."""

    name: str
    data_type: str


@dataclass(frozen=True)
class TableVersion:
    """One version of a table's rows: what a query puts behind the table's name, and its moment."""

    clause: str
    moment: str


class Dialect(Protocol):
    """How one warehouse writes what SQL doesn't settle. Expressions in, expressions out."""

    @property
    def float32(self) -> str: ...
    @property
    def double(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def integer(self) -> str: ...
    @property
    def date(self) -> str: ...
    @property
    def timestamp(self) -> str: ...

    @property
    def fingerprint_algorithm(self) -> str:
        """Names what `row_hashes` computes, with the version of whatever computes it."""
        ...

    def row_hashes(self, columns: Sequence[str]) -> tuple[str, str]:
        """Two independent integer hashes of a row, each of 64 bits."""
        ...

    def family(self, data_type: str) -> Family:
        """What kind of values a type holds."""
        ...

    def text_literal(self, value: str) -> str:
        """A quoted string that no content can end early."""
        ...

    def time_literal(self, moment: datetime, family: Family) -> str:
        """A literal to compare with a column of that family; `moment` is aware for family zoned."""
        ...

    def date_text(self, expression: str) -> str:
        """A date as YYYY-MM-DD."""
        ...

    def local_time(self, expression: str, timezone: str) -> str:
        """A zoned timestamp as the wall clock of `timezone` shows it, without a zone."""
        ...

    def sort_key(self, hexadecimal: str) -> str:
        """What sorts as the first 64 bits of a hexadecimal text do, in the fewest bytes."""
        ...

    def not_a_number(self, expression: str) -> str:
        """Whether a floating-point value is NaN."""
        ...

    def created_name(self, name: str) -> str:
        """The name under which a new object is created, in the case its owners expect."""
        ...

    def information_schema(self, database: str | None) -> str:
        """The information schema that lists a database's columns; None is the current one."""
        ...


class Session(Protocol):
    """A connection. Statements raise QueryFailed with the warehouse's own words."""

    @property
    def dialect(self) -> Dialect: ...

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing for what is written."""
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """What is read within comes from one state of the warehouse, by itself where transactions
        are snapshots, or else for tables that are read at their `version_of`."""
        ...

    def execute(self, sql: str) -> None: ...

    def rows(self, sql: str) -> list[tuple[Any, ...]]: ...

    def arrow(self, sql: str) -> pyarrow.Table: ...

    def batches(self, sql: str, rows: int) -> Iterator[pyarrow.RecordBatch]:
        """The rows of a query in parts of up to `rows`, few of which are in memory at a time."""
        ...

    def describe(self, select: str) -> tuple[SourceColumn, ...]:
        """The columns that a query gives."""
        ...

    def version_of(self, database: str, schema: str, name: str) -> TableVersion | None:
        """The version that a relation, exactly named, has now, so that several queries read the same.

        None for a view, for a table whose earlier versions aren't kept, and for a warehouse whose
        transactions are snapshots already.
        """
        ...

    def last_altered(self, database: str, schema: str, name: str) -> datetime | None:
        """When a relation, exactly named, changed last, in UTC; None where nothing records it."""
        ...

    def export(
        self, staged: str, columns: Sequence[str], storage: Storage, folder: str, shards: int
    ) -> str | None:
        """Writes a staged table's `columns` to `<folder>/<split>/shard=NNN/*.parquet`.

        The staged table also has SPLIT, SHARD and ORDER. Every split and shard gets a file, an
        empty one where it has no rows; within a file, rows are in the order of ORDER where the
        warehouse can. Returns the warehouse's id of the statement, where it has one.

        Raises ExportFailed when the files can't be written.
        """
        ...

    def file_columns(self, file: Path) -> tuple[SourceColumn, ...]:
        """The columns of a Parquet file as they would be loaded. Raises UnreadableFile."""
        ...

    def stage_file(self, file: Path, condition: str) -> str:
        """Loads the rows of a Parquet file that meet a condition into a temporary table.

        Returns the table's quoted name; loading again replaces it. Raises UnreadableFile.
        """
        ...


class Warehouse(Protocol):
    """A place that holds tables. Making one touches nothing; each session opens and closes it."""

    def reading(self) -> AbstractContextManager[Session]:
        """A session that changes no table. Raises WarehouseNotFound, WarehouseLocked."""
        ...

    def writing(self) -> AbstractContextManager[Session]:
        """A session that may change tables. Raises WarehouseLocked."""
        ...


def quote(identifier: str) -> str:
    """An identifier, exactly as spelled, for SQL."""
    return '"' + identifier.replace('"', '""') + '"'
