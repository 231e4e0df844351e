"""Periods evaluated on a real warehouse, with models that real training jobs made."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sf_sagemaker.containers import program_files
from sf_sagemaker.lifecycle.evaluation import (
    Evaluation,
    PredictorScores,
    evaluations_of,
    read_evaluations,
    read_outcomes,
    write_evaluation,
)
from sf_sagemaker.lifecycle.labels import periods_to_evaluate_again
from sf_sagemaker.lifecycle.outcomes import REFERENCE, Measure, Outcomes, Predictor, Scorer
from sf_sagemaker.lifecycle.period_evaluation import Predictors, evaluate_period
from sf_sagemaker.lifecycle.registry import describe_model, register_model
from sf_sagemaker.lifecycle.scorers import XGBoostScorer
from sf_sagemaker.periods import Cadence, InvalidPeriod
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.job import Program, TrainingJob, dataset_channels
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.run import TRAINING, run_job
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.duckdb import DuckDBSession, DuckDBWarehouse
from sf_sagemaker.warehouse.export import export_dataset

pytestmark = pytest.mark.slow  # three training jobs

CADENCE = Cadence("week", datetime(2024, 1, 1), datetime(2024, 3, 4))
WEEKS = [f"{datetime(2024, 1, 1) + timedelta(weeks=week):%Y-%m-%d}" for week in range(9)]
NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
METRIC = "median_absolute_percentage_error"
SPEC = DatasetSpec(
    model="house_prices",
    source=Relation(name="sales"),
    row_key=("sale_id",),
    split_key=("parcel_id",),
    event_time="sold_on",
    target="price",
    target_kind="positive",
    window="3 weeks",
)
# Seven weeks of 280 sales whose prices rise by four percent a week; two weeks without a sale.
SALES = """
create table sales as
select
    i as sale_id,
    i % 701 as parcel_id,
    date '2024-01-01' + cast(i // 40 as integer) as sold_on,
    cast(1 + i % 6 as double) as rooms,
    ['north', 'south', 'west'][1 + i % 3] as area,
    cast(100 * (1 + i % 6) * (1 + i % 3) * exp(0.04 * (i // 280) + 0.001 * (i % 13)) as double)
        as price
from range(1960) as numbers(i)
"""


@dataclass
class World:
    """A warehouse, a storage, and the training jobs of three weeks by partition."""

    warehouse: DuckDBWarehouse
    storage: LocalStorage
    platform: LocalTrainingPlatform
    jobs: Mapping[str, str]

    def predictors(self, scorer: Scorer | None = None) -> Predictors:
        return Predictors(self.platform, scorer or XGBoostScorer(SPEC, METRIC))

    def evaluate(
        self,
        partition: str,
        *,
        spec: DatasetSpec = SPEC,
        scorer: Scorer | None = None,
        max_age: int = 9,
        at: datetime = NOW,
        known_by: datetime | None = None,
        predictors: Predictors | None = None,
    ) -> Evaluation:
        return evaluate_period(
            self.warehouse,
            self.storage,
            spec,
            CADENCE,
            partition,
            predictors or self.predictors(scorer),
            max_age=max_age,
            evaluated_at=at,
            known_by=known_by,
            run_id="run-1",
        )

    def sql(self, statement: str) -> list[tuple]:
        with self.warehouse.writing() as session:
            return session.rows(statement)

    def train(self, partition: str) -> str:
        """Exports the partition's dataset, trains on it, and registers the model."""
        export = export_dataset(
            self.warehouse, self.storage, SPEC, CADENCE, partition, attempt="run"
        )
        job = TrainingJob(
            model=SPEC.model,
            partition=partition,
            program=Program(*program_files("xgboost")),
            image=self.platform.image("xgboost"),
            dataset_fingerprint=export.manifest.fingerprint.value,
            channels=dataset_channels(export.key),
            hyperparameters={
                "objective": "reg:squarederror",
                "num_round": "30",
                "target_transform": "log",
                "seed": "0",
            },
            seed=0,
        )
        result = run_job(job, self.platform, TRAINING, poll_seconds=0.1)
        ended, uri = result.description.ended_at, result.description.artifact_uri
        assert ended is not None
        assert uri is not None
        register_model(
            self.storage,
            describe_model(
                export.manifest,
                export.key,
                training_job=result.name,
                artifact_uri=uri,
                trained_at=ended.isoformat(),
            ),
        )
        return result.name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Models of the weeks 0 (warm-up), 2 and 4. Copied for each test."""
    return _world(tmp_path_factory.mktemp("world"))


def _world(folder: Path) -> World:
    storage = LocalStorage(folder / "storage")
    world = World(
        DuckDBWarehouse(folder / "warehouse.duckdb"), storage, LocalTrainingPlatform(storage), {}
    )
    world.sql(SALES)
    return replace(world, jobs={week: world.train(week) for week in (WEEKS[0], WEEKS[2], WEEKS[4])})


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    folder = tmp_path / "world"
    shutil.copytree(made.warehouse.path.parent, folder)
    storage = LocalStorage(folder / "storage")
    platform = LocalTrainingPlatform(storage)
    return World(DuckDBWarehouse(folder / "warehouse.duckdb"), storage, platform, made.jobs)


def by_predictor(evaluation: Evaluation) -> dict[str, PredictorScores]:
    return {scores.predictor: scores for scores in evaluation.scores}


def test_a_period_is_scored_by_all_earlier_models_and_the_reference(world: World):
    evaluation = world.evaluate(WEEKS[5])
    jobs = world.jobs
    assert [(its.predictor, its.partition, its.age, its.warm_up) for its in evaluation.scores] == [
        (jobs[WEEKS[4]], WEEKS[4], 1, False),
        (jobs[WEEKS[2]], WEEKS[2], 3, False),
        (jobs[WEEKS[0]], WEEKS[0], 5, True),
        (REFERENCE, None, None, False),
    ]
    assert (evaluation.rows, evaluation.metric, evaluation.run_id) == (280, METRIC, "run-1")
    assert {its.rows for its in evaluation.scores} == {280}
    assert evaluation.left_out == ()
    young, middle, old, reference = (its for its in evaluation.scores)
    # Prices rise, and every model goes on asking the prices that it knew.
    for its, weeks_behind in ((young, 2), (middle, 4), (old, 5), (reference, 2)):
        assert its.bias.estimate == pytest.approx(-0.04 * weeks_behind, abs=0.03)
        assert its.bias.low <= its.bias.estimate <= its.bias.high < 0
        assert its.error.low <= its.error.estimate <= its.error.high
    assert young.error.estimate < middle.error.estimate < old.error.estimate


def test_the_scores_are_those_of_the_outcomes_that_are_kept(world: World):
    evaluation = world.evaluate(WEEKS[5])
    outcomes = read_outcomes(world.storage, evaluation, [*by_predictor(evaluation)])
    assert set(outcomes) == set(by_predictor(evaluation))
    measure = XGBoostScorer(SPEC, METRIC).measure
    everything = np.arange(280)[None, :]
    for predictor, its in outcomes.items():
        scores = by_predictor(evaluation)[predictor]
        assert measure.errors(its, everything)[0] == scores.error.estimate
        assert measure.biases(its, its, everything)[0] == scores.bias.estimate
        assert its.rows.tolist() == outcomes[REFERENCE].rows.tolist()
        assert len(set(its.rows.tolist())) == 280
        assert set(its.splits.tolist()) == {"train", "validation", "test"}


def test_the_same_rows_are_scored_alike(world: World):
    first = world.evaluate(WEEKS[5])
    second = world.evaluate(WEEKS[5])
    assert first.scores == second.scores
    assert first.key != second.key


def test_only_models_that_are_young_enough_and_older_than_the_period_are_scored(world: World):
    assert list(by_predictor(world.evaluate(WEEKS[4], max_age=2))) == [
        world.jobs[WEEKS[2]],
        REFERENCE,
    ]
    assert list(by_predictor(world.evaluate(WEEKS[4], max_age=1))) == [REFERENCE]


def test_the_reference_knows_nothing_of_what_came_later(world: World):
    before = by_predictor(world.evaluate(WEEKS[5]))[REFERENCE]
    world.sql("update sales set price = 1 where sold_on >= date '2024-02-12'")
    assert by_predictor(world.evaluate(WEEKS[5]))[REFERENCE] == before
    # The week before the period is in its window, unless labels take a week to be known.
    world.sql(
        "update sales set price = 1 where sold_on >= date '2024-01-29' and sold_on < date '2024-02-05'"
    )
    after = by_predictor(world.evaluate(WEEKS[5]))[REFERENCE]
    assert after.bias.estimate < before.bias.estimate - 0.5
    delayed = SPEC.model_copy(update={"label_delay": 7})
    its = by_predictor(world.evaluate(WEEKS[5], spec=delayed))[REFERENCE]
    assert its.bias.estimate == pytest.approx(before.bias.estimate - 0.02, abs=0.02)


def test_in_the_first_period_there_is_nothing_to_fit_a_reference_to(world: World):
    evaluation = world.evaluate(WEEKS[0])
    assert (evaluation.rows, evaluation.scores) == (280, ())
    (left_out,) = evaluation.left_out
    assert left_out.predictor == REFERENCE
    assert "no row of the window before 2024-01-01" in left_out.reason
    assert read_evaluations(world.storage, "house_prices") == [evaluation]


def test_a_period_without_rows_is_evaluated_and_says_so(world: World):
    evaluation = world.evaluate(WEEKS[7])
    assert evaluation.rows == 0
    assert [its.rows for its in evaluation.scores] == [0, 0, 0, 0]
    assert all(math.isnan(its.error.estimate) for its in evaluation.scores)
    assert all(math.isnan(its.bias.high) for its in evaluation.scores)
    (read,) = read_evaluations(world.storage, "house_prices")
    assert (read.key, read.rows, len(read.scores)) == (evaluation.key, 0, 4)
    assert len(read_outcomes(world.storage, read, [REFERENCE])) == 0
    assert world.sql(
        "select count(*), count(error) from lifecycle.house_prices_latest_evaluations"
    ) == [(4, 0)]


def test_a_period_that_the_cadence_does_not_have_is_refused(world: World):
    with pytest.raises(InvalidPeriod):
        world.evaluate("2024-02-06")


def test_labels_that_come_late_or_are_corrected_make_another_evaluation(world: World):
    week = WEEKS[6]
    condition = f"sold_on >= date '{week}'"
    world.sql("create table later as select * from sales")
    world.sql(f"update sales set price = null where {condition} and sale_id % 4 = 0")
    world.sql(f"update sales set price = 3 * price where {condition} and sale_id % 2 = 1")
    first = world.evaluate(week)
    world.sql("create or replace table sales as select * from later")
    second = world.evaluate(week, at=NOW + timedelta(hours=1))
    assert (first.rows, second.rows) == (210, 280)
    newest = second.scores[0]
    assert first.scores[0].bias.estimate < newest.bias.estimate - 0.5
    assert evaluations_of(world.storage, "house_prices", week) == [first, second]
    assert read_evaluations(world.storage, "house_prices") == [second]
    table = world.sql(
        "select evaluated_at, count(*), min(scored_rows) from lifecycle.house_prices_evaluations "
        "group by 1 order by 1"
    )
    naive = NOW.replace(tzinfo=None)
    assert table == [(naive, 4, 210), (naive + timedelta(hours=1), 4, 280)]
    latest = world.sql(
        "select period, predictor, training_period, age, warm_up, scored_rows, error, bias_low, metric, "
        "run_id from lifecycle.house_prices_latest_evaluations order by age nulls last"
    )
    assert len(latest) == 4
    assert latest[0] == (
        datetime.fromisoformat(week).date(),
        world.jobs[WEEKS[4]],
        WEEKS[4],
        2,
        False,
        280,
        newest.error.estimate,
        newest.bias.low,
        METRIC,
        "run-1",
    )


DELAYED = SPEC.model_copy(update={"label_delay": 10})


def end_of(week: int) -> datetime:
    return CADENCE.period(WEEKS[week]).end


def again(world: World, spec: DatasetSpec, week: int) -> list[str]:
    """What is to be evaluated again when that week has landed."""
    return periods_to_evaluate_again(
        world.warehouse, world.storage, spec, CADENCE, known_by=end_of(week)
    )


def test_only_labels_that_were_known_by_then_count(world: World):
    first = world.evaluate(WEEKS[5], spec=DELAYED, known_by=end_of(5))
    assert (first.rows, first.unlabelled, first.awaits_labels) == (0, 280, True)
    assert {its.rows for its in first.scores} == {0}
    some = world.evaluate(WEEKS[5], spec=DELAYED, known_by=end_of(6))
    assert (some.rows, some.unlabelled, some.awaits_labels) == (160, 120, False)
    assert some.known_by == end_of(6)
    whole = world.evaluate(WEEKS[5], spec=DELAYED, known_by=end_of(7))
    assert (whole.rows, whole.unlabelled) == (280, 0)
    assert whole.scores == world.evaluate(WEEKS[5], spec=DELAYED).scores
    read = evaluations_of(world.storage, "house_prices", WEEKS[5])
    assert [one.rows for one in read] == [0, 160, 280, 280]
    assert read[1:3] == [some, whole]


def test_a_period_is_evaluated_again_until_all_of_its_labels_are_known(world: World):
    assert again(world, DELAYED, 4) == []
    world.evaluate(WEEKS[3], spec=DELAYED, known_by=end_of(4))
    world.evaluate(WEEKS[4], spec=DELAYED, known_by=end_of(4))
    assert again(world, DELAYED, 4) == []
    assert again(world, DELAYED, 5) == [WEEKS[3], WEEKS[4]]
    for week in again(world, DELAYED, 5):
        world.evaluate(week, spec=DELAYED, known_by=end_of(5))
    assert again(world, DELAYED, 5) == []
    assert again(world, DELAYED, 6) == [WEEKS[4]]
    # Seen from before, that week is later than now.
    assert again(world, DELAYED, 3) == [WEEKS[3]]


def test_a_period_is_evaluated_again_when_its_labels_are_corrected_or_its_rows_come_late(
    world: World,
):
    for week in (2, 3, 4):
        world.evaluate(WEEKS[week], known_by=end_of(4))
    assert again(world, SPEC, 5) == []
    world.sql(f"update sales set rooms = rooms + 1 where sold_on >= '{WEEKS[2]}'")
    assert again(world, SPEC, 5) == [], "the labels are the same"
    world.sql(
        f"update sales set price = 2 * price where sale_id = (select min(sale_id) from sales "
        f"where sold_on >= '{WEEKS[3]}')"
    )
    assert again(world, SPEC, 5) == [WEEKS[3]]
    corrected = world.evaluate(WEEKS[3], known_by=end_of(5))
    assert corrected.rows == 280
    assert again(world, SPEC, 5) == []
    world.sql(
        "insert into sales by name select * replace (sale_id + 100000 as sale_id) from sales "
        f"where sold_on >= '{WEEKS[2]}' order by sale_id limit 1"
    )
    assert again(world, SPEC, 5) == [WEEKS[2]]


def test_labels_may_say_themselves_when_they_were_known(world: World):
    world.sql(
        "alter table sales add column settled date; update sales set settled = case "
        "when sale_id % 4 = 0 then null when sale_id % 4 = 1 then sold_on + 30 else sold_on end"
    )
    spec = SPEC.model_copy(update={"available_at": "settled"})
    first = world.evaluate(WEEKS[2], spec=spec, known_by=end_of(2))
    assert (first.rows, first.unlabelled) == (140, 140)
    assert again(world, spec, 5) == []
    assert again(world, spec, 6) == [WEEKS[2]]
    world.sql(f"update sales set settled = '{WEEKS[3]}' where settled is null")
    assert again(world, spec, 3) == [WEEKS[2]]
    second = world.evaluate(WEEKS[2], spec=spec, known_by=end_of(8))
    assert (second.rows, second.unlabelled) == (280, 0)


def test_an_evaluation_of_an_earlier_definition_of_the_periods_is_passed_over(world: World):
    world.evaluate(WEEKS[3], spec=DELAYED, known_by=end_of(3))
    moved = Cadence("week", datetime(2024, 1, 2))
    assert (
        periods_to_evaluate_again(
            world.warehouse, world.storage, DELAYED, moved, datetime(2024, 3, 5)
        )
        == []
    )


def test_rows_of_a_class_that_a_predictor_does_not_know_are_counted(world: World):
    world.sql(f"update sales set area = 'port' where sold_on >= '{WEEKS[4]}' and sale_id % 2 = 0")
    spec = SPEC.model_copy(update={"target": "area", "target_kind": "class"})
    scorer = XGBoostScorer(spec, "accuracy")
    [reference] = world.evaluate(WEEKS[4], spec=spec, scorer=scorer, max_age=0).scores
    assert (reference.rows, reference.unknown_class) == (280, 140)
    assert reference.error.estimate >= 0.5
    assert world.sql("select unknown_class_rows from lifecycle.house_prices_evaluations") == [
        (140,)
    ]


class Interrupted(DuckDBWarehouse):
    """A warehouse in which something else happens when the nth session that writes begins."""

    def __init__(self, path: Path, at: int, happens: Callable[[], object]) -> None:
        super().__init__(path)
        self.at = at
        self.happens = happens
        self.sessions = 0

    @contextmanager
    def writing(self) -> Iterator[DuckDBSession]:
        self.sessions += 1
        if self.sessions == self.at:
            self.happens()
        with super().writing() as session:
            yield session


@pytest.mark.parametrize("at", [1, 2])
def test_an_evaluation_that_ends_at_once_loses_no_rows(world: World, at: int):
    """Before this one lists what there is, and, as where several may write, after that."""
    first = world.evaluate(WEEKS[5])
    interrupted = Interrupted(
        world.warehouse.path, at, lambda: write_evaluation(world.storage, first, {})
    )
    replace(world, warehouse=interrupted).evaluate(WEEKS[5])
    assert interrupted.sessions >= at
    assert len(evaluations_of(world.storage, "house_prices", WEEKS[5])) == 3
    rows = world.sql(
        "select count(*) from lifecycle.house_prices_evaluations group by evaluated_at"
    )
    assert rows == [(4,)] * 3


def test_the_view_has_the_newest_evaluation_of_each_period(world: World):
    for week in (WEEKS[6], WEEKS[5], WEEKS[6]):
        world.evaluate(week)
    periods = "select count(distinct period), count(*) from lifecycle."
    assert world.sql(f"{periods}house_prices_evaluations") == [(2, 12)]
    assert world.sql(f"{periods}house_prices_latest_evaluations") == [(2, 8)]


def test_a_model_whose_artifact_is_gone_is_left_out_and_named(world: World):
    gone, cut = world.jobs[WEEKS[4]], world.jobs[WEEKS[2]]
    (artifact,) = world.storage.path(f"training-jobs/{gone}").rglob("model.tar.gz")
    artifact.unlink()
    (artifact,) = world.storage.path(f"training-jobs/{cut}").rglob("model.tar.gz")
    artifact.write_bytes(artifact.read_bytes()[:500])
    evaluation = world.evaluate(WEEKS[5])
    assert list(by_predictor(evaluation)) == [world.jobs[WEEKS[0]], REFERENCE]
    reasons = {left_out.predictor: left_out.reason for left_out in evaluation.left_out}
    assert set(reasons) == {gone, cut}
    assert "is gone" in reasons[gone]
    assert "can't be unpacked" in reasons[cut]
    assert read_evaluations(world.storage, "house_prices")[0].left_out == evaluation.left_out


def test_a_model_that_needs_a_column_that_is_gone_is_left_out_and_named(world: World):
    world.sql("alter table sales drop column rooms")
    evaluation = world.evaluate(WEEKS[5])
    assert list(by_predictor(evaluation)) == [REFERENCE]
    assert len(evaluation.left_out) == 3
    assert all("'rooms' is missing" in left_out.reason for left_out in evaluation.left_out)


def test_a_model_of_another_target_is_left_out_and_named(world: World):
    spec = SPEC.model_copy(update={"target_kind": "numeric"})
    evaluation = world.evaluate(WEEKS[5], spec=spec, scorer=XGBoostScorer(spec, METRIC))
    assert list(by_predictor(evaluation)) == [REFERENCE]
    assert "was trained to predict 'price' (positive)" in evaluation.left_out[0].reason


@dataclass
class Changed:
    """XGBoost's scorer, with what its models predict changed; it counts what is loaded."""

    change: Callable[[np.ndarray], np.ndarray]
    loaded: int = 0
    held: int = 64

    @property
    def measure(self) -> Measure:
        return self._real.measure

    def load(self, artifact: Path) -> Predictor:
        self.loaded += 1
        return ChangedPredictor(self._real.load(artifact), self.change)

    def fit_reference(self, train: pa.Table) -> Predictor:
        return self._real.fit_reference(train)

    @property
    def _real(self) -> XGBoostScorer:
        return XGBoostScorer(SPEC, METRIC)


@dataclass
class ChangedPredictor:
    predictor: Predictor
    change: Callable[[np.ndarray], np.ndarray]

    def outcomes(self, rows: pa.Table) -> Outcomes:
        its = self.predictor.outcomes(rows)
        return replace(its, predicted=self.change(its.predicted))


def test_a_prediction_that_is_no_number_leaves_error_and_bias_undefined(world: World):
    def spoil(predicted: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(predicted)) < 2, np.nan, predicted)

    evaluation = world.evaluate(WEEKS[5], scorer=Changed(spoil))
    scores = by_predictor(evaluation)
    spoilt, reference = scores[world.jobs[WEEKS[4]]], scores[REFERENCE]
    assert (spoilt.rows, spoilt.not_finite) == (280, 2)
    assert math.isnan(spoilt.error.estimate)
    assert math.isnan(spoilt.bias.low)
    assert reference.not_finite == 0
    assert reference.error.estimate > 0
    assert world.sql(
        "select not_finite_rows, error, bias_high from lifecycle.house_prices_latest_evaluations "
        "where age = 1"
    ) == [(2, None, None)]


def test_a_model_is_loaded_once_for_many_periods(world: World):
    scorer = Changed(lambda predicted: predicted, held=2)
    predictors = Predictors(world.platform, scorer)
    for week in (WEEKS[5], WEEKS[6]):
        world.evaluate(week, predictors=predictors, max_age=4)
    assert scorer.loaded == 2
    # With room for one, each takes the other's place.
    scorer = Changed(lambda predicted: predicted, held=1)
    predictors = Predictors(world.platform, scorer)
    for week in (WEEKS[5], WEEKS[6]):
        world.evaluate(week, predictors=predictors, max_age=4)
    assert scorer.loaded == 4
