"""Datasets in storage: where they lie, which are committed, whether their files are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sf_sagemaker.storage import KeyMissing, Storage
from sf_sagemaker.warehouse.dataset import DatasetSpec, Manifest, Split
from sf_sagemaker.warehouse.errors import CorruptDataset

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

MANIFEST = "manifest.json"


def partition_folder(spec: DatasetSpec, partition: str) -> str:
    """The folder of a specification's attempts at one partition."""
    return f"datasets/{spec.model}/{partition}/{spec.digest}"


def read_manifest(storage: Storage, key: str) -> Manifest:
    """The manifest in a dataset's folder. Raises KeyMissing, and CorruptDataset if it isn't one."""
    try:
        return Manifest.model_validate_json(storage.read(f"{key}/{MANIFEST}"))
    except ValidationError as error:
        raise CorruptDataset(
            f"{storage.uri(f'{key}/{MANIFEST}')} is not a manifest: remove that folder and "
            f"materialize the dataset again. {error}"
        ) from error


def latest_manifest(
    storage: Storage, spec: DatasetSpec, partition: str
) -> tuple[Manifest, str] | None:
    """The newest committed dataset of a specification and partition, with the key of its folder."""
    folder = partition_folder(spec, partition)
    keys = [
        key.removesuffix(f"/{MANIFEST}")
        for key in storage.list(folder)
        if key.endswith(f"/{MANIFEST}")
    ]
    committed = [(read_manifest(storage, key), key) for key in keys]
    return max(committed, key=lambda pair: (pair[0].created_at, pair[1]), default=None)


def partitions(storage: Storage, spec: DatasetSpec) -> list[str]:
    """The partitions with a committed dataset of a specification, in order."""
    pattern = re.compile(
        rf"datasets/{re.escape(spec.model)}/([^/]+)/{spec.digest}/[^/]+/{re.escape(MANIFEST)}"
    )
    found = (pattern.fullmatch(key) for key in storage.list(f"datasets/{spec.model}"))
    return sorted({match[1] for match in found if match})


def verify_files(storage: Storage, manifest: Manifest, key: str) -> None:
    """Checks that every file of a dataset is there, of its recorded size, with its recorded rows.

    Reads sizes and Parquet footers only. Raises CorruptDataset naming the first file that isn't so.
    """
    for file in manifest.files:
        path = f"{key}/{file.path}"
        try:
            size = storage.size(path)
        except KeyMissing:
            raise _corrupt(storage, path, f"{file.bytes:,} bytes", "no such file") from None
        if size != file.bytes:
            raise _corrupt(storage, path, f"{file.bytes:,} bytes", f"{size:,} bytes")
        with open_parquet(storage, path) as parquet:
            rows = parquet.metadata.num_rows
        if rows != file.rows:
            raise _corrupt(storage, path, f"{file.rows:,} rows", f"{rows:,} rows")


def read_split(
    storage: Storage,
    manifest: Manifest,
    key: str,
    split: Split,
    *,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
) -> pyarrow.Table:
    """The rows of a split, or the first `limit` of them. Raises CorruptDataset.

    Rows lie in the order of their hashes, so the first ones are a fair sample of their shard.
    """
    import pyarrow

    # A warehouse may have left columns of its own in the files.
    columns = [column.name for column in manifest.columns] if columns is None else list(columns)
    tables: list[pyarrow.Table] = []
    wanted = manifest.rows(split) if limit is None else limit
    for file in (file for file in manifest.files if file.split == split):
        path = f"{key}/{file.path}"
        with open_parquet(storage, path) as parquet:
            # An empty table carries the schema where no file has rows.
            empty = parquet.schema_arrow.empty_table()
            tables.append(empty.select(columns))
            try:
                for batch in parquet.iter_batches(columns=columns):
                    if wanted <= 0:
                        break
                    rows = pyarrow.Table.from_batches([batch.slice(0, wanted)])
                    tables.append(rows.select(columns))
                    wanted -= tables[-1].num_rows
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise _corrupt(storage, path, "whole Parquet", str(error)) from error
        if wanted <= 0:
            break
    return pyarrow.concat_tables(tables)


def split_batches(
    storage: Storage, manifest: Manifest, key: str, split: Split, columns: Sequence[str]
) -> Iterator[pyarrow.RecordBatch]:
    """Some columns of a split, a batch at a time. Raises CorruptDataset."""
    import pyarrow

    for file in (file for file in manifest.files if file.split == split):
        path = f"{key}/{file.path}"
        with open_parquet(storage, path) as parquet:
            try:
                yield from parquet.iter_batches(columns=list(columns))
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise _corrupt(storage, path, "whole Parquet", str(error)) from error


@contextmanager
def open_parquet(storage: Storage, key: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """A Parquet file in storage, opened at its footer. Raises CorruptDataset."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = storage.open(key)
    except KeyMissing as error:
        raise _corrupt(storage, key, "whole Parquet", str(error)) from error
    with file:
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _corrupt(storage, key, "whole Parquet", str(error)) from error
        with parquet:
            yield parquet


def manifest_bytes(manifest: Manifest) -> bytes:
    """A manifest as it is stored."""
    return json.dumps(manifest.model_dump(mode="json"), indent=2).encode()


def _corrupt(storage: Storage, key: str, expected: str, found: str) -> CorruptDataset:
    return CorruptDataset(
        f"{storage.uri(key)} is damaged: expected {expected}, found {found}. "
        "Materialize the dataset again: a new attempt is exported beside it"
    )
