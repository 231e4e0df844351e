"""The model card: what a model is, what it was trained on, and how to know that it still works."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.model_card import (
    CARD_FILE,
    InvalidModelCard,
    read_card,
    write_card,
)
from sf_sagemaker.containers.xgboost.features import Feature, Target

MODEL_FILE = "model.ubj"


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
        write_card(folder, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "ModelCard":
        """The card in a model's folder. Raises InvalidModelCard."""
        content = read_card(folder)
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
            raise InvalidModelCard(f"{folder / CARD_FILE} is not a model card: {error}") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
