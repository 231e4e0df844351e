"""XGBoost models behind an endpoint: rows of the model card's features in, predictions out.

JSON: `{"instances": [{feature: value, …}, …]}`, answered by `{"predictions": [{"prediction": …}, …]}`;
of classes, with the `probability` of the prediction and the `probabilities` of all.
JSON Lines: `{feature: value, …}` in each line, answered by lines of such predictions.
CSV: a line for each row with the features in the card's order, or in that of a first line with their
names; answered by lines of prediction, and probability.

A value that is missing is null, or an empty cell. A category that the model wasn't trained on is
refused, for it has no branch for it; in a batch transform it counts as missing, as in an evaluation.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sf_sagemaker.containers.serving.requests import (
    CSV,
    JSON,
    JSON_LINES,
    RequestRefused,
    answer_type,
    check_names,
    decode,
    excerpt,
    finite,
    instances,
    media_type,
    parse_number,
    to_json,
)
from sf_sagemaker.containers.xgboost.features import Feature
from sf_sagemaker.containers.xgboost.model import XGBoostModel

_TYPES = (JSON, CSV, JSON_LINES)
_LEVELS_NAMED = 5

Reader = Callable[[Any], float]


class XGBoostHandler:
    """Answers requests with one model, from any thread; with `batch`, those of a batch transform."""

    # Up to a few hundred rows take less than a thread's start.
    inline_bytes = 32_768

    def __init__(self, model: XGBoostModel, *, batch: bool = False) -> None:
        self.model = model
        # A request is a few rows; waking other threads for them takes longer than they save.
        model.booster.set_param({"nthread": 1})
        self._names = [feature.name for feature in model.card.features]
        self._readers = [_reader(feature, batch) for feature in model.card.features]

    def answer(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The answer to a body, and its content type. Raises RequestRefused."""
        asked_in = media_type(content_type, _TYPES)
        answer_in = answer_type(accept, asked_in, _TYPES)
        features = self.model.card.features
        rows = _csv_rows(body, features) if asked_in == CSV else self._json_rows(body, asked_in)
        predicted = self.model.predict_encoded(self._encode(rows))
        if answer_in == CSV:
            return _to_csv(self._predictions(predicted)), "text/csv; charset=utf-8"
        return to_json(self._predictions(predicted), answer_in), answer_in

    def _json_rows(self, body: bytes, content_type: str) -> list[list[Any]]:
        rows = []
        for number, row in enumerate(instances(body, content_type), start=1):
            check_names(number, row, self._names)
            rows.append([row[name] for name in self._names])
        return rows

    def _encode(self, rows: Sequence[Sequence[Any]]) -> np.ndarray:
        """float32 of shape (rows, features), as encode_features gives it, transposed."""
        encoded = np.empty((len(rows), len(self._names)), dtype=np.float64)
        for number, row in enumerate(rows):
            for column, (reader, value) in enumerate(zip(self._readers, row, strict=True)):
                try:
                    encoded[number, column] = reader(value)
                except _Wrong as wrong:
                    raise RequestRefused(
                        f"row {number + 1}: {self._names[column]!r} is {excerpt(value)}: {wrong}"
                    ) from None
        with np.errstate(over="ignore"):
            narrow = encoded.astype(np.float32)
        beyond = np.argwhere(np.isinf(narrow))
        if len(beyond):
            number, column = beyond[0]
            raise RequestRefused(
                f"row {number + 1}: {self._names[column]!r} is {encoded[number, column]:g}: "
                "expected a number within the range of float32"
            )
        return narrow

    def _predictions(self, predicted: np.ndarray) -> list[dict[str, Any]]:
        classes = self.model.card.target.classes
        if classes is None:
            return [{"prediction": finite(value)} for value in predicted.tolist()]
        likely, probability, probabilities = likeliest(predicted)
        return [
            {
                "prediction": classes[index],
                "probability": finite(its),
                "probabilities": dict(zip(classes, map(finite, row), strict=True)),
            }
            for index, its, row in zip(
                likely.tolist(), probability.tolist(), probabilities.tolist(), strict=True
            )
        ]


def likeliest(predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a classifier's predictions: each row's likeliest class, its probability, and all of them.

    Indices (rows,), float64 (rows,) and float64 (rows, classes).
    """
    if predicted.ndim == 1:
        predicted = np.stack([1 - predicted, predicted], axis=1)
    likely = predicted.argmax(axis=1)
    return likely, predicted[np.arange(len(predicted)), likely], predicted


class _Wrong(ValueError):
    """A value that the model can't take; the message says what it takes."""


def _reader(feature: Feature, unknown_is_missing: bool) -> Reader:
    """What turns a value into the number that the model sees: NaN where it is missing."""
    if feature.kind == "numeric":
        return _number
    levels = feature.levels or ()
    codes = {level: float(code) for code, level in enumerate(levels)}
    named = ", ".join(map(repr, levels[:_LEVELS_NAMED])) + (
        f" and {len(levels) - _LEVELS_NAMED} more" if len(levels) > _LEVELS_NAMED else ""
    )

    def code(value: Any) -> float:
        if value is None:
            return np.nan
        found = codes.get(value) if isinstance(value, str) else None
        if found is None and unknown_is_missing and isinstance(value, str):
            return np.nan
        if found is None:
            raise _Wrong(f"expected one of the model's categories, {named}, or null")
        return found

    return code


def _number(value: Any) -> float:
    if value is None:
        return np.nan
    if not isinstance(value, int | float):
        raise _Wrong("expected a number, or null where it is unknown")
    try:
        return float(value)
    except OverflowError:
        raise _Wrong("expected a number within the range of float32") from None


def _csv_rows(body: bytes, features: Sequence[Feature]) -> list[list[Any]]:
    """The values of each line in the order of the features, as JSON would have them."""
    names = [feature.name for feature in features]
    try:
        lines = list(csv.reader(io.StringIO(decode(body), newline=""), strict=True))
    except csv.Error as error:
        raise RequestRefused(f"the body is not CSV: {error}") from None
    if lines and lines[0] and set(lines[0]) == set(names) and len(lines[0]) == len(names):
        order = [lines[0].index(name) for name in names]
        lines = lines[1:]
    else:
        order = list(range(len(names)))
    if not lines:
        raise RequestRefused("the body has no rows: expected at least one line of values")
    rows = []
    for number, cells in enumerate(lines, start=1):
        if len(cells) != len(names):
            raise RequestRefused(
                f"row {number} has {len(cells)} values: expected {len(names)}, one for each of "
                f"{', '.join(names)}, and an empty one where it is unknown"
            )
        rows.append(
            [_value(cells[index], feature) for index, feature in zip(order, features, strict=True)]
        )
    return rows


def _value(cell: str, feature: Feature) -> Any:
    """None for an empty cell; what is no number stays text, and is refused as such."""
    if not cell or feature.kind == "categorical":
        return cell or None
    number = parse_number(cell)
    return cell if number is None else number


def _to_csv(predictions: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for one in predictions:
        values = [one["prediction"], *([one["probability"]] if "probability" in one else [])]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue().encode()
