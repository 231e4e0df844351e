"""The golden rows of a model card as a request, and whether an answer agrees with the card.

What serves a model asks itself before it takes requests; what watches an endpoint asks it from outside.
Only the card is read, so that no model need be loaded for it.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.model_card import read_card

_RELATIVE_TOLERANCE = 1e-4  # as loading an XGBoost model allows
_ABSOLUTE_TOLERANCE = 1e-6
_LOSS_TOLERANCE = 0.02  # nats; as loading a language model allows


@dataclass(frozen=True)
class GoldenRequest:
    """The golden rows as the JSON body of a request. `rows` is how many there are."""

    rows: int
    body: bytes
    _compare: Callable[[Sequence[Mapping[str, Any]]], str | None]

    def difference(self, answer: bytes) -> str | None:
        """How an answer differs from what the card says; None where it agrees."""
        try:
            predictions = json.loads(answer)["predictions"]
        except (ValueError, KeyError, TypeError):
            return f"the answer is not one of predictions: {answer[:200]!r}"
        if not isinstance(predictions, list) or len(predictions) != self.rows:
            return f"the answer has not one prediction for each of the {self.rows} golden rows"
        try:
            return self._compare(predictions)
        except (KeyError, TypeError, ValueError) as error:
            return f"the answer has predictions of another shape: {error!r}"


def is_language_model(folder: Path) -> bool:
    """Whether the model in a folder is one, by its card. Raises InvalidModelCard."""
    return read_card(folder).get("task") == "completion"


def golden_request(folder: Path) -> GoldenRequest | None:
    """The golden rows of the model in a folder; None where its card has none.

    Raises InvalidModelCard.
    """
    request = _of_prompts(folder) if is_language_model(folder) else _of_features(folder)
    return request if request.rows else None


def _of_features(folder: Path) -> GoldenRequest:
    from sf_sagemaker.containers.xgboost.model_card import ModelCard

    card = ModelCard.read(folder)
    levels = {
        feature.name: {None, *(feature.levels or ())}
        for feature in card.features
        if feature.kind == "categorical"
    }
    # A category that training never saw was a missing value to the model.
    instances = [
        {
            name: value if name not in levels or value in levels[name] else None
            for name, value in row.features.items()
        }
        for row in card.golden_rows
    ]
    classes = card.target.classes

    def found(prediction: Mapping[str, Any]) -> list[float]:
        if classes is None:
            return [float(prediction["prediction"])]
        probabilities = prediction["probabilities"]
        named = classes[1:] if len(classes) == 2 else classes
        return [float(probabilities[name]) for name in named]

    def compare(predictions: Sequence[Mapping[str, Any]]) -> str | None:
        for number, (row, prediction) in enumerate(
            zip(card.golden_rows, predictions, strict=True), start=1
        ):
            expected = row.prediction if isinstance(row.prediction, tuple) else (row.prediction,)
            values = found(prediction)
            if len(values) != len(expected) or not all(
                math.isclose(
                    value, wanted, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_ABSOLUTE_TOLERANCE
                )
                for value, wanted in zip(values, expected, strict=True)
            ):
                return f"golden row {number} is predicted as {values}, and was as {list(expected)}"
        return None

    return GoldenRequest(len(instances), _body(instances), compare)


def _of_prompts(folder: Path) -> GoldenRequest:
    from sf_sagemaker.containers.llm.model_card import ModelCard

    card = ModelCard.read(folder)
    instances = [{"prompt": row.prompt, "completion": row.completion} for row in card.golden_rows]

    def compare(predictions: Sequence[Mapping[str, Any]]) -> str | None:
        for number, (row, prediction) in enumerate(
            zip(card.golden_rows, predictions, strict=True), start=1
        ):
            loss = float(prediction["loss"])
            if not math.isclose(loss, row.loss, rel_tol=_LOSS_TOLERANCE, abs_tol=_LOSS_TOLERANCE):
                return f"golden row {number} has the loss {loss:.4f}, and had {row.loss:.4f}"
        return None

    return GoldenRequest(len(instances), _body(instances), compare)


def _body(instances: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps({"instances": instances}).encode()
