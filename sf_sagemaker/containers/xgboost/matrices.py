"""Rows as the boosting walks them: training rows in bins, in memory or where they are many on disk.

Of many rows a sample tells where to cut features into bins: a bin's share of the rows is then off
by some hundredths of itself. Quantiles of all rows would take a third of the time of a training,
and binned rows in memory most of its memory. Held-out rows are not binned: XGBoost scores bins that
may be missing at a third of the speed of values.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xgboost as xgb

from sf_sagemaker.containers.xgboost.rows import Rows

_MANY = 2**19
_SAMPLE = 2**18  # a thousand rows for each of the usual 256 bins


@dataclass(frozen=True)
class MatrixMaker:
    """Makes the matrices of a training on all hosts alike.

    `rows` is the number of training rows of all hosts together. Matrices on disk lie in the folder
    `scratch`. `check` is called between blocks of rows, and may raise. Labels are what the objective
    sees: float32 of shape (rows,).
    """

    rows: int
    max_bin: int
    scratch: Path
    check: Callable[[], None]

    def train(self, rows: Rows, labels: np.ndarray) -> xgb.DMatrix:
        """The training rows of this host, with the same cuts on all hosts."""
        if self.rows <= _MANY:
            return self._in_memory(_Blocks(rows, labels, self.check))
        step = math.ceil(self.rows / _SAMPLE)
        sample = self._in_memory(_SampledBlocks(rows, labels, self.check, step))
        return xgb.ExtMemQuantileDMatrix(
            _Blocks(rows, labels, self.check, self.scratch / "train"),
            max_bin=self.max_bin,
            ref=sample,
            enable_categorical=True,
        )

    def held_out(self, rows: Rows, labels: np.ndarray) -> xgb.DMatrix:
        """Other rows, to be scored every round."""
        blocks = _Blocks(rows, labels, self.check, self.scratch / "held-out")
        return xgb.DMatrix(blocks, enable_categorical=True)

    def _in_memory(self, blocks: "_Blocks") -> xgb.QuantileDMatrix:
        return xgb.QuantileDMatrix(blocks, max_bin=self.max_bin, enable_categorical=True)


class _Blocks(xgb.DataIter):
    """Rows as XGBoost takes them; `cache` is how files of a matrix on disk begin."""

    def __init__(
        self,
        rows: Rows,
        labels: np.ndarray,
        check: Callable[[], None],
        cache: Path | None = None,
    ) -> None:
        super().__init__(str(cache) if cache else None, release_data=True, on_host=False)
        self._rows = rows
        self._labels = labels
        self._check = check
        self._blocks = self._iterate()

    def reset(self) -> None:
        self._blocks = self._iterate()

    def next(self, input_data: Callable[..., None]) -> bool:
        self._check()
        block, labels = next(self._blocks, (None, None))
        if block is None:
            return False
        features = self._rows.features
        names = [feature.name for feature in features]
        input_data(
            # XGBoost reads columns of Arrow in two thirds of the time of a NumPy matrix.
            data=pa.table([pa.array(column) for column in block.T], names),
            label=labels,
            feature_names=names,
            feature_types=[feature.type_code for feature in features],
        )
        return True

    def _iterate(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block, where in self._rows.blocks():
            yield block, self._labels[where]


class _SampledBlocks(_Blocks):
    """Every `step`-th row of each block, and one row with the last level of each categorical.

    XGBoost takes all codes up to the largest that it sees for the categories of a feature, and walks
    the rows several times, so that they are gathered once.
    """

    def __init__(
        self, rows: Rows, labels: np.ndarray, check: Callable[[], None], step: int
    ) -> None:
        super().__init__(rows, labels, check)
        last = [len(f.levels) - 1 if f.levels else np.nan for f in rows.features]
        blocks, chosen = [np.array([last], np.float32)], [labels[:1]]
        for block, where in rows.blocks():
            check()
            blocks.append(block[::step].copy())  # or the whole block would stay
            chosen.append(labels[where][::step])
        self._sample = np.concatenate(blocks), np.concatenate(chosen)

    def _iterate(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield self._sample
