"""Batch scoring on the stand-in: a small warehouse, a champion, and what scores with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from serving.models import Artifacts, save_classifier
from sf_sagemaker.aws import Aws
from sf_sagemaker.lifecycle.champions import Champion, promote
from sf_sagemaker.lifecycle.registry import RegisteredModel, register_model
from sf_sagemaker.periods import Cadence
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.batch import LocalBatchScoring, TransformOptions
from sf_sagemaker.serving.predictions import ScoredPeriod, predict_period
from sf_sagemaker.serving.sagemaker_model import SageMakerModels
from sf_sagemaker.serving.sagemaker_transform import SageMakerBatchScoring, SageMakerTransforms
from sf_sagemaker.training.job import Limits
from sf_sagemaker.training.platform import Pacing
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from standins.sagemaker.service import SageMakerService

BUCKET = "predictions-of-a-team"
WEEK = "2024-01-08"
CADENCE = Cadence("week", datetime(2024, 1, 1), datetime(2024, 2, 26))
OPTIONS = TransformOptions(min_rows=1, limits=Limits(price_per_hour=36.0), max_payload_mb=1)
PACING = Pacing(poll=0.05, longest_poll=0.1, settle=0.3, retry=0.05)

# 300 rows of the week, a few values missing, with an area that no model knows and keys that need care.
SALES = """
create schema analytics;
create table analytics.houses as
select
    i as sale_id,
    'lot "' || i || E'", line\\n2' as lot,
    date '2024-01-08' + cast(i % 7 as integer) as sold_on,
    case when i % 20 > 0 then cast(1 + i % 6 as double) end as rooms,
    (hash(i) % 1000) / 1000.0 as distance,
    case i % 4 when 3 then 'east' else ['north', 'south', 'west'][1 + i % 4] end as area,
    cast(null as double) as price,
    'dear' as level
from range(300) as numbers(i)
"""


@dataclass
class TransformSite:
    """What is needed to score the week, in this process or by a transform job."""

    service: SageMakerService
    storage: S3Storage
    warehouse: DuckDBWarehouse
    artifacts: Artifacts
    file: Path
    spec: DatasetSpec
    scored: list[ScoredPeriod] = field(default_factory=list)

    @property
    def models(self) -> SageMakerModels:
        return SageMakerModels(
            Aws(self.service.region), self.storage, self.service.role_arn, self.artifacts.fetch
        )

    @property
    def transforms(self) -> SageMakerTransforms:
        return SageMakerTransforms(
            Aws(self.service.region), self.storage, self.service.role_arn, pacing=PACING
        )

    def crown(self, job: str, version: int = 1) -> None:
        """Makes the model of a training job the champion of the week."""
        register_model(
            self.storage,
            RegisteredModel(
                model=self.spec.model,
                partition="2024-01-01",
                training_job=job,
                artifact_uri=f"{self.storage.uri('training-jobs')}/{job}/output/model.tar.gz",
                trained_at="2024-01-08T00:00:00+00:00",
                dataset="",
                dataset_fingerprint="",
                spec_digest="",
                target=self.spec.target,
                target_kind=self.spec.target_kind,
                split="",
                features=(("rooms", "numeric"), ("distance", "numeric"), ("area", "categorical")),
                warm_up=False,
            ),
        )
        promote(
            self.storage,
            Champion(
                version=version,
                model=self.spec.model,
                partition="2024-01-01",
                training_job=job,
                in_force_from=WEEK,
                promoted_at="2024-01-08T00:00:00+00:00",
                kind="first" if version == 1 else "promotion",
                reason="it is there",
                figures={},
            ),
        )

    def transform(self, options: TransformOptions = OPTIONS, **others: Any) -> ScoredPeriod:
        """Scores the week as the deployment `aws` does."""
        scoring = SageMakerBatchScoring(self.transforms, self.models, self.artifacts.fetch)
        return self._predict(scoring, transform=options, **others)

    def here(self) -> ScoredPeriod:
        """Scores the week in this process."""
        return self._predict(LocalBatchScoring(self.artifacts.fetch))

    def _predict(self, scoring: Any, **others: Any) -> ScoredPeriod:
        return predict_period(
            self.warehouse,
            self.storage,
            scoring,
            self.spec,
            CADENCE,
            WEEK,
            **{
                "program": "xgboost",
                "predicted_at": datetime(2024, 1, 15, tzinfo=UTC),
                "batch_rows": 70,
                **others,
            },
        )

    def table(self, columns: str = "* exclude predicted_at") -> list[tuple[Any, ...]]:
        """The predictions, by key."""
        return self.sql(f"select {columns} from predictions.{self.spec.model} order by sale_id")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.file)) as connection:
            return connection.execute(statement).fetchall()

    def of_classes(self, classes: tuple[str, ...]) -> "TransformSite":
        """The same, for a model of classes, of which the first champion is there."""
        made = replace(
            self,
            spec=self.spec.model_copy(
                update={"model": "levels", "target": "level", "target_kind": "class"}
            ),
        )
        save_classifier(self.artifacts.root / "levels-job", classes)
        made.crown("levels-job")
        return made


@contextmanager
def transform_site(
    service: SageMakerService, folder: Path, patch: pytest.MonkeyPatch, prefix: str
) -> Iterator[TransformSite]:
    """A deployment of a test's own, with the champion `houses-job-1`."""
    for name, value in service.environment.items():
        patch.setenv(name, value)
    bucket = service.create_bucket(f"{BUCKET}-{prefix}")
    file = folder / "warehouse.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute(SALES)
    site = TransformSite(
        service=service,
        storage=S3Storage(Aws(service.region), bucket, "serving/tests"),
        warehouse=DuckDBWarehouse(file),
        artifacts=Artifacts(folder / "artifacts"),
        file=file,
        spec=DatasetSpec(
            model="houses",
            source=Relation(schema_name="analytics", name="houses"),
            row_key=("sale_id", "lot"),
            split_key=("sale_id",),
            event_time="sold_on",
            target="price",
            target_kind="positive",
            window="2 weeks",
            exclude=("level",),
        ),
    )
    site.artifacts.add("houses-job-1")
    site.crown("houses-job-1")
    yield site
