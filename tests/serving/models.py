"""Small trained models, as artifacts are when they are unpacked."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb

from sf_sagemaker.containers.xgboost.features import Feature, Target, encode_features
from sf_sagemaker.containers.xgboost.model import XGBoostModel, golden_rows
from sf_sagemaker.containers.xgboost.model_card import ModelCard

AREAS = ("north", "south", "west")
FEATURES = (
    Feature("rooms", "numeric"),
    Feature("distance", "numeric"),
    Feature("area", "categorical", AREAS),
)
ROW: dict[str, Any] = {"rooms": 3, "distance": 0.5, "area": "south"}


def houses(rows: int = 400, *, level: float = 0.0) -> pa.Table:
    """Rooms, distance and area, some of them missing, and what they make of a price."""
    random = np.random.default_rng(7)
    rooms = random.integers(1, 7, rows).astype(float)
    distance = random.random(rows)
    area = random.integers(0, 3, rows)
    price = np.exp(level) * 100 * rooms * (1 + area) * (2 - distance)
    return pa.table(
        {
            "rooms": pa.array(rooms, mask=random.random(rows) < 0.05),
            "distance": pa.array(distance),
            "area": pa.array([AREAS[i] for i in area], mask=random.random(rows) < 0.05),
            "price": pa.array(price),
        }
    )


def save_regression(folder: Path, *, level: float = 0.0) -> Path:
    """A model of prices, which are higher by `level` on the log scale."""
    table = houses(level=level)
    return _save(
        folder, table, np.log(table["price"].to_numpy()), {"objective": "reg:squarederror"},
        Target("price", "log", None, True), "regression",
    )  # fmt: skip


def save_classifier(folder: Path, classes: tuple[str, ...]) -> Path:
    """A model of two or more classes of price."""
    table = houses()
    price = table["price"].to_numpy()
    labels = np.searchsorted(np.quantile(price, np.linspace(0, 1, len(classes) + 1)[1:-1]), price)
    binary = len(classes) == 2
    objective = (
        {"objective": "binary:logistic"}
        if binary
        else {"objective": "multi:softprob", "num_class": len(classes)}
    )
    target = Target("price", "none", classes, False)
    return _save(folder, table, labels, objective, target, "binary" if binary else "multiclass")


def _save(
    folder: Path,
    table: pa.Table,
    labels: np.ndarray,
    objective: dict[str, Any],
    target: Target,
    task: str,
) -> Path:
    matrix = xgb.DMatrix(
        encode_features(table, FEATURES).T,
        labels,
        missing=np.nan,
        feature_types=[feature.type_code for feature in FEATURES],
        enable_categorical=True,
    )
    booster = xgb.train(
        {**objective, "max_depth": 3, "eta": 0.3, "nthread": 1, "seed": 1}, matrix, 20
    )
    card = ModelCard(
        model="houses",
        partition="2024-01-01",
        dataset={},
        features=FEATURES,
        target=target,
        task=task,
        hyperparameters={},
        rounds={"trained": 20, "best": 20},
        metrics={},
        learning_curve={},
        feature_importance={},
        library_versions={"xgboost": xgb.__version__},
        golden_rows=(),
        seed=1,
        instance_count=1,
    )
    rows = golden_rows(XGBoostModel(booster, card), table.slice(0, 5))
    XGBoostModel(booster, replace(card, golden_rows=rows)).save(folder)
    return folder


@dataclass
class Artifacts:
    """Models by training job, in place of a training platform."""

    root: Path

    def add(self, job: str, *, level: float = 0.0) -> Path:
        return save_regression(self.root / job, level=level)

    def fetch(self, job: str, folder: Path) -> Path:
        return Path(shutil.copytree(self.root / job, folder / job))

    def change_card(self, job: str, **changes: object) -> None:
        path = self.root / job / "model-card.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
