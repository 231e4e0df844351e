"""A dataset's manifest as XGBoost sees it: which columns are features, and what the target is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.manifest import (
    DatasetColumn,
    DatasetTarget,
    InvalidManifest,
    read_dataset,
)
from sf_sagemaker.containers.xgboost.features import Feature, Target
from sf_sagemaker.containers.xgboost.hyperparameters import OBJECTIVES, Hyperparameters


@dataclass(frozen=True)
class Dataset:
    """A dataset's identity and columns. `description` goes into the model card as it is."""

    model: str
    partition: str
    description: Mapping[str, Any]
    features: tuple[Feature, ...]
    target: Target
    rows: Mapping[str, int]


def read_manifest(folder: Path, hyperparameters: Hyperparameters) -> Dataset:
    """The dataset that `manifest.json` in `folder` describes, for a training with hyperparameters.

    Raises InvalidManifest.
    """
    found = read_dataset(folder)
    return Dataset(
        model=found.model,
        partition=found.partition,
        description=found.card,
        features=_features(found.features),
        target=_target(found.target, hyperparameters),
        rows=found.rows,
    )


def _features(columns: Sequence[DatasetColumn]) -> tuple[Feature, ...]:
    if not columns:
        raise InvalidManifest("the dataset has no feature: expected at least one")
    features, others, without = [], [], []
    for column in columns:
        if column.kind == "numeric":
            features.append(Feature(column.name, "numeric"))
        elif column.kind != "categorical":
            others.append(f"{column.name} ({column.kind})")
        elif column.levels is None:
            without.append(column.name)
        else:
            features.append(Feature(column.name, "categorical", column.levels))
    if others:
        raise InvalidManifest(
            f"XGBoost takes numeric and categorical features, not {', '.join(others)}: "
            "exclude them, or derive numbers from them in the dbt model"
        )
    if without:
        raise InvalidManifest(f"categorical features without levels: {', '.join(without)}")
    return tuple(features)


def _target(target: DatasetTarget, hyperparameters: Hyperparameters) -> Target:
    name, kind, classes = target.name, target.kind, target.classes
    task = OBJECTIVES[hyperparameters.objective].task
    log = hyperparameters.target_transform == "log"
    if task == "regression":
        if kind not in ("numeric", "positive"):
            raise InvalidManifest(
                f"target {name!r} is of kind {kind}, and {hyperparameters.objective} needs "
                "numbers: use binary:logistic or multi:softprob for classes"
            )
        return Target(name, hyperparameters.target_transform, None, log or kind == "positive")
    if task == "binary" and kind == "numeric":
        return Target(name, "none", ("0", "1"), False)
    if kind != "class" or not classes:
        raise InvalidManifest(
            f"target {name!r} is of kind {kind}, and {hyperparameters.objective} needs classes"
        )
    if (task == "binary" and len(classes) != 2) or len(classes) < 2:
        raise InvalidManifest(
            f"target {name!r} has {len(classes)} classes ({', '.join(classes[:10])}), and "
            f"{hyperparameters.objective} needs {'two' if task == 'binary' else 'at least two'}"
        )
    return Target(name, "none", classes, False)
