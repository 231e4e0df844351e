"""DuckDB as the warehouse: one file, opened for each piece of work and closed after it.

A process that writes keeps every other one out, and readers keep writers out, so a session holds
the file no longer than it needs and waits its turn for it.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import SPLITS
from sf_sagemaker.warehouse.errors import (
    ExportFailed,
    QueryFailed,
    UnreadableFile,
    WarehouseLocked,
    WarehouseNotFound,
    WarehouseUnreadable,
)
from sf_sagemaker.warehouse.warehouse import (
    ORDER,
    SHARD,
    SPLIT,
    Family,
    SourceColumn,
    TableVersion,
    quote,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_REPORT_SECONDS = 10.0
_HOLDER = re.compile(r"lock is held in (.+?) \(PID (\d+)\)")
_LANDING = '"__landing"'

_FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"), "integer"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "float"),
    **dict.fromkeys(("VARCHAR", "UUID"), "text"),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    "DECIMAL": "decimal",
    "ENUM": "text",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP WITH TIME ZONE": "zoned",
}


class DuckDBDialect:
    """SQL as DuckDB writes it."""

    float32 = "FLOAT"
    double = "DOUBLE"
    text = "VARCHAR"
    integer = "BIGINT"
    date = "DATE"
    timestamp = "TIMESTAMP"

    @property
    def fingerprint_algorithm(self) -> str:
        import duckdb

        # hash() may change with a minor version.
        major, minor = duckdb.__version__.split(".")[:2]
        return f"duckdb-{major}.{minor}-hash-sums"

    def row_hashes(self, columns: Sequence[str]) -> tuple[str, str]:
        return f"hash({', '.join(columns)})", f"hash('second', {', '.join(reversed(columns))})"

    def family(self, data_type: str) -> Family:
        if data_type.endswith("]"):
            return "other"
        return _FAMILIES.get(data_type.split("(")[0], "other")

    def text_literal(self, value: str) -> str:
        return "'" + value.replace("'", "''") + "'"

    def time_literal(self, moment: datetime, family: Family) -> str:
        if family == "zoned":
            return f"TIMESTAMPTZ '{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00:00'"
        if family == "date" and moment == moment.replace(hour=0, minute=0, second=0, microsecond=0):
            return f"DATE '{moment:%Y-%m-%d}'"
        return f"TIMESTAMP '{moment:%Y-%m-%d %H:%M:%S.%f}'"

    def date_text(self, expression: str) -> str:
        return f"strftime({expression}, '%Y-%m-%d')"

    def local_time(self, expression: str, timezone: str) -> str:
        return f"timezone({self.text_literal(timezone)}, {expression})"

    def sort_key(self, hexadecimal: str) -> str:
        return f"cast('0x' || substr({hexadecimal}, 1, 16) as ubigint)"

    def not_a_number(self, expression: str) -> str:
        return f"isnan({expression})"

    def created_name(self, name: str) -> str:
        return name

    def information_schema(self, database: str | None) -> str:
        return "information_schema"  # lists every attached database


class DuckDBSession:
    """An open connection to a DuckDB file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.dialect = DuckDBDialect()
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("begin transaction")
        committed = False
        try:
            yield
            self.execute("commit")
            committed = True
        finally:
            if not committed:
                self._roll_back()

    def snapshot(self) -> AbstractContextManager[None]:
        return self.transaction()

    def execute(self, sql: str) -> None:
        self._run(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._run(sql).fetchall()

    def arrow(self, sql: str) -> pyarrow.Table:
        import duckdb

        try:
            return self._connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise _failed(sql, error) from error

    def batches(self, sql: str, rows: int) -> Iterator[pyarrow.RecordBatch]:
        import duckdb

        try:
            yield from self._connection.sql(sql).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise _failed(sql, error) from error

    def describe(self, select: str) -> tuple[SourceColumn, ...]:
        return tuple(SourceColumn(row[0], row[1]) for row in self.rows(f"describe {select}"))

    def version_of(self, database: str, schema: str, name: str) -> TableVersion | None:
        return None  # a transaction is a snapshot

    def last_altered(self, database: str, schema: str, name: str) -> datetime | None:
        return None  # the file's own time is that of any table's change

    def export(
        self, staged: str, columns: Sequence[str], storage: Storage, folder: str, shards: int
    ) -> str | None:
        root = _local_path(storage.uri(folder))
        # The writer marks a column as required where it can tell that no value is missing, so that
        # the schemas of shards would differ. A result of try() may always be missing.
        values = ", ".join(f"try({quote(column)}) as {quote(column)}" for column in columns)
        # COPY with PARTITION_BY loses the order of rows when it runs on several threads, and writes
        # nothing where a shard is empty. A statement a file keeps both, at the price of a scan of
        # the staged rows for each.
        try:
            for split in SPLITS:
                for shard in range(shards):
                    part = root / split / f"shard={shard:03d}"
                    part.mkdir(parents=True)
                    self.execute(
                        f"copy (select {values} from {staged} "
                        f"where {quote(SPLIT)} = '{split}' and {quote(SHARD)} = {shard} "
                        f"order by {quote(ORDER)}) "
                        f"to {self.dialect.text_literal(str(part / 'part-0.parquet'))} "
                        "(format parquet)"
                    )
        except (OSError, QueryFailed) as error:
            raise ExportFailed(
                f"the export to {root} broke off, and nothing of it was committed: {error}. If the "
                "disk is full, make room and run again"
            ) from error
        return None

    def file_columns(self, file: Path) -> tuple[SourceColumn, ...]:
        try:
            return self.describe(f"select * from {self._read_parquet(file)}")
        except QueryFailed as error:
            raise UnreadableFile(_unreadable(file, error)) from error

    def stage_file(self, file: Path, condition: str) -> str:
        try:
            self.execute(
                f"create or replace temporary table {_LANDING} as "
                f"select * from {self._read_parquet(file)} where {condition}"
            )
        except QueryFailed as error:
            raise UnreadableFile(_unreadable(file, error)) from error
        return _LANDING

    def _read_parquet(self, file: Path) -> str:
        return f"read_parquet({self.dialect.text_literal(glob.escape(str(file)))})"

    def _run(self, sql: str) -> duckdb.DuckDBPyConnection:
        import duckdb

        try:
            return self._connection.execute(sql)
        except duckdb.Error as error:
            raise _failed(sql, error) from error

    def _roll_back(self) -> None:
        import duckdb

        try:
            self._connection.execute("rollback")
        except duckdb.Error as error:
            # A failed commit has rolled back already; the error on its way says why it failed.
            _log.debug("nothing to roll back: %s", error)


class DuckDBWarehouse:
    """A DuckDB file. `memory_limit` is DuckDB's ("4GB"); `lock_timeout` is in seconds.

    While another process holds the file, sessions wait and log who holds it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        memory_limit: str | None = None,
        threads: int | None = None,
        lock_timeout: float = 60.0,
    ) -> None:
        self.path = Path(path).absolute()
        self.lock_timeout = lock_timeout
        self._config: dict[str, str | bool | int | float | list[str]] = {
            # Whatever extension is missing, a query must not fetch it from the network.
            "autoinstall_known_extensions": False,
        }
        if memory_limit is not None:
            self._config["memory_limit"] = memory_limit
        if threads is not None:
            self._config["threads"] = threads

    def __repr__(self) -> str:
        return f"DuckDBWarehouse({str(self.path)!r})"

    @contextmanager
    def reading(self) -> Iterator[DuckDBSession]:
        if not self.path.is_file():
            raise WarehouseNotFound(
                f"there is no DuckDB file {self.path}: land raw data and build the dbt models "
                "first, or correct the path"
            )
        connection = self._connect(read_only=True)
        try:
            yield DuckDBSession(connection)
        finally:
            connection.close()

    @contextmanager
    def writing(self) -> Iterator[DuckDBSession]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connect(read_only=False)
        try:
            yield DuckDBSession(connection)
        finally:
            connection.close()

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        import duckdb

        started = time.monotonic()
        reported: float | None = None
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only, config=self._config)
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                holder = _holder(str(error))
                if holder is None:
                    raise WarehouseUnreadable(f"{self.path} can't be opened: {error}") from error
                waited = time.monotonic() - started
                if waited >= self.lock_timeout:
                    raise WarehouseLocked(
                        f"{self.path} is held by {holder}, and was for the {waited:.0f} s of "
                        "waiting for it: end that process or close its connection (an open DuckDB "
                        "shell or notebook holds it too), then run again"
                    ) from error
                if reported is None or waited - reported >= _REPORT_SECONDS:
                    reported = waited
                    _log.info(
                        "waiting for %s, which %s holds (%.0f of at most %.0f s)",
                        self.path, holder, waited, self.lock_timeout,
                    )  # fmt: skip
                time.sleep(min(_POLL_SECONDS, self.lock_timeout))


def _failed(sql: str, error: Exception) -> QueryFailed:
    excerpt = sql if len(sql) <= 500 else sql[:500] + " …"
    return QueryFailed(f"DuckDB: {error}\nStatement: {excerpt}")


def _holder(message: str) -> str | None:
    """Who holds the file, from the error's text; None where the error is another one."""
    match = _HOLDER.search(message)
    if match:
        return f"process {match[2]} ({match[1]})"
    if "different configuration" in message:
        return f"this process itself ({os.getpid()}), in another connection"
    # Some systems don't tell the holder.
    return "another process" if "Could not set lock" in message else None


def _local_path(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme != "file":
        raise ExportFailed(f"DuckDB exports to a local folder, not to {uri}: use local storage")
    return Path(unquote(parts.path))


def _unreadable(file: Path, error: QueryFailed) -> str:
    return (
        f"{file} could not be loaded: it is missing, or not whole Parquet; nothing was changed. "
        f"Fetch it again. {error}"
    )
