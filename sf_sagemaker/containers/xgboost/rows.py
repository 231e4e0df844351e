"""The rows of a split: read once from Parquet, checked, and kept as float32 in a scratch file.

XGBoost's matrices walk their input several times. Decoding Parquet each time is most of its work, so
the encoded rows go to a file without a name, four bytes a value, and are read from there block by
block: memory stays constant whatever the number of rows.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from sf_sagemaker.containers.shards import parquet_files, read_batches
from sf_sagemaker.containers.xgboost.features import (
    Feature,
    InvalidColumn,
    Target,
    encode_features,
    encode_target,
)

_BLOCK_BYTES = 16 * 1024 * 1024


class Rows:
    """Encoded rows of a split. `target` is float64 of shape (rows,), as encode_target gives it."""

    def __init__(self, features: Sequence[Feature], scratch: Path) -> None:
        self.features = tuple(features)
        self.target = np.empty(0)
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
        self._sizes: list[int] = []

    def __len__(self) -> int:
        return sum(self._sizes)

    def blocks(self) -> Iterator[tuple[np.ndarray, slice]]:
        """Float32 matrices of shape (rows of the block, features), and where their rows lie."""
        self._file.seek(0)
        start = 0
        for size in self._sizes:
            block = np.fromfile(self._file, np.float32, size * len(self.features))
            yield block.reshape(len(self.features), size).T, slice(start, start + size)
            start += size

    def _append(self, encoded: np.ndarray) -> None:
        encoded.tofile(self._file)
        self._sizes.append(encoded.shape[1])


def read_rows(
    folder: Path,
    features: Sequence[Feature],
    target: Target,
    scratch: Path,
    check: Callable[[], None],
) -> Rows:
    """The rows of all Parquet files under `folder`, in the order of their paths.

    Their scratch file lies in the folder `scratch`. `check` is called between batches, and may raise
    to end the reading. Raises CorruptShard, MissingColumn and InvalidColumn, naming the file.
    """
    rows = Rows(features, scratch)
    targets = [rows.target]
    columns = list(dict.fromkeys([*(feature.name for feature in features), target.name]))
    for path in parquet_files(folder):
        for batch in read_batches(path, columns, _batch_rows(columns)):
            check()
            try:
                rows._append(encode_features(batch, features))
                targets.append(encode_target(batch, target))
            except InvalidColumn as error:
                raise InvalidColumn(f"{path}: {error}") from error
    rows.target = np.concatenate(targets)
    return rows


def read_head(folder: Path, columns: Sequence[str], count: int) -> pa.Table:
    """The first rows of the Parquet files under `folder`, at most `count`. Raises CorruptShard."""
    batches: list[pa.RecordBatch] = []
    for path in parquet_files(folder):
        for batch in read_batches(path, columns, _batch_rows(columns)):
            missing = count - sum(each.num_rows for each in batches)
            if missing == 0:
                return pa.Table.from_batches(batches)
            batches.append(batch.slice(0, missing))
    return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in columns})


def _batch_rows(columns: Sequence[str]) -> int:
    return max(1024, _BLOCK_BYTES // (4 * len(columns)))
