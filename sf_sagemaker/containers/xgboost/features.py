"""From columns to the numbers that XGBoost sees: float32, categories as codes, missing as NaN."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.shards import MissingColumn


class InvalidColumn(ContainerError):
    """A column of a type, or with values, that the model can't take."""


@dataclass(frozen=True)
class Feature:
    """A feature. `levels` are a categorical's known values, in the order of their codes."""

    name: str
    kind: Literal["numeric", "categorical"]
    levels: tuple[str, ...] | None = None

    @property
    def type_code(self) -> str:
        """XGBoost's letter for the feature's type."""
        return "c" if self.kind == "categorical" else "q"


@dataclass(frozen=True)
class Target:
    """The target. `classes` are its labels in the order of their indices, for classification.

    `positive` says that all its values are above zero, which decides how bias is measured.
    """

    name: str
    transform: Literal["none", "log"]
    classes: tuple[str, ...] | None
    positive: bool


def encode_features(table: "pa.Table | pa.RecordBatch", features: Sequence[Feature]) -> np.ndarray:
    """The features of a table as float32 of shape (features, rows), missing values as NaN.

    A category that isn't among the levels is a missing value. Columns that are no features are
    ignored. Raises MissingColumn, and InvalidColumn for an infinite value or a type that has no
    numbers.
    """
    encoded = np.empty((len(features), table.num_rows), dtype=np.float32)
    for row, feature in zip(encoded, features, strict=True):
        column = _column(table, feature.name)
        if feature.kind == "categorical":
            row[:] = _codes(column, feature.name, feature.levels or ())
            continue
        if not _is_numeric(column.type):
            raise InvalidColumn(
                f"column {feature.name!r} is {column.type}: expected numbers. If its type has "
                "changed since the model was configured, export the dataset again"
            )
        with np.errstate(over="ignore"):
            row[:] = _floats(column)
        if np.isinf(row).any():
            raise InvalidColumn(
                f"column {feature.name!r} has infinite values, or values beyond float32: expected "
                "finite numbers. Turn them into null in the dbt model"
            )
    return encoded


def encode_target(table: "pa.Table | pa.RecordBatch", target: Target) -> np.ndarray:
    """The target of a table, float64 of shape (rows,): values in its units, or class indices.

    Raises MissingColumn, and InvalidColumn for a missing or infinite value, or an unknown class.
    """
    column = _column(table, target.name)
    if target.classes is None or (_is_numeric(column.type) and target.classes == ("0", "1")):
        if not _is_numeric(column.type):
            raise InvalidColumn(f"target {target.name!r} is {column.type}: expected numbers")
        values = _floats(column)
        bad, expected = ~np.isfinite(values), "a finite number in every row"
        if target.classes is not None:
            bad, expected = ~np.isin(values, (0, 1)), "0 or 1 in every row"
    else:
        values = _codes(column, target.name, target.classes)
        bad, expected = np.isnan(values), f"one of {', '.join(target.classes)} in every row"
    if bad.any():
        example = column.slice(int(np.argmax(bad)), 1).to_pylist()[0]
        raise InvalidColumn(
            f"target {target.name!r} is {example!r} in a row, and wrong in {int(bad.sum())} of "
            f"{len(values)}: expected {expected}"
        )
    return values


def _column(table: "pa.Table | pa.RecordBatch", name: str) -> "pa.Array | pa.ChunkedArray":
    if name not in table.schema.names:
        raise MissingColumn(
            f"column {name!r} is missing: the table has {', '.join(table.schema.names)}"
        )
    return table.column(name)


def _is_numeric(kind: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )


def _floats(column: "pa.Array | pa.ChunkedArray") -> np.ndarray:
    if not pa.types.is_float32(column.type):
        column = pc.cast(column, pa.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False)


def _codes(column: "pa.Array | pa.ChunkedArray", name: str, levels: Sequence[str]) -> np.ndarray:
    if pa.types.is_nested(column.type):
        raise InvalidColumn(f"column {name!r} is {column.type}: expected text")
    text = pc.cast(column, pa.string())
    known = pc.SetLookupOptions(pa.array(levels, pa.string()))
    codes = pc.call_function("index_in", [text], known)
    return pc.cast(codes, pa.float64()).to_numpy(zero_copy_only=False)
