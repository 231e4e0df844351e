"""Excess error by age: on outcomes made to measure, on streams with a known crossing, from storage."""

import math
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.drifting_level import DriftingLevel
from sf_sagemaker.lifecycle.decay_curve import (
    AgeMatrix,
    DecayCurve,
    NotOutOfTime,
    PeriodOutcomes,
    decay_curve,
    freshness_window,
    measure_ages,
    read_period_outcomes,
)
from sf_sagemaker.lifecycle.evaluation import (
    Evaluation,
    PredictorScores,
    read_evaluations,
    write_evaluation,
)
from sf_sagemaker.lifecycle.intervals import Interval
from sf_sagemaker.lifecycle.measures import NumericMeasure
from sf_sagemaker.lifecycle.outcomes import Outcomes
from sf_sagemaker.lifecycle.registry import RegisteredModel
from sf_sagemaker.periods import Cadence, InvalidPeriod
from sf_sagemaker.storage import LocalStorage

MAE = NumericMeasure("regression", "mean_absolute_error")
WEEKLY = Cadence("week", datetime(2024, 1, 1), datetime(2025, 1, 6))
WEEKS = [period.key for period in WEEKLY.between(WEEKLY.start, datetime(2026, 1, 1))]
ROWS = 200


def one_percent_a_week(age: int, week: int) -> float:
    return 1 + 0.01 * (age - 1)


def off_by(errors: "np.ndarray | float", week: int, rows: int = ROWS) -> Outcomes:
    """Rows of a week whose target is 0 and that were predicted with these errors."""
    names = np.array([f"{week}/{row}" for row in range(rows)])
    return Outcomes(names, np.full(rows, "test"), np.zeros(rows), np.broadcast_to(errors, rows))


def stream(
    error: Callable[[int, int], float] = one_percent_a_week,
    *,
    weeks: int = 20,
    rows: Callable[[int], int] = lambda week: ROWS,
    noise: float = 0.0,
) -> list[PeriodOutcomes]:
    """Models of all weeks on the rows of the later ones; `error` by age and week, on average."""

    def outcomes(week: int, trained: int) -> Outcomes:
        random = np.random.default_rng([week, trained])
        spread = 1 + noise * random.normal(size=rows(week))
        return off_by(error(week - trained, week) * spread, week, rows(week))

    return [
        (WEEKS[week], {WEEKS[trained]: outcomes(week, trained) for trained in range(week)})
        for week in range(1, weeks)
    ]


def matrix_of(evaluated: Sequence[PeriodOutcomes], draws: int = 20) -> AgeMatrix:
    return measure_ages(MAE, evaluated, WEEKLY, seed=1, draws=draws)


def curve_of(evaluated: Sequence[PeriodOutcomes], tolerance: float = 0.05, **options) -> DecayCurve:
    return decay_curve(matrix_of(evaluated), tolerance=tolerance, seed=1, draws=100, **options)


def test_the_excess_is_relative_to_the_freshest_model_and_crosses_where_it_must():
    curve = curve_of(stream(), tolerance=0.055)
    assert [point.age for point in curve.points] == list(range(1, 17))  # 16: in four weeks only
    assert [point.excess.estimate for point in curve.points] == pytest.approx(
        [0.01 * (point.age - 1) for point in curve.points]
    )
    assert (curve.points[0].periods, curve.points[0].rows) == (19, 19 * ROWS)
    assert curve.points[4].error == pytest.approx(1.04)
    assert curve.points[4].fresh_error == pytest.approx(1)
    # Every week says the same, so that there is nothing to be uncertain of.
    crossing = curve.crossing
    assert [crossing.estimate, crossing.low, crossing.high] == pytest.approx([6.5, 6.5, 6.5])
    assert curve.thin_ages == (17, 18, 19)


def test_a_week_that_is_hard_for_every_model_is_no_decay():
    plain = curve_of(stream(lambda age, week: 1.0))
    calendar = curve_of(stream(lambda age, week: 1 + week))
    for curve in (plain, calendar):
        assert all(point.excess.estimate == pytest.approx(0) for point in curve.points)
        assert curve.crossing.estimate is None


def test_what_is_not_crossed_within_the_data_is_not_extrapolated():
    curve = curve_of(stream(), tolerance=0.2)
    assert (curve.crossing.estimate, curve.crossing.low, curve.crossing.high) == (None, None, None)
    window = freshness_window(curve, WEEKLY, label_delay=7)
    assert window is not None
    assert not window.known
    assert (window.periods, window.days) == (14, 98)  # 16 weeks less one, less one of label delay
    assert "not reached within the data" in window.reason
    assert window.verdict(timedelta(days=98)) == "within"
    assert window.verdict(timedelta(days=99)) == "unknown"


