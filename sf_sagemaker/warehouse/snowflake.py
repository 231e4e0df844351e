"""Snowflake as the warehouse: a connection for each piece of work, statements that don't outlive it.

Statements run asynchronously and are polled, so that their ids are known while they run and a signal
reaches the waiting thread at once; whatever ends the wait early cancels the statement. Against a
process that is killed outright, every statement has a time limit.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse import snowflake_export
from sf_sagemaker.warehouse.errors import (
    IntegrationRefused,
    QueryFailed,
    UnreadableFile,
    WarehouseError,
)
from sf_sagemaker.warehouse.snowflake_dialect import SnowflakeDialect
from sf_sagemaker.warehouse.snowflake_errors import login_failed, statement_failed
from sf_sagemaker.warehouse.warehouse import SourceColumn, TableVersion, quote

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet
    from snowflake.connector import SnowflakeConnection
    from snowflake.connector.cursor import SnowflakeCursor

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two looks at a statement
_UNKNOWN_FOR = 60.0  # seconds that the service may not know a statement it has just accepted
_CANCEL_SECONDS = 10.0
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,254}")
_FILE, _LANDING = "SF_SAGEMAKER_LANDED_FILE", "SF_SAGEMAKER_LANDING"

Connect = Callable[[], AbstractContextManager["SnowflakeConnection"]]


class SnowflakeSession:
    """An open connection. See SnowflakeWarehouse for its settings."""

    def __init__(
        self,
        connection: SnowflakeConnection,
        *,
        integration: str | None,
        tag: str,
        time_limit: float,
        file_bytes: int,
    ) -> None:
        self.dialect = SnowflakeDialect()
        self._connection = connection
        self._integration = integration
        self._tag = tag
        self._time_limit = time_limit
        self._file_bytes = file_bytes
        self._in_transaction = False
        self._loaded: tuple[tuple[Path, int, int], str] | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing for what is written; each statement reads the newest committed rows.

        Creating or dropping anything commits what came before, as always in Snowflake.
        """
        self._now("begin transaction")
        self._in_transaction = True
        committed = False
        try:
            yield
            self._now("commit")
            committed = True
        finally:
            self._in_transaction = False
            if not committed:
                self._roll_back()

    def snapshot(self) -> AbstractContextManager[None]:
        """Nothing: a transaction here reads what others commit meanwhile; see version_of."""
        return nullcontext()

    def execute(self, sql: str) -> None:
        self._finished(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        import snowflake.connector.errors

        cursor = self._finished(sql, wants_rows=True)
        try:
            return [tuple(row) for row in cursor.fetchall()]
        except snowflake.connector.errors.Error as error:
            raise statement_failed(error, sql) from error

    def arrow(self, sql: str) -> pyarrow.Table:
        import pyarrow
        import snowflake.connector.errors

        cursor = self._finished(sql, wants_rows=True)
        try:
            table = cursor.fetch_arrow_all(
                force_return_table=True, force_microsecond_precision=True
            )
            types = [column.data_type for column in _columns(cursor.description)]
            columns = [SourceColumn(*pair) for pair in zip(table.column_names, types, strict=True)]
            return snowflake_export.exactly(table, snowflake_export.schema(columns, self.dialect))
        except snowflake.connector.errors.Error as error:
            raise statement_failed(error, sql) from error
        except pyarrow.ArrowInvalid as error:
            raise QueryFailed(f"Snowflake's rows don't fit their types: {error}") from error

    def batches(self, sql: str, rows: int) -> Iterator[pyarrow.RecordBatch]:
        import pyarrow

        schema = snowflake_export.schema(self.describe(sql), self.dialect)
        cursor = self._finished(sql, wants_rows=True)
        for table in self._batches(cursor, sql):
            named = [
                field.with_name(name)
                for field, name in zip(schema, table.column_names, strict=True)
            ]
            exact = snowflake_export.exactly(table, pyarrow.schema(named))
            yield from exact.to_batches(max_chunksize=rows)

    def describe(self, select: str) -> tuple[SourceColumn, ...]:
        import snowflake.connector.errors

        try:
            return _columns(self._connection.cursor().describe(select))
        except snowflake.connector.errors.Error as error:
            raise statement_failed(error, select) from error

    def version_of(self, database: str, schema: str, name: str) -> TableVersion | None:
        """Now, where earlier versions of the table can be read: of no view, and of nothing shared."""
        literal = self.dialect.text_literal
        kept = self.rows(
            "select retention_time, to_varchar(convert_timezone('UTC', current_timestamp()), "
            f"'YYYY-MM-DD HH24:MI:SS.FF3') from {quote(database)}.information_schema.tables "
            f"where table_schema = {literal(schema)} and table_name = {literal(name)} "
            "and table_type = 'BASE TABLE'"
        )
        if not kept or not int(kept[0][0] or 0):
            return None
        moment = f"{kept[0][1]} +00:00"
        clause = f"at(timestamp => cast({literal(moment)} as timestamp_tz))"
        table = ".".join(quote(part) for part in (database, schema, name))
        try:
            # A table of a share has a retention time, and no time travel for those it is shared with.
            self.execute(f"select 1 from {table} {clause} limit 1")
        except QueryFailed as error:
            _log.info("%s is read as it is at each statement: %s", table, error)
            return None
        return TableVersion(clause, moment)

    def last_altered(self, database: str, schema: str, name: str) -> datetime | None:
        """When rows or definition of a table changed last; None for views, which don't know."""
        literal = self.dialect.text_literal
        found = self.rows(
            f"select last_altered from {quote(database)}.information_schema.tables "
            f"where table_schema = {literal(schema)} and table_name = {literal(name)} "
            "and table_type <> 'VIEW'"
        )
        return found[0][0].astimezone(UTC) if found and found[0][0] else None

    def export(
        self, staged: str, columns: Sequence[str], storage: Storage, folder: str, shards: int
    ) -> str | None:
        names = ", ".join(quote(column) for column in columns)
        described = self.describe(f"select {names} from {staged}")
        schema = snowflake_export.schema(described, self.dialect)
        tag = json.dumps({"application": self._tag, "dataset": folder})
        if self._integration is not None:
            sql = snowflake_export.unload(
                staged, described, self.dialect, storage.uri(folder), self._integration,
                self._file_bytes,
            )  # fmt: skip
            query = self._finished(sql, tag=tag).sfqid
        else:
            sql = snowflake_export.in_order(staged, columns)
            cursor = self._finished(sql, tag=tag, wants_rows=True)
            query = cursor.sfqid
            batches = self._batches(cursor, sql)
            snowflake_export.write(batches, schema, storage, folder, self._file_bytes)
        snowflake_export.pad(storage, folder, shards, schema)
        return query

    def file_columns(self, file: Path) -> tuple[SourceColumn, ...]:
        return tuple(
            SourceColumn(field.name, _loaded_type(file, field))
            for field in _footer(file).schema.to_arrow_schema()
        )

    def stage_file(self, file: Path, condition: str) -> str:
        loaded = self._load(file)
        # By its full name: creating a schema makes that one the session's own.
        landing = f"{loaded.rsplit('.', 1)[0]}.{_LANDING}"
        self.execute(
            f"create or replace temporary table {landing} as select * from {loaded} where {condition}"
        )
        return landing

    def _load(self, file: Path) -> str:
        """A temporary table with a file's rows, loaded through its own stage, once a session."""
        expected = _footer(file).num_rows
        status = file.stat()
        identity = (file.absolute(), status.st_mtime_ns, status.st_size)
        if self._loaded and self._loaded[0] == identity:
            return self._loaded[1]
        self._loaded = None
        ((database, schema),) = self.rows("select current_database(), current_schema()")
        if schema is None:
            raise QueryFailed(
                "this Snowflake session has no schema to create temporary tables in: set "
                "SNOWFLAKE_DATABASE and SNOWFLAKE_SCHEMA to ones that the role may use"
            )
        place = f"{quote(database)}.{quote(schema)}"
        table, stage = f"{place}.{_FILE}", f"@{place}.%{_FILE}/{uuid.uuid4().hex}"
        # Types as the information schema spells them are types to create, too.
        columns = ", ".join(f"{quote(c.name)} {c.data_type}" for c in self.file_columns(file))
        self.execute(f"create or replace temporary table {table} ({columns})")
        self._put(file, stage)
        self.execute(
            f"copy into {table} from {stage} "
            "file_format = (type = parquet use_logical_type = true) "
            "match_by_column_name = case_insensitive"
        )
        ((found,),) = self.rows(f"select count(*) from {table}")
        if int(found) != expected:
            raise UnreadableFile(
                f"{file} has {expected:,} rows, and Snowflake loaded {int(found):,} of them; nothing "
                "was changed. Fetch the file again"
            )
        self._loaded = identity, table
        return table

    def _put(self, file: Path, stage: str) -> None:
        """Uploads a file as rows.parquet: as a stream, so that no path has to be put into SQL."""
        import snowflake.connector.errors

        sql = f"put file://rows.parquet {stage} auto_compress = false overwrite = true"
        with file.open("rb") as stream:
            try:
                self._connection.cursor().execute(sql, file_stream=stream)
            except snowflake.connector.errors.Error as error:
                raise statement_failed(error, sql) from error

    def _finished(
        self, sql: str, *, tag: str | None = None, wants_rows: bool = False
    ) -> SnowflakeCursor:
        """Runs a statement to its end; the cursor has its id, and its rows where they are wanted."""
        import snowflake.connector.errors

        if self._in_transaction:
            return self._now(sql, tag=tag)
        cursor = self._connection.cursor()
        query = None
        ended = False
        try:
            cursor.execute_async(sql, _statement_params=self._parameters(tag))
            query = cursor.sfqid
            self._wait(str(query))
            ended = True
            if wants_rows:
                # Its own result, in its order: RESULT_SCAN, the connector's other way, promises none.
                cursor.query_result(str(query))
        except snowflake.connector.errors.ProgrammingError as error:
            ended = True
            raise statement_failed(error, sql) from error
        except snowflake.connector.errors.Error as error:
            raise statement_failed(error, sql) from error
        finally:
            if not ended:
                self._cancel(query)
        return cursor

    def _now(self, sql: str, *, tag: str | None = None) -> SnowflakeCursor:
        """Runs a statement in one request: within a transaction, and where no other way exists."""
        import snowflake.connector.errors

        cursor = self._connection.cursor()
        ended = False
        try:
            cursor.execute(sql, _statement_params=self._parameters(tag))
            ended = True
        except snowflake.connector.errors.ProgrammingError as error:
            ended = True
            raise statement_failed(error, sql) from error
        except snowflake.connector.errors.Error as error:
            raise statement_failed(error, sql) from error
        finally:
            if not ended:
                self._cancel(None)
        return cursor

    def _wait(self, query: str) -> None:
        from snowflake.connector.constants import QueryStatus

        connection, pause, unknown = self._connection, _FIRST_PAUSE, 0.0
        while True:
            status = connection.get_query_status_throw_if_error(query)
            if not connection.is_still_running(status):
                return
            if status == QueryStatus.NO_DATA:
                unknown += pause
                if unknown > _UNKNOWN_FOR:
                    raise QueryFailed(f"Snowflake doesn't know its own query {query}: run again")
            time.sleep(pause * random.uniform(0.7, 1.0))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _cancel(self, query: str | None) -> None:
        """Stops a statement, or whatever this session runs, and waits a little for its end."""
        import snowflake.connector.errors

        function = (
            f"system$cancel_query({self.dialect.text_literal(query)})"
            if query
            else f"system$cancel_all_queries({int(self._connection.session_id or 0)})"
        )
        try:
            self._connection.cursor().execute(f"select {function}")
            deadline = time.monotonic() + _CANCEL_SECONDS
            while query and time.monotonic() < deadline:
                if not self._connection.is_still_running(self._connection.get_query_status(query)):
                    break
                time.sleep(_FIRST_PAUSE)
            _log.info("cancelled %s", query or "the statement of this session")
        except snowflake.connector.errors.Error as error:
            # The error or signal on its way says why; the statement's own time limit is left.
            _log.warning(
                "could not cancel %s, it ends after %.0f s at most: %s",
                query or "the statement of this session", self._time_limit, error,
            )  # fmt: skip

    def _batches(self, cursor: SnowflakeCursor, sql: str) -> Iterator[pyarrow.Table]:
        import snowflake.connector.errors

        try:
            yield from cursor.fetch_arrow_batches(force_microsecond_precision=True)
        except snowflake.connector.errors.Error as error:
            raise statement_failed(error, sql) from error

    def _parameters(self, tag: str | None) -> dict[str, Any]:
        """What Snowpark calls statement parameters: settings of the session, for one statement."""
        return {
            "QUERY_TAG": tag or self._tag,
            "STATEMENT_TIMEOUT_IN_SECONDS": int(self._time_limit),
        }

    def _roll_back(self) -> None:
        try:
            self._now("rollback")
        except WarehouseError as error:
            # The error on its way says why; a session that ends rolls back what is open.
            _log.debug("nothing to roll back: %s", error)


class SnowflakeWarehouse:
    """A Snowflake account, reached through `connect`, which opens a connection when it is called.

    `connect` is dagster-snowflake's `SnowflakeResource(...).get_connection`, or any other callable
    that gives a connection as a context manager. With a storage `integration` an export is written
    by Snowflake itself (COPY INTO); without one its rows are streamed through this process.
    `time_limit` (seconds) holds for each statement, `file_bytes` for each file of an export.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        integration: str | None = None,
        tag: str = "sf_sagemaker",
        time_limit: float = 3600.0,
        file_bytes: int = 150 * 2**20,
    ) -> None:
        if integration is not None and not _IDENTIFIER.fullmatch(integration):
            raise IntegrationRefused(
                f"storage integration {integration!r} is not an identifier: use the name that SHOW "
                "INTEGRATIONS lists"
            )
        self._connect = connect
        self._settings: dict[str, Any] = {
            "integration": integration,
            "tag": tag,
            "time_limit": time_limit,
            "file_bytes": file_bytes,
        }

    def __repr__(self) -> str:
        return f"SnowflakeWarehouse(integration={self._settings['integration']!r})"

    @contextmanager
    def reading(self) -> Iterator[SnowflakeSession]:
        """A session; what it may do is its role's affair.

        Raises WarehouseUnreachable and LoginRefused.
        """
        import snowflake.connector.errors

        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self._connect())
            except snowflake.connector.errors.Error as error:
                raise login_failed(error) from error
            yield SnowflakeSession(connection, **self._settings)

    @contextmanager
    def writing(self) -> Iterator[SnowflakeSession]:
        """As reading: Snowflake lets readers and writers in together."""
        with self.reading() as session:
            yield session


def _columns(description: Sequence[Any] | None) -> tuple[SourceColumn, ...]:
    """The columns of a result, with types as the information schema spells them."""
    from snowflake.connector.constants import FIELD_ID_TO_NAME

    columns = []
    for column in description or ():
        name = FIELD_ID_TO_NAME[column.type_code]
        if name == "FIXED":
            name = f"NUMBER({column.precision},{column.scale})"
        columns.append(SourceColumn(column.name, "FLOAT" if name == "REAL" else name))
    return tuple(columns)


def _footer(file: Path) -> pyarrow.parquet.FileMetaData:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UnreadableFile(
            f"{file} could not be loaded: it is missing, or not whole Parquet; nothing was changed. "
            f"Fetch it again. {error}"
        ) from error


def _loaded_type(file: Path, field: pyarrow.Field) -> str:
    """The type that a column of a Parquet file gets in Snowflake."""
    from pyarrow import types

    kind = field.type
    if types.is_integer(kind):
        return "NUMBER(38,0)"
    if types.is_decimal(kind):
        return f"NUMBER({kind.precision},{kind.scale})"
    if types.is_timestamp(kind):
        return "TIMESTAMP_NTZ" if kind.tz is None else "TIMESTAMP_TZ"
    named = {
        "FLOAT": types.is_floating,
        "TEXT": lambda it: types.is_string(it) or types.is_large_string(it),
        "BOOLEAN": types.is_boolean,
        "DATE": types.is_date,
    }
    for name, fits in named.items():
        if fits(kind):
            return name
    raise UnreadableFile(
        f"{file} has a column {field.name!r} of type {kind}, which is not loaded into Snowflake: "
        "write it as a number, text, boolean, date or timestamp"
    )
