"""Evaluations that rest on predictions which were stored before the labels were known."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from serving.models import Artifacts, save_classifier
from sf_sagemaker.lifecycle.champions import Champion, promote
from sf_sagemaker.lifecycle.evaluation import Evaluation, evaluations_of, read_outcomes
from sf_sagemaker.lifecycle.period_evaluation import Predictors, evaluate_period
from sf_sagemaker.lifecycle.registry import RegisteredModel, register_model
from sf_sagemaker.lifecycle.scorers import XGBoostScorer
from sf_sagemaker.periods import Cadence
from sf_sagemaker.serving.batch import LocalBatchScoring
from sf_sagemaker.serving.predictions import predict_period
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse

CADENCE = Cadence("week", datetime(2024, 1, 1), datetime(2024, 2, 26))
WEEK = "2024-01-08"

# Two weeks of 140 sales; those of the second have no price and no class yet.
SALES = """
create schema analytics;
create table analytics.houses as
select
    i as sale_id,
    date '2024-01-01' + cast(i // 20 as integer) as sold_on,
    cast(1 + i % 6 as double) as rooms,
    (hash(i) % 1000) / 1000.0 as distance,
    ['north', 'south', 'west'][1 + i % 3] as area,
    case when i < 140 then 100.0 * (1 + i % 6) end as price,
    case when i < 140 then ['cheap', 'dear'][1 + i % 2] end as level
from range(280) as numbers(i)
"""


class Counting:
    """Gives artifacts, and says which were asked for."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        self.asked: list[str] = []

    def fetch_artifact(self, name: str, folder: Path) -> Path:
        self.asked.append(name)
        return self.artifacts.fetch(name, folder)


class Site:
    """A warehouse, a storage, and models of small artifacts."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "warehouse.duckdb"
        self.sql(SALES)
        self.warehouse = DuckDBWarehouse(self.file)
        self.storage = LocalStorage(folder / "storage")
        self.artifacts = Artifacts(folder / "artifacts")
        self.spec = self._spec("price", "positive", exclude=("level",))

    def _spec(self, target: str, kind: Any, exclude: tuple[str, ...]) -> DatasetSpec:
        return DatasetSpec(
            model="houses",
            source=Relation(schema_name="analytics", name="houses"),
            row_key=("sale_id",),
            split_key=("sale_id",),
            event_time="sold_on",
            target=target,
            target_kind=kind,
            window="1 week",
            exclude=exclude,
        )

    def of_classes(self, classes: tuple[str, ...]) -> None:
        """From now on, the model is one of classes."""
        self.sql("alter table analytics.houses drop price")
        self.sql("alter table analytics.houses rename level to price")
        self.spec = self._spec("price", "class", exclude=())
        save_classifier(self.artifacts.root / "job", classes)
        self.register("job", classes)

    def register(self, job: str, classes: tuple[str, ...] | None = None) -> None:
        register_model(
            self.storage,
            RegisteredModel(
                model="houses",
                partition="2024-01-01",
                training_job=job,
                artifact_uri="",
                trained_at="2024-01-08T00:00:00+00:00",
                dataset="",
                dataset_fingerprint="",
                spec_digest="",
                target=self.spec.target,
                target_kind=self.spec.target_kind,
                split="",
                features=(("rooms", "numeric"), ("distance", "numeric"), ("area", "categorical")),
                warm_up=False,
                classes=classes,
            ),
        )

    def crown(self, job: str) -> None:
        promote(
            self.storage,
            Champion(
                version=1,
                model="houses",
                partition="2024-01-01",
                training_job=job,
                in_force_from=WEEK,
                promoted_at="2024-01-08T00:00:00+00:00",
                kind="first",
                reason="it is there",
                figures={},
            ),
        )

    def predict(self) -> None:
        predict_period(
            self.warehouse,
            self.storage,
            LocalBatchScoring(self.artifacts.fetch),
            self.spec,
            CADENCE,
            WEEK,
            program="xgboost",
            predicted_at=datetime(2024, 1, 15, tzinfo=UTC),
        )

    def label(self) -> None:
        """Prices, or their classes, become known."""
        known = "90.0 * (1 + sale_id % 6)"
        if self.spec.target_kind == "class":
            known = "['cheap', 'dear'][1 + sale_id % 2]"
        self.sql(f"update analytics.houses set price = {known} where price is null")

    def evaluate(self, *, from_predictions: bool = True) -> tuple[Evaluation, list[str]]:
        """The evaluation of the week, and the models that were loaded for it."""
        platform = Counting(self.artifacts)
        classes = self.spec.target_kind == "class"
        metric = "log_loss" if classes else "median_absolute_percentage_error"
        evaluated = evaluate_period(
            self.warehouse,
            self.storage,
            self.spec,
            CADENCE,
            WEEK,
            Predictors(platform, XGBoostScorer(self.spec, metric)),  # type: ignore[arg-type]
            max_age=5,
            evaluated_at=datetime(2024, 2, 1, tzinfo=UTC),
            from_predictions=from_predictions,
        )
        return evaluated, platform.asked

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.file)) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.artifacts.add("job")
    return made


def both(site: Site) -> tuple[Evaluation, Evaluation]:
    """The evaluation from predictions, and the one of a model that is loaded."""
    stored, asked = site.evaluate()
    anew, loaded = site.evaluate(from_predictions=False)
    assert "job" in loaded
    assert "job" not in asked
    assert (stored.from_predictions, anew.from_predictions) == (140, 0)
    return stored, anew


def test_labels_that_arrive_later_are_compared_with_what_was_predicted(site: Site) -> None:
    site.register("job")
    site.crown("job")
    site.predict()
    site.label()
    stored, anew = both(site)
    for one, other in zip(stored.scores, anew.scores, strict=True):
        assert one.predictor == other.predictor
        assert one.error.estimate == pytest.approx(other.error.estimate, rel=1e-6)
        assert one.error.low == pytest.approx(other.error.low, rel=1e-6)
        assert one.bias.estimate == pytest.approx(other.bias.estimate, rel=1e-6)
    outcomes, others = (read_outcomes(site.storage, it, ["job"])["job"] for it in (stored, anew))
    assert outcomes.rows.tolist() == others.rows.tolist()
    np.testing.assert_allclose(outcomes.predicted, others.predicted, rtol=1e-6)
    assert evaluations_of(site.storage, "houses", WEEK)[0].from_predictions == 140


def test_two_classes_are_told_by_the_likelier_one_and_its_probability(site: Site) -> None:
    site.of_classes(("cheap", "dear"))
    site.crown("job")
    site.predict()
    site.label()
    stored, anew = both(site)
    outcomes, others = (read_outcomes(site.storage, it, ["job"])["job"] for it in (stored, anew))
    np.testing.assert_allclose(outcomes.predicted, others.predicted, rtol=1e-6)
    assert outcomes.actual.tolist() == others.actual.tolist()
    assert set(outcomes.actual.tolist()) == {0.0, 1.0}


def test_more_classes_are_predicted_anew(site: Site) -> None:
    site.of_classes(("cheap", "dear", "fair"))
    site.crown("job")
    site.predict()
    site.label()
    evaluated, asked = site.evaluate()
    assert evaluated.from_predictions == 0
    assert "job" in asked


def test_what_was_predicted_counts_though_features_have_changed_since(site: Site) -> None:
    site.register("job")
    site.crown("job")
    site.predict()
    site.label()
    before, _ = site.evaluate()
    site.sql(f"update analytics.houses set rooms = 1 where sold_on >= '{WEEK}'")
    after, _ = site.evaluate()
    anew, _ = site.evaluate(from_predictions=False)
    assert after.from_predictions == 140
    assert after.scores[0].error.estimate == before.scores[0].error.estimate
    assert anew.scores[0].error.estimate != pytest.approx(before.scores[0].error.estimate)


def test_other_models_are_loaded_as_ever(site: Site) -> None:
    site.artifacts.add("challenger", level=0.3)
    site.register("job")
    site.register("challenger")
    site.crown("job")
    site.predict()
    site.label()
    evaluated, asked = site.evaluate()
    assert asked == ["challenger"]
    assert {scores.predictor for scores in evaluated.scores} >= {"job", "challenger"}


@pytest.mark.parametrize(
    "change",
    [
        f"insert into analytics.houses select 999, date '{WEEK}', 1, 0.5, 'north', 100, null",
        "delete from predictions.houses where sale_id = 150",
        "update predictions.houses set training_job = 'another' where sale_id = 150",
        "update predictions.houses set training_job = 'another'",
        "insert into predictions.houses select * from predictions.houses where sale_id = 150",
        "drop table predictions.houses",
        "alter table predictions.houses rename sale_id to id",
    ],
)
def test_predictions_that_are_not_all_there_count_for_nothing(site: Site, change: str) -> None:
    site.register("job")
    site.crown("job")
    site.predict()
    site.label()
    site.sql(change)
    evaluated, asked = site.evaluate()
    assert evaluated.from_predictions == 0
    assert asked == ["job"]
    assert evaluated.scores[0].rows == evaluated.rows