def test_the_window_is_the_lower_bound_less_a_period_and_the_label_delay():
    curve = curve_of(stream(), tolerance=0.055)
    window = freshness_window(curve, WEEKLY, label_delay=3)
    assert window is not None
    assert window.known
    assert window.periods == pytest.approx(6.5 - 1 - 3 / 7)
    assert window.days == 35  # 35.5
    assert window.verdict(timedelta(days=35)) == "within"
    assert window.verdict(timedelta(days=36)) == "longer"
    soon = freshness_window(curve_of(stream(), tolerance=0.005), WEEKLY, label_delay=30)
    assert soon is not None
    assert (soon.periods, soon.days) == (0, 0)
    monthly = freshness_window(curve, Cadence("month", datetime(2024, 1, 1)), label_delay=0)
    assert monthly is not None
    assert monthly.days == 167  # 5.5 months


def test_ages_are_of_the_calendar_whatever_is_missing():
    missing_model, missing_week = WEEKS[5], WEEKS[12]
    evaluated = [
        (week, {trained: of for trained, of in outcomes.items() if trained != missing_model})
        for week, outcomes in stream()
        if week != missing_week
    ]
    curve = curve_of(evaluated)
    assert [point.excess.estimate for point in curve.points] == pytest.approx(
        [0.01 * (point.age - 1) for point in curve.points]
    )
    assert curve.periods_without_fresh == (WEEKS[6],)
    trainings, errors = matrix_of(evaluated).by_training()
    assert missing_model not in trainings
    assert errors.shape == (18, 18)
    # Without a fresh model to compare with, an error is still one to show.
    assert errors[trainings.index(WEEKS[0]), 5] == pytest.approx(1.05)
    assert np.isnan(errors[trainings.index(WEEKS[10]), 0])


def test_periods_of_few_rows_do_not_count():
    def error(age: int, week: int) -> float:
        return 100.0 if week >= 18 and age > 1 else one_percent_a_week(age, week)

    curve = curve_of(stream(error, rows=lambda week: 1 if week >= 18 else ROWS))
    assert curve.thin_periods == (WEEKS[18], WEEKS[19])
    assert curve.crossing.estimate == pytest.approx(6)
    assert curve.oldest == 14


def test_ages_of_few_rows_do_not_count():
    curve = curve_of(stream(), min_rows=10 * ROWS, min_periods=1)
    assert curve.oldest == 10
    assert curve.thin_ages == tuple(range(11, 20))


def test_without_the_freshest_model_there_is_no_curve():
    evaluated = [
        (week, {trained: of for trained, of in outcomes.items() if trained < WEEKS[3]})
        for week, outcomes in stream()
        if week > WEEKS[3]
    ]
    curve = curve_of(evaluated)
    assert curve.points == ()
    assert curve.oldest is None
    assert curve.crossing.estimate is None
    assert curve.periods_without_fresh == tuple(WEEKS[4:20])
    assert freshness_window(curve, WEEKLY, label_delay=0) is None


@pytest.mark.parametrize("evaluated", [[], [(WEEKS[1], {})]])
def test_without_outcomes_there_is_no_curve(evaluated):
    assert curve_of(evaluated).points == ()
    assert matrix_of(evaluated).by_training()[0] == ()


def test_models_are_compared_on_the_rows_that_both_have():
    """An old model that doesn't know a class leaves out its rows, here the hard ones."""

    def without_hard_rows(week: int, outcomes: Mapping[str, Outcomes]) -> dict[str, Outcomes]:
        errors = np.where(np.arange(ROWS) < 50, 10.0, 1.0)
        everything = {trained: off_by(errors, week) for trained in outcomes}
        fresh = max(everything)
        easy = np.arange(ROWS)[50:][::-1]
        return {t: of if t == fresh else of.take(easy) for t, of in everything.items()}

    evaluated = [
        (week, without_hard_rows(number, outcomes))
        for number, (week, outcomes) in enumerate(stream(), start=1)
    ]
    curve = curve_of(evaluated)
    assert all(point.excess.estimate == pytest.approx(0) for point in curve.points)
    assert curve.points[0].error == pytest.approx(3.25)
    assert curve.points[1].fresh_error == pytest.approx(1)
    assert curve.points[1].rows == 18 * 150


def test_an_undefined_error_is_left_out():
    evaluated = stream()
    week, outcomes = evaluated[14]
    broken = off_by(np.array([np.nan, *np.ones(ROWS - 1)]), 15)
    evaluated[14] = (week, {**outcomes, WEEKS[10]: broken})  # of age 5
    curve = curve_of(evaluated)
    ages = [point.periods for point in curve.points]
    assert ages[3:6] == [16, 14, 14]
    assert curve.points[4].excess.estimate == pytest.approx(0.04)


@pytest.mark.parametrize("trained", [WEEKS[3], WEEKS[4]])
def test_a_model_is_not_scored_on_what_it_was_trained_on(trained):
    with pytest.raises(NotOutOfTime, match=f"{trained} was evaluated on {WEEKS[3]}"):
        matrix_of([(WEEKS[3], {trained: off_by(1.0, 3)})])


def test_a_partition_that_the_calendar_lacks_is_an_error():
    with pytest.raises(InvalidPeriod, match="2024-01-02"):
        matrix_of([(WEEKS[3], {"2024-01-02": off_by(1.0, 3)})])


