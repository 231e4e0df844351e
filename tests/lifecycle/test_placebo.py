"""Placebo: house sales whose dates were permuted over the rows don't decay, whatever is measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb

from locations import REPOSITORY
from sf_sagemaker.lifecycle.champions import Champion
from sf_sagemaker.lifecycle.decay import DecayLimits, DecayMonitor, DecayPoint
from sf_sagemaker.lifecycle.decay_curve import decay_curve, freshness_window, measure_ages
from sf_sagemaker.lifecycle.outcomes import REFERENCE, Outcomes, Predictor
from sf_sagemaker.lifecycle.retraining import ModelState, RetrainingPolicy, Training, decide
from sf_sagemaker.lifecycle.scorers import XGBoostScorer
from sf_sagemaker.periods import Cadence, parse_length
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation

pytestmark = pytest.mark.slow

CADENCE = Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))
WEEKS = [period.key for period in CADENCE.between(CADENCE.start, datetime(2016, 1, 1))]
WINDOW = 17
OLDEST = 26
BREAK = 40
SPEC = DatasetSpec(
    model="house_prices",
    source=Relation(name="house_sales"),
    row_key=("parcel_id", "sale_date"),
    split_key=("parcel_id",),
    event_time="sale_date",
    target="price",
    target_kind="positive",
    window="17 weeks",
)
SCORER = XGBoostScorer(SPEC, "median_absolute_percentage_error")
# As the repository's house_prices has them.
LIMITS = DecayLimits(rolling=4, min_rows=500, max_bias=0.03, max_relative_excess_error=0.05)
POLICY = RetrainingPolicy(CADENCE, parse_length("17 weeks"), cool_down=2)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Trees:
    """A model of the logarithm of prices."""

    booster: xgb.Booster
    columns: tuple[str, ...]

    def outcomes(self, rows: pa.Table) -> Outcomes:
        predicted = np.exp(self.booster.predict(xgb.DMatrix(values(rows, self.columns))))
        names = np.array([str(row) for row in rows["row"].to_pylist()])
        splits = np.full(rows.num_rows, "train")
        actual = rows["price"].to_numpy().astype(float)
        return Outcomes(names, splits, actual, predicted.astype(float))


def values(rows: pa.Table, columns: tuple[str, ...]) -> np.ndarray:
    return np.column_stack([rows[name].to_numpy().astype(float) for name in columns])


def train(rows: pa.Table, rounds: int, depth: int) -> Predictor:
    columns = tuple(
        name for name in rows.column_names if name not in ("row", "price", "sale_date", "parcel_id")
    )
    labels = np.log(rows["price"].to_numpy().astype(float))
    parameters = {"max_depth": depth, "eta": 0.25, "nthread": 1, "seed": 0, "verbosity": 0}
    return Trees(xgb.train(parameters, xgb.DMatrix(values(rows, columns), labels), rounds), columns)


def permuted_sales(seed: int) -> list[pa.Table]:
    """The rows of each week, after their dates were permuted."""
    sales = pq.read_table(Path(REPOSITORY / "data" / "king_county_house_sales.parquet"))
    dates = np.random.default_rng(seed).permutation(sales["sale_date"].to_numpy())
    sales = sales.append_column("row", pa.array(range(sales.num_rows)))
    days = dates.astype("datetime64[D]")
    starts = np.array(WEEKS, dtype="datetime64[D]")
    week = (days - starts[0]).astype(int) // 7
    return [sales.filter(pa.array(week == number)) for number in range(len(WEEKS))]


@dataclass(frozen=True)
class Stream:
    """The outcomes of each week by predictor: models by their week, and the reference."""

    weeks: Mapping[str, Mapping[str, Outcomes]]

    @classmethod
    def of(cls, sales: list[pa.Table]) -> "Stream":
        """Every week's model and reference, and what they say about later weeks."""
        models: dict[str, Predictor] = {}
        weeks: dict[str, dict[str, Outcomes]] = {}
        for number, week in enumerate(WEEKS):
            if number >= WINDOW:
                window = pa.concat_tables(sales[number - WINDOW : number])
                models[WEEKS[number - 1]] = train(window, rounds=40, depth=5)
                reference = train(window, rounds=25, depth=4)
                young = list(models)[-OLDEST:]
                weeks[week] = {model: models[model].outcomes(sales[number]) for model in young}
                weeks[week][REFERENCE] = reference.outcomes(sales[number])
        return cls(weeks)

    def broken(self, factor: float) -> "Stream":
        """The same, with other prices from the week BREAK on."""
        return Stream(
            {
                week: {
                    name: replace(its, actual=its.actual * factor) if week >= WEEKS[BREAK] else its
                    for name, its in outcomes.items()
                }
                for week, outcomes in self.weeks.items()
            }
        )

    def followed(self, partition: str) -> Iterator[DecayPoint]:
        """How the model of a week would do as the champion ever after."""
        champion = Champion(
            version=1,
            model="house_prices",
            partition=partition,
            training_job=partition,
            in_force_from=WEEKS[WEEKS.index(partition) + 1],
            promoted_at=NOW.isoformat(),
            kind="first",
            reason="the first",
            figures={},
        )
        monitor = DecayMonitor(SCORER.measure, LIMITS)
        for week, outcomes in self.weeks.items():
            in_force = champion if week > partition else None
            point = monitor.observe(week, in_force, outcomes)
            if point is not None and partition in outcomes:
                yield point


