"""What fakesnow's information schema lacks, and names as strictly as Snowflake takes them."""

from __future__ import annotations

from typing import Any

import fakesnow.info_schema
from duckdb import DuckDBPyConnection
from sqlglot import Expr, exp
from sqlglot.optimizer.scope import traverse_scope

from snowflake.connector.errors import ProgrammingError
from standins.snowflake.temporary import output, stored

_SCHEMA = "_fs_global._fs_information_schema"
_WHOLE = "in ('BIGINT', 'HUGEINT', 'INTEGER', 'SMALLINT', 'TINYINT', 'UBIGINT', 'UINTEGER')"
_CHANGES = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.TruncateTable, exp.Create, exp.Copy)


def extend(connection: DuckDBPyConnection) -> None:
    """Lets the information schema call every whole number NUMBER(38,0), and note changes."""
    columns = fakesnow.info_schema.SQL_CREATE_GLOBAL_INFORMATION_SCHEMA_COLUMNS_VIEW
    columns = columns.replace("create view if not exists", "create or replace view")
    columns = columns.replace("columns.data_type='BIGINT'", f"columns.data_type {_WHOLE}")
    connection.execute(columns)
    connection.execute(
        f"create table if not exists {_SCHEMA}.altered "
        "(catalog_name varchar, schema_name varchar, table_name varchar, changed_at timestamptz)"
    )


def extend_database(connection: DuckDBPyConnection, database: str) -> None:
    """LAST_ALTERED, as the stand-in notes it."""
    view = fakesnow.info_schema.SQL_CREATE_INFORMATION_SCHEMA_TABLES_VIEW.substitute(
        catalog=database
    )
    view = view.replace("create view if not exists", "create or replace view")
    noted = (
        f"coalesce((select max(changed_at) from {_SCHEMA}.altered as noted "
        "where noted.catalog_name = tables.database_name and noted.schema_name = tables.schema_name "
        "and noted.table_name = tables.table_name), to_timestamp(0))"
    )
    before = 'to_timestamp(0)::timestamptz AS "LAST_ALTERED"'
    if before not in view:
        raise AssertionError("fakesnow's view of tables is another one now")
    with connection.cursor() as cursor:
        cursor.execute(view.replace(before, f'{noted} AS "LAST_ALTERED"'))


def record_change(connection: Any, parsed: Expr) -> None:
    """Notes when a statement changed a table."""
    if not isinstance(parsed, _CHANGES):
        return
    table = parsed.find(exp.Table)
    if table is None or not table.name:
        return
    names = [
        stored(table.args.get("catalog")) or connection.database,
        stored(table.args.get("db")) or connection.schema,
        stored(table.this),
    ]
    with connection._duck_conn.cursor() as cursor:
        cursor.execute(f"insert into {_SCHEMA}.altered values (?, ?, ?, now())", names)


def check_names(connection: Any, parsed: Expr) -> None:
    """Raises what Snowflake answers to a name that is right except for its case."""
    if isinstance(parsed, exp.Describe | exp.Command | exp.Use):
        return
    created = parsed.this if isinstance(parsed, exp.Create) else None
    for table in parsed.find_all(exp.Table):
        if table is not created and isinstance(table.this, exp.Identifier):
            _check_table(connection, table)
    query = parsed if isinstance(parsed, exp.Query) else parsed.find(exp.Query)
    if query is None:
        return
    for scope in traverse_scope(query):
        known: set[str] = set()
        for source in scope.sources.values():
            if isinstance(source, exp.Table):
                known |= _columns(connection, source)
            else:
                known |= {name for it in _selected(source.expression) if (name := output(it))}
        aliases = {it.alias for it in _selected(scope.expression) if it.alias}
        by_fold: dict[str, set[str]] = {}
        for name in known:
            by_fold.setdefault(name.lower(), set()).add(name)
        for column in scope.columns:
            name = stored(column.this)
            if name is None or name in known or name in aliases:
                continue
            if column.name in aliases or name.lower() not in by_fold:
                continue  # an alias in its own case, or a name that nothing here answers to
            raise ProgrammingError(
                f"SQL compilation error: error line 1 at position 0 invalid identifier '{column.sql()}'",
                errno=904,
                sqlstate="42000",
            )


def _selected(query: Expr) -> list[Expr]:
    return query.selects if isinstance(query, exp.Query) else []


def _check_table(connection: Any, table: exp.Table) -> None:
    name, schema = stored(table.this), stored(table.args.get("db"))
    catalog = stored(table.args.get("catalog"))
    if name is None or (schema or "").upper() == "INFORMATION_SCHEMA":
        return
    rows = connection._duck_conn.execute(
        "select database_name, schema_name, table_name from duckdb_tables() "
        "where lower(table_name) = lower(?) union all "
        "select database_name, schema_name, view_name from duckdb_views() "
        "where lower(view_name) = lower(?) and not internal",
        [name, name],
    ).fetchall()
    wanted = [(0, catalog), (1, schema), (2, name)]
    alike = [
        row
        for row in rows
        if all(value is None or row[place].lower() == value.lower() for place, value in wanted)
    ]
    exact = [
        row for row in alike if all(value is None or row[place] == value for place, value in wanted)
    ]
    if alike and not exact:
        raise ProgrammingError(
            f"SQL compilation error: Object '{table.sql(dialect='snowflake')}' does not exist or not "
            "authorized.",
            errno=2003,
            sqlstate="42S02",
        )


def _columns(connection: Any, table: exp.Table) -> set[str]:
    name, schema = stored(table.this), stored(table.args.get("db"))
    if name is None or (schema or "").upper() == "INFORMATION_SCHEMA":
        return set()
    rows = connection._duck_conn.execute(
        "select column_name from duckdb_columns() where table_name = ? "
        "and (schema_name = coalesce(?, schema_name))",
        [name, schema],
    ).fetchall()
    return {row[0] for row in rows}