@settings(deadline=None, max_examples=20)
@given(
    noise=st.floats(0, 0.5),
    slope=st.floats(-0.02, 0.05),
    tolerance=st.floats(0.01, 0.2),
    dropped=st.sets(st.integers(0, 11), max_size=5),
)
def test_the_curve_never_falls_and_its_bounds_are_in_order(noise, slope, tolerance, dropped):
    evaluated = [
        (
            week,
            {
                trained: of
                for trained, of in outcomes.items()
                if WEEKS.index(trained) not in dropped
            },
        )
        for week, outcomes in stream(
            lambda age, week: 1 + slope * (age - 1), weeks=12, noise=noise, rows=lambda week: 40
        )
    ]
    matrix = matrix_of(evaluated, draws=10)
    curve = decay_curve(matrix, tolerance=tolerance, seed=1, draws=50, min_rows=1)
    fitted = [point.fitted for point in curve.points]
    assert all(before <= after for before, after in pairwise(fitted))
    assert fitted[:1] in ([], [0])
    low, high = (
        math.inf if bound is None else bound for bound in (curve.crossing.low, curve.crossing.high)
    )
    assert low <= high
    assert low >= 1
    for bound in (curve.crossing.estimate, curve.crossing.low, curve.crossing.high):
        assert bound is None or bound <= curve.points[-1].age
    assert curve == decay_curve(matrix, tolerance=tolerance, seed=1, draws=50, min_rows=1)


def test_the_order_in_which_outcomes_come_changes_nothing():
    evaluated = stream(noise=0.3)
    turned = [
        (week, {key: outcomes[key] for key in reversed(list(outcomes))})
        for week, outcomes in reversed(evaluated)
    ]
    assert curve_of(evaluated) == curve_of(turned)


@pytest.mark.slow
def test_the_interval_covers_the_true_crossing_age():
    """With the 50 seeds of benchmarks/coverage.py it does in more than nine of ten."""
    stream = DriftingLevel(rise=0.012, rows=60, window=8)
    truth = stream.true_crossing(0.05)
    assert 3 < truth < 4
    covered = []
    for seed in range(20):
        matrix = measure_ages(MAE, stream.evaluated(seed), stream.cadence, seed=seed)
        crossing = decay_curve(matrix, tolerance=0.05, seed=seed).crossing
        assert crossing.low is not None
        assert crossing.high is not None
        assert crossing.high - crossing.low < 2
        covered.append(crossing.low <= truth <= crossing.high)
    assert np.mean(covered) >= 0.9


@pytest.mark.slow
def test_a_stream_without_drift_crosses_nothing():
    stream = DriftingLevel(rise=0, rows=60, window=8)
    for seed in range(10):
        matrix = measure_ages(MAE, stream.evaluated(seed), stream.cadence, seed=seed)
        assert decay_curve(matrix, tolerance=0.05, seed=seed).crossing.estimate is None


def registered(partition: str, job: str, *, warm_up: bool = False) -> RegisteredModel:
    return RegisteredModel(
        model="prices",
        partition=partition,
        training_job=job,
        artifact_uri="file:///nowhere",
        trained_at="2026-01-01T00:00:00+00:00",
        dataset="datasets/prices",
        dataset_fingerprint="f",
        spec_digest="d",
        target="price",
        target_kind="positive",
        split="s",
        features=(),
        warm_up=warm_up,
    )


def test_outcomes_are_read_of_the_newest_models_whose_window_was_full(tmp_path: Path):
    storage = LocalStorage(tmp_path)
    unknown = Interval(math.nan, math.nan, math.nan)
    score = PredictorScores("", None, None, False, ROWS, 0, unknown, unknown)
    jobs = {"old": WEEKS[1], "new": WEEKS[1], "cold": WEEKS[0], "reference": None}
    for week, present in ((2, jobs), (3, {"old": WEEKS[1]})):
        write_evaluation(
            storage,
            Evaluation(
                model="prices",
                partition=WEEKS[week],
                evaluated_at=datetime(2026, 1, 1, tzinfo=UTC),
                metric="mean_absolute_error",
                key="",
                rows=ROWS,
                scores=tuple(
                    replace(score, predictor=job, partition=trained)
                    for job, trained in present.items()
                ),
            ),
            {job: off_by(float(number), week) for number, job in enumerate(present, start=1)},
        )
    models = [registered(WEEKS[1], "new"), registered(WEEKS[0], "cold", warm_up=True)]
    evaluations = read_evaluations(storage, "prices")
    found = dict(read_period_outcomes(storage, evaluations, models))
    assert found.keys() == {WEEKS[2], WEEKS[3]}
    assert found[WEEKS[2]].keys() == {WEEKS[1]}
    assert found[WEEKS[2]][WEEKS[1]].predicted.tolist() == [2.0] * ROWS
    assert found[WEEKS[3]] == {}


@pytest.mark.slow
def test_memory_does_not_grow_with_rows_times_draws() -> None:
    errors = np.random.default_rng(1).normal(size=300_000)
    large = off_by(errors, 2, len(errors))
    tracemalloc.start()
    matrix = measure_ages(MAE, [(WEEKS[2], {WEEKS[1]: large})], WEEKLY, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.rows.tolist() == [[300_000]]
    assert peak < 400e6  # the numbers of all drawn rows are 480 MB
