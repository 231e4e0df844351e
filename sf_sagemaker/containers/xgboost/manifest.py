"""What a training script needs of a dataset's manifest, which arrives as a channel of its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.xgboost.features import Feature, Target
from sf_sagemaker.containers.xgboost.hyperparameters import OBJECTIVES, Hyperparameters


class InvalidManifest(ContainerError):
    """A manifest that is missing, unreadable, or of a dataset that XGBoost can't train on."""


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
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise InvalidManifest(f"{path} is missing: the channel 'manifest' must hold it") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidManifest(f"{path} is not JSON: {error}") from error
    try:
        return _dataset(manifest, hyperparameters)
    except (KeyError, TypeError) as error:
        raise InvalidManifest(
            f"{path} is not a dataset's manifest of version 1: {type(error).__name__} at {error}"
        ) from error


def _dataset(manifest: Mapping[str, Any], hyperparameters: Hyperparameters) -> Dataset:
    if manifest["version"] != 1:
        raise InvalidManifest(f"manifest version {manifest['version']!r}: expected 1")
    spec, window = manifest["spec"], manifest["window"]
    rows = {split: 0 for split in ("train", "validation", "test")}
    for file in manifest["files"]:
        rows[file["split"]] += file["rows"]
    columns = [column for column in manifest["columns"] if "feature" in column["roles"]]
    return Dataset(
        model=spec["model"],
        partition=manifest["partition"],
        description={
            "fingerprint": manifest["fingerprint"],
            "spec_digest": manifest["spec_digest"],
            "window": {key: window[key] for key in ("start", "end", "full")},
            "sampling": {key: spec[key] for key in ("row_key", "fraction", "seed")},
            "split": {key: spec[key] for key in ("split_key", "salt", "splits")},
            "rows": rows,
            "dropped": manifest["dropped"],
        },
        features=_features(columns),
        target=_target(manifest["target"], hyperparameters),
        rows=rows,
    )


def _features(columns: list[Mapping[str, Any]]) -> tuple[Feature, ...]:
    if not columns:
        raise InvalidManifest("the dataset has no feature: expected at least one")
    others = [
        f"{c['name']} ({c['kind']})" for c in columns if c["kind"] not in ("numeric", "categorical")
    ]
    if others:
        raise InvalidManifest(
            f"XGBoost takes numeric and categorical features, not {', '.join(others)}: "
            "exclude them, or derive numbers from them in the dbt model"
        )
    without = [c["name"] for c in columns if c["kind"] == "categorical" and c["levels"] is None]
    if without:
        raise InvalidManifest(f"categorical features without levels: {', '.join(without)}")
    return tuple(
        Feature(
            name=column["name"],
            kind=column["kind"],
            levels=tuple(column["levels"]) if column["kind"] == "categorical" else None,
        )
        for column in columns
    )


def _target(target: Mapping[str, Any], hyperparameters: Hyperparameters) -> Target:
    name, kind, classes = target["name"], target["kind"], target["classes"]
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
    return Target(name, "none", tuple(classes), False)
