"""A trained model: loaded only where it predicts as it did when it was trained."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xgboost as xgb

from sf_sagemaker.containers.errors import GoldenRowMismatch, ModelUnusable, VersionMismatch
from sf_sagemaker.containers.metrics import Task
from sf_sagemaker.containers.xgboost.features import encode_features, encode_target
from sf_sagemaker.containers.xgboost.model_card import MODEL_FILE, GoldenRow, ModelCard

_BATCH_ROWS = 100_000
_RELATIVE_TOLERANCE = 1e-4  # float32 sums in another order
_ABSOLUTE_TOLERANCE = 1e-6


class XGBoostModel:
    """A model with its card."""

    def __init__(self, booster: xgb.Booster, card: ModelCard) -> None:
        self.booster = booster
        self.card = card

    @property
    def task(self) -> Task:
        """The task whose metrics score the model."""
        return "regression" if self.card.target.classes is None else "classification"

    def predict(self, table: pa.Table) -> np.ndarray:
        """Predictions for rows with the card's features; other columns are ignored.

        float64: of shape (rows,) in target units for regression, (rows,) the probability of the
        second class for two classes, and (rows, classes) otherwise. Raises MissingColumn and
        InvalidColumn.
        """
        parts = [
            self.predict_encoded(encode_features(batch, self.card.features).T)
            for batch in _batches(table)
        ]
        return np.concatenate(parts)

    def predict_encoded(self, matrix: np.ndarray) -> np.ndarray:
        """Predictions for features as encode_features gives them, of shape (rows, features)."""
        multiclass = self.card.task == "multiclass"
        classes = len(self.card.target.classes or ()) if multiclass else 0
        if not len(matrix):
            return np.empty((0, classes) if multiclass else 0)
        raw = self.booster.inplace_predict(matrix, missing=np.nan, validate_features=False)
        predicted = np.asarray(raw, dtype=np.float64)
        return np.exp(predicted) if self.card.target.transform == "log" else predicted

    def actual(self, table: pa.Table) -> np.ndarray:
        """The target of rows as metrics compare it with predictions: values, or class indices.

        float64 of shape (rows,). Raises MissingColumn and InvalidColumn.
        """
        return encode_target(table, self.card.target)

    def save(self, folder: Path) -> None:
        """Writes the model and its card into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.booster.save_raw("ubj"))
        self.card.write(folder)


def load_model(folder: Path) -> XGBoostModel:
    """The model in a folder, after its version and golden rows have been checked.

    Raises InvalidModelCard, VersionMismatch, ModelUnusable and GoldenRowMismatch.
    """
    card = ModelCard.read(folder)
    trained_with = card.library_versions["xgboost"]
    if _minor(trained_with) != _minor(xgb.__version__):
        raise VersionMismatch(
            f"{folder} was trained with xgboost {trained_with}, and xgboost {xgb.__version__} is "
            f"installed: install {_minor(trained_with)}, or train the model again"
        )
    path = folder / MODEL_FILE
    try:
        booster = xgb.Booster(model_file=bytearray(path.read_bytes()))
    except FileNotFoundError:
        raise ModelUnusable(f"{path} is missing: fetch the model's artifact again") from None
    except xgb.core.XGBoostError as error:
        raise ModelUnusable(
            f"{path} is not a whole model ({path.stat().st_size} bytes): fetch the model's "
            "artifact again, or train the model again"
        ) from error
    model = XGBoostModel(booster, card)
    _check_golden_rows(model, folder)
    return model


def golden_rows(model: XGBoostModel, table: pa.Table) -> tuple[GoldenRow, ...]:
    """The rows of a table, with the model's predictions of what is written down of them."""
    columns = {
        feature.name: _plain(table.column(feature.name), feature.kind == "numeric")
        for feature in model.card.features
    }
    rows = [{name: values[i] for name, values in columns.items()} for i in range(table.num_rows)]
    predicted = model.predict(_table(model, rows)).tolist() if rows else []
    return tuple(
        GoldenRow(row, tuple(value) if isinstance(value, list) else value)
        for row, value in zip(rows, predicted, strict=True)
    )


def _check_golden_rows(model: XGBoostModel, folder: Path) -> None:
    rows = model.card.golden_rows
    if not rows:
        return
    found = model.predict(_table(model, [row.features for row in rows]))
    expected = np.array([row.prediction for row in rows])
    close = found.shape == expected.shape and np.isclose(
        found, expected, rtol=_RELATIVE_TOLERANCE, atol=_ABSOLUTE_TOLERANCE
    )
    if not np.all(close):
        raise GoldenRowMismatch(
            f"the model in {folder} predicts {found.tolist()} for its golden rows, and predicted "
            f"{expected.tolist()} when it was trained: its files don't belong together, or the "
            "library predicts something else. Fetch the artifact again, or train the model again"
        )


def _table(model: XGBoostModel, rows: Sequence) -> pa.Table:
    types = {"numeric": pa.float64(), "categorical": pa.string()}
    return pa.table(
        {
            feature.name: pa.array([row[feature.name] for row in rows], types[feature.kind])
            for feature in model.card.features
        }
    )


def _plain(column: pa.ChunkedArray, numeric: bool) -> list:
    """A column as numbers or strings, with None for what is missing."""
    if not numeric:
        return column.cast(pa.string()).to_pylist()
    values = column.cast(pa.float64(), safe=False).to_pylist()
    return [None if value is None or value != value else value for value in values]


def _batches(table: pa.Table) -> list[pa.Table]:
    starts = range(0, max(1, table.num_rows), _BATCH_ROWS)
    return [table.slice(start, _BATCH_ROWS) for start in starts]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
