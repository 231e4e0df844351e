"""The model card: what a model is, what it was trained on, and how to know that it still works."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.xgboost.features import Feature, Target

CARD_VERSION = 1
CARD_FILE = "model-card.json"
MODEL_FILE = "model.ubj"


class InvalidModelCard(ContainerError):
    """A model card that is missing, unreadable, or of another version."""


@dataclass(frozen=True)
class GoldenRow:
    """A row's features, and the prediction that the model made of it when it was trained.

    `prediction` is a number in target units, a probability of the second class, or one of each.
    """

    features: Mapping[str, Any]
    prediction: float | tuple[float, ...]


@dataclass(frozen=True)
class ModelCard:
    """All there is to know of a model, without timestamps: equal trainings have equal cards.

    `metrics` are {split: {metric: value}} in target units, `learning_curve` {split: {metric: value
    by round}} in what the objective sees, `feature_importance` shares of the total gain.
    `rounds` are {"trained", "best"}, counted from 1; the model ends with its best round.
    """

    model: str
    partition: str
    dataset: Mapping[str, Any]
    features: tuple[Feature, ...]
    target: Target
    task: str
    hyperparameters: Mapping[str, str]
    rounds: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]
    learning_curve: Mapping[str, Mapping[str, list[float]]]
    feature_importance: Mapping[str, float]
    library_versions: Mapping[str, str]
    golden_rows: tuple[GoldenRow, ...]
    seed: int
    instance_count: int

    def write(self, folder: Path) -> None:
        """Writes the card into a model's folder. Numbers that JSON doesn't have become null."""
        content = _finite({"version": CARD_VERSION, **asdict(self)})
        (folder / CARD_FILE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "ModelCard":
        """The card in a model's folder. Raises InvalidModelCard."""
        path = folder / CARD_FILE
        try:
            content = json.loads(path.read_text())
            version = content.pop("version")
        except FileNotFoundError:
            raise InvalidModelCard(f"{path} is missing: {folder} is not a model's folder") from None
        except (ValueError, KeyError, AttributeError) as error:
            raise InvalidModelCard(f"{path} is not a model card: {error}") from error
        if version != CARD_VERSION:
            raise InvalidModelCard(
                f"{path} is of version {version!r}, and this code reads {CARD_VERSION}: "
                "use the code that trained the model, or train it again"
            )
        try:
            content["features"] = tuple(
                Feature(**{**feature, "levels": _tuple(feature["levels"])})
                for feature in content["features"]
            )
            target = content["target"]
            content["target"] = Target(**{**target, "classes": _tuple(target["classes"])})
            content["golden_rows"] = tuple(
                GoldenRow(row["features"], _tuple(row["prediction"]))
                for row in content["golden_rows"]
            )
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise InvalidModelCard(f"{path} is not a model card: {error}") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _finite(value: Any) -> Any:
    """The value with null for every number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
