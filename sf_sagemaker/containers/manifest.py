"""What every training script needs of a dataset's manifest, which arrives as its own channel."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sf_sagemaker.containers.errors import ContainerError

SPLITS: tuple[str, ...] = ("train", "validation", "test")


class InvalidManifest(ContainerError):
    """A manifest that is missing, unreadable, or of a dataset that can't be trained on."""


class IncompleteDataset(ContainerError):
    """Channels that don't hold the rows that the manifest counts."""


@dataclass(frozen=True)
class DatasetColumn:
    """A column. `levels` are the values of a categorical feature in the train split, sorted."""

    name: str
    kind: str
    roles: tuple[str, ...]
    levels: tuple[str, ...] | None


@dataclass(frozen=True)
class DatasetTarget:
    """The target. `classes` are its sorted labels, where its kind is class."""

    name: str
    kind: str
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class DatasetDescription:
    """A dataset as its manifest describes it, whatever is trained on it.

    `card` is what a model card says of the dataset; `rows` are the rows of each split.
    """

    model: str
    partition: str
    card: Mapping[str, Any]
    columns: tuple[DatasetColumn, ...]
    target: DatasetTarget
    rows: Mapping[str, int]

    @property
    def features(self) -> tuple[DatasetColumn, ...]:
        return tuple(column for column in self.columns if "feature" in column.roles)


def count_rows(rows: Mapping[str, int]) -> str:
    """Rows by split, as messages say them."""
    return ", ".join(f"{rows[split]} {split}" for split in SPLITS)


def read_dataset(folder: Path) -> DatasetDescription:
    """The dataset that `manifest.json` in `folder` describes. Raises InvalidManifest."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise InvalidManifest(f"{path} is missing: the channel 'manifest' must hold it") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidManifest(f"{path} is not JSON: {error}") from error
    try:
        return _dataset(manifest)
    except (KeyError, TypeError) as error:
        raise InvalidManifest(
            f"{path} is not a dataset's manifest of version 1: {type(error).__name__} at {error}"
        ) from error


def _dataset(manifest: Mapping[str, Any]) -> DatasetDescription:
    if manifest["version"] != 1:
        raise InvalidManifest(f"manifest version {manifest['version']!r}: expected 1")
    spec, window, target = manifest["spec"], manifest["window"], manifest["target"]
    rows = dict.fromkeys(SPLITS, 0)
    for file in manifest["files"]:
        rows[file["split"]] += file["rows"]
    return DatasetDescription(
        model=spec["model"],
        partition=manifest["partition"],
        card={
            "fingerprint": manifest["fingerprint"],
            "spec_digest": manifest["spec_digest"],
            "window": {key: window[key] for key in ("start", "end", "full")},
            "sampling": {key: spec[key] for key in ("row_key", "fraction", "seed")},
            "split": {key: spec[key] for key in ("split_key", "salt", "splits")},
            "rows": rows,
            "dropped": manifest["dropped"],
        },
        columns=tuple(
            DatasetColumn(
                column["name"], column["kind"], tuple(column["roles"]), _tuple(column["levels"])
            )
            for column in manifest["columns"]
        ),
        target=DatasetTarget(target["name"], target["kind"], _tuple(target["classes"])),
        rows=rows,
    )


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
