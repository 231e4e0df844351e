"""The Parquet files of a channel, read batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sf_sagemaker.containers.errors import ContainerError


class CorruptShard(ContainerError):
    """A Parquet file that can't be read."""


class MissingColumn(ContainerError):
    """A table lacks a column that the model needs."""


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files under a folder at any depth, sorted; hidden ones don't count."""
    return sorted(
        path
        for path in folder.rglob("*.parquet")
        if path.is_file() and not path.name.startswith((".", "_"))
    )


def read_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """The columns of a Parquet file in batches of `rows`. Raises CorruptShard and MissingColumn."""
    try:
        # Buffering ahead would hold the whole file.
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            names = file.schema_arrow.names
            lacking = [name for name in columns if name not in names]
            if lacking:
                raise MissingColumn(
                    f"{path} lacks the columns {', '.join(lacking)}: it has {', '.join(names)}"
                )
            yield from file.iter_batches(batch_size=rows, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise CorruptShard(
            f"{path} is not a whole Parquet file ({path.stat().st_size} bytes): "
            f"{str(error).splitlines()[0]}. Export the dataset again"
        ) from error
