"""A model's life week by week over the library's functions, without Dagster: what a replay must equal."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from locations import REPOSITORY
from sf_sagemaker.components import XGBoostModel
from sf_sagemaker.components.retraining import retraining_policy
from sf_sagemaker.containers import program_files
from sf_sagemaker.lifecycle.champions import Champion, read_champions
from sf_sagemaker.lifecycle.period_evaluation import Predictors, evaluate_period
from sf_sagemaker.lifecycle.promotion import update_champion
from sf_sagemaker.lifecycle.registry import describe_model, register_model
from sf_sagemaker.lifecycle.retraining import ModelState, Training, decide
from sf_sagemaker.lifecycle.scorers import XGBoostScorer
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.job import Program, TrainingJob, dataset_channels
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.run import TRAINING, run_job
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.export import export_dataset


@dataclass
class PlainLoop:
    """The shipped house_prices, over features that are built already; `home` is where all else lies."""

    home: Path
    features: Path
    trained: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = (REPOSITORY / "sf_sagemaker/defs/house_prices/defs.yaml").read_text()
        self.model = XGBoostModel.resolve_from_yaml(yaml.dump(yaml.safe_load(text)["attributes"]))
        self.spec = self.model.dataset_spec(
            Relation(schema_name="features", name="house_price_features"),
            target=self.model.target,
            target_kind="positive",
            features=self.model.features,
            exclude=self.model.exclude,
        )
        self.cadence = self.model.partitions.cadence()
        self.storage = LocalStorage(self.home / "storage")
        self.warehouse = DuckDBWarehouse(self.features, lock_timeout=60)
        self.platform = LocalTrainingPlatform(self.storage)
        metric = self.model.evaluation.metric
        assert metric is not None
        self.predictors = Predictors(self.platform, XGBoostScorer(self.spec, metric))
        self.policy = retraining_policy(
            self.cadence, self.spec.window, self.model.freshness, self.model.retraining
        )
        self.limits = self.model.decay.limits(self.cadence, text=False)
        self.decayed = False

    def live(self, landed: str, weeks: list[str]) -> list[Champion]:
        """The promotion log after these weeks, the ones up to `landed` being there from the start."""
        self.retrain(landed)
        for week in weeks:
            self.evaluate(week)
            self.look_at_champion()
            self.retrain(week)
        return read_champions(self.storage, self.spec.model)

    def evaluate(self, week: str) -> None:
        evaluate_period(
            self.warehouse,
            self.storage,
            self.spec,
            self.cadence,
            week,
            self.predictors,
            max_age=self.model.evaluation.oldest(self.cadence),
            evaluated_at=datetime.now(UTC),
        )

    def look_at_champion(self) -> None:
        now = update_champion(
            self.storage,
            self.spec.model,
            self.cadence,
            self.predictors,
            self.limits,
            self.model.promotion.rules(
                self.spec.seed, self.model.freshness.window() if self.model.freshness else None
            ),
            promoted_at=datetime.now(UTC),
        )
        self.decayed = now.point is not None and bool(now.point.causes)

    def retrain(self, week: str) -> None:
        now = datetime.now(UTC)
        newest = None
        if self.trained:
            newest = Training(self.trained[-1], now - timedelta(minutes=1), len(self.trained))
        state = ModelState(now, newest, week, decay_failed=now if self.decayed else None)
        decision = decide(state, self.policy, "sensor")
        if decision.partition is None:
            return
        self.train(decision.partition)
        self.trained.append(decision.partition)
        self.look_at_champion()

    def train(self, week: str) -> None:
        export = export_dataset(
            self.warehouse, self.storage, self.spec, self.cadence, week, attempt="plain"
        )
        hyperparameters = {
            **self.model.hyperparameters.strings(),
            "target_transform": self.model.target_transform,
            "seed": str(self.spec.seed),
        }
        job = TrainingJob(
            model=self.spec.model,
            partition=week,
            program=Program(*program_files("xgboost")),
            image=self.platform.image("xgboost"),
            dataset_fingerprint=export.manifest.fingerprint.value,
            channels=dataset_channels(export.key),
            hyperparameters=hyperparameters,
            seed=self.spec.seed,
        )
        result = run_job(job, self.platform, TRAINING, poll_seconds=0.2)
        register_model(
            self.storage,
            describe_model(
                export.manifest,
                export.key,
                training_job=result.name,
                artifact_uri=result.description.artifact_uri or "",
                trained_at=datetime.now(UTC).isoformat(),
            ),
        )