@pytest.fixture(scope="module", params=[0, 1])
def stream(request: pytest.FixtureRequest) -> Stream:
    return Stream.of(permuted_sales(request.param))


def retrainings(points: list[DecayPoint]) -> list[str]:
    """The weeks after which a retraining is asked for, were no other model ever trained."""
    trained = Training(points[0].training_partition, NOW, 1)
    asked = []
    for point in points:
        decayed = datetime(2026, 1, 2, tzinfo=UTC) if point.state == "decayed" else None
        state = ModelState(
            now=datetime(2026, 1, 3, tzinfo=UTC),
            trained=trained,
            landed=point.partition,
            decay_failed=decayed,
        )
        decision = decide(state, POLICY, "sensor")
        if decision.partition is not None:
            asked.append(decision.partition)
    return asked


@pytest.mark.parametrize("first", [16, 24, 32])
def test_no_champion_decays_and_no_retraining_is_asked_for(stream: Stream, first: int) -> None:
    points = list(stream.followed(WEEKS[first]))
    judged = [point for point in points if point.state != "no verdict"]
    assert len(judged) > 15
    assert {point.state for point in judged} == {"healthy"}
    assert retrainings(points) == []
    # The same pipeline notices when there is something to notice.
    broken = list(stream.broken(1.15).followed(WEEKS[first]))
    alarms = [point.partition for point in broken if point.state == "decayed"]
    assert WEEKS[BREAK] <= alarms[0] <= WEEKS[BREAK + LIMITS.rolling - 1]
    assert retrainings(broken)[0] == alarms[0]


def test_the_decay_curve_finds_no_age_at_which_a_model_is_too_old(stream: Stream) -> None:
    evaluated = [
        (week, {name: its for name, its in outcomes.items() if name != REFERENCE})
        for week, outcomes in stream.weeks.items()
    ]
    matrix = measure_ages(SCORER.measure, evaluated, CADENCE, seed=0, draws=50)
    curve = decay_curve(matrix, tolerance=LIMITS.max_relative_excess_error, seed=0)
    assert curve.oldest is not None
    assert curve.oldest >= 20
    assert (curve.crossing.estimate, curve.crossing.low) == (None, None)
    assert all(abs(point.excess.estimate) < curve.tolerance for point in curve.points)
    window = freshness_window(curve, CADENCE, label_delay=0)
    assert window is not None
    assert not window.known
    assert "not reached within the data" in window.reason
