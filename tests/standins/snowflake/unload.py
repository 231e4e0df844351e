"""COPY INTO 's3://…' as Snowflake does it: from the same SQL, with DuckDB's rows, into S3."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlglot import exp

from snowflake.connector.errors import ProgrammingError
from standins.snowflake.temporary import output

if TYPE_CHECKING:
    import pyarrow

    from standins.snowflake.service import Statement

_LARGEST = 5 * 2**30
_WHOLE = {
    exp.DataType.Type.BIGINT: "int64",
    exp.DataType.Type.INT: "int32",
    exp.DataType.Type.SMALLINT: "int16",
    exp.DataType.Type.TINYINT: "int8",
}


def is_unload(copy: exp.Copy) -> bool:
    """Whether the statement writes to object storage, rather than loading a table."""
    target = copy.this.this if isinstance(copy.this, exp.Table) else copy.this
    return isinstance(target, exp.Literal) and target.name.startswith("s3://")


def run(
    connection: Any, copy: exp.Copy, statement: Statement, integrations: Mapping[str, str]
) -> int:
    """Writes the files and returns the number of rows."""
    location = copy.this.this.name
    options = {
        parameter.name.lower(): parameter.args.get("expression") or parameter.expressions
        for parameter in copy.args["params"]
    }
    # sqlglot reads a storage integration as credentials where it stands first.
    credentials = copy.args.get("credentials")
    if credentials is not None and credentials.args.get("storage"):
        options["storage_integration"] = credentials.args["storage"]
    _check_options(options, location, integrations)
    select = copy.args["files"][0]
    if not isinstance(select, exp.Subquery):
        raise _refused("the stand-in unloads queries only")
    query = select.this
    partition = options.get("partition by")
    names = {output(it) for it in query.selects}
    wrapped = exp.select("*").from_(query.copy().subquery("unloaded"))
    if partition is not None:
        for column in partition.find_all(exp.Column):
            stored = column.name if column.this.args.get("quoted") else column.name.upper()
            if stored not in names:
                raise ProgrammingError(
                    f"SQL compilation error: invalid identifier '{column.sql()}'",
                    errno=904,
                    sqlstate="42000",
                )
        expression = partition.this if isinstance(partition, exp.Paren) else partition
        wrapped = wrapped.select(exp.alias_(expression.copy(), "__PARTITION", quoted=True))
    cursor = connection.cursor()
    cursor.execute(wrapped.sql(dialect="snowflake"))
    table = cursor._arrow_table
    parts = {"": table}
    if partition is not None:
        parts = _partitions(table)
    size = int(options["max_file_size"].name) if "max_file_size" in options else 16 * 2**20
    _upload(parts, query, location, size, statement)
    return table.num_rows


def _check_options(
    options: Mapping[str, Any], location: str, integrations: Mapping[str, str]
) -> None:
    named = options.get("storage_integration")
    if named is None:
        raise _refused("no storage integration and no credentials for an external location")
    quoted = isinstance(named, exp.Identifier) and named.args.get("quoted")
    name = named.name if quoted else named.name.upper()
    if name not in integrations:
        raise ProgrammingError(
            f"SQL compilation error: Integration '{name}' does not exist or not authorized.",
            errno=2003,
            sqlstate="02000",
        )
    if not location.startswith(integrations[name]):
        raise ProgrammingError(
            f"Location '{location}' is not allowed by integration '{name}'. Please use DESC "
            "INTEGRATION to check out allowed and blocked locations.",
            errno=3001,
            sqlstate="42601",
        )
    for option in ("overwrite", "single"):
        value = options.get(option)
        if value is not None and value.this is True and "partition by" in options:
            raise _refused(f"{option.upper()} can't be combined with PARTITION BY")
    if "max_file_size" in options and int(options["max_file_size"].name) > _LARGEST:
        raise _refused("MAX_FILE_SIZE is 5 GB at most")
    types = [it.args["value"].name.lower() for it in options["file_format"] if it.name == "type"]
    header = options.get("header")
    if types != ["parquet"] or header is None or header.this is not True:
        raise _refused("the stand-in unloads Parquet with HEADER = TRUE only")


def _partitions(table: pyarrow.Table) -> dict[str, pyarrow.Table]:
    from pyarrow import compute

    pc: Any = compute

    places = table["__PARTITION"]
    rows = table.drop_columns(["__PARTITION"])
    return {
        place or "__NULL__": rows.filter(
            pc.equal(places, place) if place is not None else pc.is_null(places)
        )
        for place in places.unique().to_pylist()
    }


def _upload(
    parts: Mapping[str, pyarrow.Table],
    query: exp.Query,
    location: str,
    size: int,
    statement: Statement,
) -> None:
    import boto3
    import pyarrow.parquet as pq

    bucket, prefix = urlsplit(location).netloc, urlsplit(location).path.strip("/")
    client = boto3.client("s3")
    for thread, (place, table) in enumerate(sorted(parts.items())):
        table = _as_parquet(table, query)
        rows = max(1, size * table.num_rows // max(1, table.nbytes))
        for number, start in enumerate(range(0, table.num_rows, rows)):
            if statement.cancelled.is_set():
                raise ProgrammingError("SQL execution canceled", errno=604, sqlstate="57014")
            content = io.BytesIO()
            pq.write_table(table.slice(start, rows), content, compression="snappy")
            name = f"data_{statement.query_id}_{thread:03d}_{number}_0.snappy.parquet"
            key = "/".join(part for part in (prefix, place, name) if part)
            client.put_object(Bucket=bucket, Key=key, Body=content.getvalue())


def _as_parquet(table: pyarrow.Table, query: exp.Query) -> pyarrow.Table:
    """The types that Snowflake writes: whole numbers are decimals unless a cast names a width."""
    import pyarrow as pa

    fields = []
    for field, selected in zip(table.schema, query.selects, strict=True):
        kind = field.type
        cast = selected.unalias()
        width = _WHOLE.get(cast.to.this) if isinstance(cast, exp.Cast) else None
        if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
            kind = pa.type_for_alias(width) if width else pa.decimal128(38, 0)
        elif pa.types.is_floating(kind):
            kind = pa.float64()
        elif pa.types.is_timestamp(kind):
            if kind.tz is not None:
                raise _refused("TIMESTAMP_TZ and TIMESTAMP_LTZ can't be unloaded to Parquet")
            kind = pa.timestamp("us")
        fields.append(pa.field(field.name, kind))
    return table.cast(pa.schema(fields))


def _refused(reason: str) -> ProgrammingError:
    return ProgrammingError(f"SQL compilation error: {reason}", errno=1234, sqlstate="0A000")
