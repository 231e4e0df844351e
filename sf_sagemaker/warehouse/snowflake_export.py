"""Rows out of Snowflake into a dataset's files: unloaded by Snowflake, or streamed through here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import SPLITS
from sf_sagemaker.warehouse.errors import ExportFailed
from sf_sagemaker.warehouse.manifests import open_parquet
from sf_sagemaker.warehouse.snowflake_dialect import SnowflakeDialect
from sf_sagemaker.warehouse.warehouse import ORDER, SHARD, SPLIT, SourceColumn, quote

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

_ROW_GROUP = 100_000  # rows
_PLACE = re.compile(rf"({'|'.join(SPLITS)})/shard=(\d{{3}})/[^/]+\.parquet")


def schema(columns: Sequence[SourceColumn], dialect: SnowflakeDialect) -> pyarrow.Schema:
    """The types of columns in Arrow, whatever width the values of one result happen to need."""
    import pyarrow as pa

    types = {
        "integer": pa.int64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "text": pa.string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "zoned": pa.timestamp("us", "UTC"),
    }

    def arrow_type(column: SourceColumn) -> pyarrow.DataType:
        family = dialect.family(column.data_type)
        if family == "decimal":
            precision, scale = re.findall(r"\d+", column.data_type)
            return pa.decimal128(int(precision), int(scale))
        return types.get(family, pa.string())

    return pa.schema([(column.name, arrow_type(column)) for column in columns])


def exactly(table: pyarrow.Table, schema: pyarrow.Schema) -> pyarrow.Table:
    """The first columns as a schema has them. Raises ArrowInvalid where values don't fit."""
    columns = table.select(list(range(len(schema.names))))
    return columns.rename_columns(schema.names).cast(schema)


def unload(
    staged: str,
    columns: Sequence[SourceColumn],
    dialect: SnowflakeDialect,
    uri: str,
    integration: str,
    file_bytes: int,
) -> str:
    """The statement by which Snowflake writes a staged table to `<uri>/<split>/shard=NNN/`.

    Every column is cast: an uncast NUMBER would be a decimal in Parquet. Snowflake chooses the names
    of the files, and writes none where a split and shard has no rows.
    """
    if not uri.startswith("s3://"):
        raise ExportFailed(
            f"Snowflake unloads to S3, not to {uri}: use S3 as the storage, or no storage integration"
        )
    types = {
        "integer": dialect.integer,
        "float": dialect.double,
        "text": dialect.text,
        "date": dialect.date,
        "timestamp": dialect.timestamp,
    }
    values = ", ".join(
        f"cast({quote(column.name)} as {types[dialect.family(column.data_type)]}) "
        f"as {quote(column.name)}"
        for column in columns
    )
    folder = f"{quote(SPLIT)} || '/shard=' || lpad(cast({quote(SHARD)} as varchar), 3, '0')"
    return (
        f"copy into {dialect.text_literal(uri.rstrip('/') + '/')}\n"
        # What PARTITION BY names must be among the columns, and so is in the files, too.
        f"from (select {values}, {folder} as {quote(SPLIT)} from {staged} "
        f"order by {quote(ORDER)})\n"
        f"partition by ({quote(SPLIT)})\n"
        f"storage_integration = {integration}\n"
        "file_format = (type = parquet compression = snappy)\n"
        f"header = true\nmax_file_size = {file_bytes}"
    )


def in_order(staged: str, columns: Sequence[str]) -> str:
    """The query whose rows `write` takes: by split and shard, each in the order of its hashes."""
    names = ", ".join(quote(column) for column in (*columns, SPLIT, SHARD))
    order = ", ".join(quote(column) for column in (SPLIT, SHARD, ORDER))
    return f"select {names} from {staged} order by {order}"


