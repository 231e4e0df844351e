"""What a training dataset is: the specification that asks for it, the manifest that commits it."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Role = Literal["row_key", "split_key", "event_time", "available_at", "target", "feature"]
Kind = Literal["numeric", "categorical", "text", "key", "time"]
TargetKind = Literal["numeric", "positive", "class", "text"]


class Value(BaseModel):
    """An immutable value: unknown fields are errors, equal fields mean equal values."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Relation(Value):
    """A table or view, named as its owner writes it; case is resolved against the warehouse."""

    name: str
    schema_name: str | None = None
    database: str | None = None

    def __str__(self) -> str:
        return ".".join(part for part in (self.database, self.schema_name, self.name) if part)


class SplitFractions(Value):
    """The share of split keys that falls into each split; the three add up to 1."""

    train: float = Field(default=0.8, gt=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _adds_up(self) -> "SplitFractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test must add up to 1, not {total:g}")
        return self


class DatasetSpec(Value):
    """Which rows and columns a model's datasets hold, whatever the period.

    Column names are as configured; they are resolved against the warehouse without regard to case.
    `features` None takes every column that has no other role and isn't in `exclude`. `label_delay`
    is in days: a row's label is known that long after its event, unless `available_at` names the
    column that says when. `string_features` says whether a string feature is one of few categories
    or free text. `window` is the trailing window's length, as text ("17 weeks").
    """

    model: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    source: Relation
    row_key: tuple[str, ...] = Field(min_length=1)
    split_key: tuple[str, ...] = Field(min_length=1)
    event_time: str
    target: str
    target_kind: TargetKind = "numeric"
    features: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    string_features: Literal["categorical", "text"] = "categorical"
    available_at: str | None = None
    label_delay: int = Field(default=0, ge=0)
    window: str
    fraction: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    salt: str = "split"
    splits: SplitFractions = SplitFractions()
    shards: int = Field(default=1, ge=1, le=1000)

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with anything that decides which rows a dataset holds."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class Column(Value):
    """A column of a dataset: `name` as exported (lower case), `source_name` as the source has it.

    `type` is the type it was cast to, in the warehouse's language. `levels` are the sorted values
    that occur in the train split, for categorical features only.
    """

    name: str
    source_name: str
    source_type: str
    type: str
    kind: Kind
    roles: tuple[Role, ...]
    levels: tuple[str, ...] | None = None


class Target(Value):
    """The target as the rows of a dataset show it; `classes` are its sorted labels, for kind class.

    `minimum` and `maximum` are over the sampled, labelled rows, for numeric targets.
    """

    name: str
    kind: TargetKind
    classes: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None


class Fingerprint(Value):
    """An order-independent digest of rows; comparable only where `algorithm` is the same.

    A dataset's covers its rows, the names and types of its columns, and how rows fall into splits,
    but not into shards; a period's covers its rows alone.
    """

    algorithm: str
    value: str


class WindowPeriod(Value):
    """A period of the window, and the rows it gave the dataset. Bounds: ISO dates, [start, end)."""

    partition: str
    start: str
    end: str
    rows: int
    fingerprint: Fingerprint


class ManifestWindow(Value):
    """The trailing window. `full` False is warm-up; `missing` names its periods without rows."""

    start: str
    end: str
    full: bool
    periods: tuple[WindowPeriod, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(period.partition for period in self.periods if period.rows == 0)


class ShardFile(Value):
    """A Parquet file of a dataset; `path` is relative to the folder of the manifest."""

    split: Split
    shard: int
    path: str
    rows: int
    bytes: int


class Dropped(Value):
    """Rows of the window that are not in the dataset, by reason."""

    missing_target: int = 0
    label_not_yet_known: int = 0
    not_sampled: int = 0


class Manifest(Value):
    """What commits a dataset. Without it, the files beside it are nobody's dataset.

    Written last and create-only as `manifest.json`, in
    `datasets/<model>/<partition>/<spec digest>/<attempt>/`. Times are ISO 8601; durations seconds.
    `source_version` is the moment whose rows of the source were read, where the warehouse keeps
    versions of it: Snowflake does for tables, and not for views.
    """

    version: Literal[1] = 1
    spec: DatasetSpec
    spec_digest: str
    partition: str
    attempt: str
    created_at: str
    window: ManifestWindow
    columns: tuple[Column, ...]
    target: Target
    files: tuple[ShardFile, ...]
    dropped: Dropped
    fingerprint: Fingerprint
    sql: str
    query_id: str | None = None
    source_version: str | None = None
    export_seconds: float

    @property
    def model(self) -> str:
        return self.spec.model

    @property
    def features(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if "feature" in column.roles)

    def rows(self, split: Split | None = None) -> int:
        """Rows of one split, or of all."""
        return sum(file.rows for file in self.files if split in (None, file.split))

    def bytes(self, split: Split | None = None) -> int:
        """Bytes of the Parquet files of one split, or of all."""
        return sum(file.bytes for file in self.files if split in (None, file.split))