def write(
    batches: Iterable[pyarrow.Table],
    schema: pyarrow.Schema,
    storage: Storage,
    folder: str,
    file_bytes: int,
) -> None:
    """Writes rows that come by split and shard to `<folder>/<split>/shard=NNN/part-N.parquet`.

    Holds one batch and one row group at a time, whatever the number of rows.
    """
    import pyarrow as pa

    try:
        files: dict[str, int] = {}
        runs = _runs(batches, schema)
        run = next(runs, None)
        while run is not None:
            place = run[0]
            number = files.get(place, 0)
            files[place] = number + 1
            with _parquet(storage, f"{folder}/{place}/part-{number}.parquet", schema) as file:
                while run is not None and run[0] == place:
                    file.write(run[1])
                    run = next(runs, None)
                    if file.tell() >= file_bytes:
                        break
    except (OSError, pa.ArrowInvalid) as error:
        raise ExportFailed(
            f"the export to {storage.uri(folder)} broke off, and nothing of it was committed: {error}"
        ) from error


def pad(storage: Storage, folder: str, shards: int, schema: pyarrow.Schema) -> None:
    """Gives every shard of a split the same number of files, at least one, by adding empty ones.

    Each training host then gets as many files as any other. `schema` is for a dataset without any
    file; otherwise the empty files are like those that are there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = [key for key in storage.list(folder) if key.endswith(".parquet")]
    places = (_PLACE.fullmatch(key.removeprefix(f"{folder}/")) for key in keys)
    counts = Counter((match[1], int(match[2])) for match in places if match)
    if keys:
        with open_parquet(storage, keys[0]) as parquet:
            schema = parquet.schema_arrow
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    empty = sink.getvalue().to_pybytes()
    for split in SPLITS:
        most = max(1, *(counts[split, shard] for shard in range(shards)))
        for shard in range(shards):
            for number in range(counts[split, shard], most):
                storage.create(f"{folder}/{split}/shard={shard:03d}/empty-{number}.parquet", empty)


def _runs(
    batches: Iterable[pyarrow.Table], schema: pyarrow.Schema
) -> Iterator[tuple[str, pyarrow.Table]]:
    """(`<split>/shard=NNN`, rows), no more than a row group at a time."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute  # its functions are made at import

    held: list[pyarrow.Table] = []
    held_place = ""
    for batch in batches:
        if batch.num_rows == 0:
            continue
        rows = exactly(batch, schema)
        shard = pc.utf8_lpad(pc.cast(batch[SHARD], pa.string()), 3, padding="0")
        places = pc.binary_join_element_wise(batch[SPLIT], shard, "/shard=").combine_chunks()
        start = 0
        encoded = pc.run_end_encode(places)
        for end, place in zip(
            encoded.run_ends.to_pylist(), encoded.values.to_pylist(), strict=True
        ):
            if place != held_place and held:
                yield held_place, pa.concat_tables(held)
                held = []
            held_place = place
            for first in range(start, end, _ROW_GROUP):
                held.append(rows.slice(first, min(_ROW_GROUP, end - first)))
                if sum(table.num_rows for table in held) >= _ROW_GROUP:
                    yield place, pa.concat_tables(held)
                    held = []
            start = end
    if held:
        yield held_place, pa.concat_tables(held)


class _ParquetFile:
    """A Parquet file that is being written, and how long it is."""

    def __init__(self, writer: pyarrow.parquet.ParquetWriter, sink: pyarrow.NativeFile) -> None:
        self._writer = writer
        self._sink = sink

    def write(self, rows: pyarrow.Table) -> None:
        self._writer.write_table(rows)

    def tell(self) -> int:
        return self._sink.tell()


@contextmanager
def _parquet(storage: Storage, key: str, schema: pyarrow.Schema) -> Iterator[_ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.write(key) as file:
        sink = pa.PythonFile(file, mode="w")  # counts the bytes; closing it is the storage's part
        with pq.ParquetWriter(sink, schema) as writer:
            yield _ParquetFile(writer, sink)
