"""Whether a champion has decayed: on streams whose truth is known, and through storage."""

import math
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sf_sagemaker.lifecycle.champions import Champion
from sf_sagemaker.lifecycle.decay import (
    DecayLimits,
    DecayMonitor,
    DecayPoint,
    decay_points,
    decay_series,
)
from sf_sagemaker.lifecycle.evaluation import Evaluation, read_evaluations, write_evaluation
from sf_sagemaker.lifecycle.measures import NumericMeasure, TextMeasure
from sf_sagemaker.lifecycle.outcomes import REFERENCE, Outcomes
from sf_sagemaker.storage import LocalStorage

WEEKS = [(date(2014, 9, 1) + timedelta(weeks=n)).isoformat() for n in range(60)]
MDAPE = NumericMeasure("regression", "median_absolute_percentage_error", positive=True)
LIMITS = DecayLimits(rolling=4, min_rows=500, max_bias=0.03, max_relative_excess_error=0.05)
ROWS = 386  # sales of a week in King County

Stream = dict[str, dict[str, Outcomes]]


def champion(version: int = 1, week: int = 0, in_force_from: int | None = None) -> Champion:
    return Champion(
        version=version,
        model="prices",
        partition=WEEKS[week],
        training_job=f"job-{week}",
        in_force_from=WEEKS[week + 1 if in_force_from is None else in_force_from],
        promoted_at="2026-01-01T00:00:00+00:00",
        kind="promotion",
        reason="no worse",
        figures={},
    )


def stream(
    seed: int,
    weeks: int,
    *,
    bias: Callable[[int], float] = lambda week: 0.0,
    spread: Callable[[int], float] = lambda week: 0.07,
    rows: Callable[[int], int] = lambda week: ROWS,
    jobs: tuple[int, ...] = (0,),
) -> Stream:
    """Weeks of sales from the second week on, as models and a reference scored them.

    Log residuals have a part in common to all (sd 0.11) and one of a model's own: 0.13 in all, as on
    King County. `bias` and `spread` are those of the models, by week.
    """
    random = np.random.default_rng(seed)
    weekly: Stream = {}
    for week in range(1, weeks + 1):
        count = rows(week)
        names = np.array([f"{week}-{n}" for n in range(count)], dtype=str)
        splits = np.full(count, "train")
        actual = np.exp(random.normal(13, 0.5, count))
        common = random.normal(0, 0.11, count)

        def scored(
            own: float, shift: float, names=names, splits=splits, actual=actual, common=common
        ) -> Outcomes:
            residuals = common + random.normal(0, own, len(actual)) + shift
            return Outcomes(names, splits, actual, actual * np.exp(residuals))

        weekly[WEEKS[week]] = {
            f"job-{job}": scored(spread(week), bias(week)) for job in jobs if job < week
        }
        weekly[WEEKS[week]][REFERENCE] = scored(0.09, 0.0)
    return weekly


def states(points: list[DecayPoint]) -> list[str]:
    return [point.state for point in points]


def first_decayed(points: list[DecayPoint]) -> int | None:
    return next((WEEKS.index(p.partition) for p in points if p.state == "decayed"), None)


@pytest.mark.parametrize("seed", range(5))
def test_a_break_of_bias_is_found_within_the_window_after_it_and_not_before(seed: int) -> None:
    broken = stream(seed, 26, bias=lambda week: -0.08 if week >= 15 else 0.0)
    points = decay_points([champion()], broken, MDAPE, LIMITS)
    found = first_decayed(points)
    assert found is not None
    assert 15 <= found < 15 + LIMITS.rolling
    assert "bias" in points[found - 1].causes
    assert states(points)[found - 1 :] == ["decayed"] * (26 - found + 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_break_of_error_alone_is_found_within_the_window_and_not_before(seed: int) -> None:
    broken = stream(seed, 26, spread=lambda week: 0.17 if week >= 15 else 0.07)
    points = decay_points([champion()], broken, MDAPE, LIMITS)
    found = first_decayed(points)
    assert found is not None
    assert 15 <= found < 15 + LIMITS.rolling
    assert points[found - 1].causes == ("error",)
    assert "relative excess error +" in points[found - 1].reason


@pytest.mark.slow
def test_stationary_noise_is_hardly_ever_taken_for_decay() -> None:
    """Bias has no part in it, and an estimate of error beyond its limit is common."""
    alarms = beyond = 0
    for seed in range(20):
        points = decay_points([champion()], stream(seed, 40), MDAPE, LIMITS)
        alarms += first_decayed(points) is not None
        beyond += any(point.excess.estimate > 0.05 for point in points)
        assert all("bias" not in point.causes for point in points)
    assert alarms <= 2
    assert beyond >= 8  # what a threshold on the estimate would have called decay


@pytest.mark.slow
def test_a_bias_at_the_limit_flips_at_most_once() -> None:
    fired = 0
    for seed in range(10):
        at_the_limit = stream(seed, 40, bias=lambda week: 0.03 + 0.004 * (-1) ** week)
        points = decay_points([champion()], at_the_limit, MDAPE, LIMITS)
        verdicts = [state for state in states(points) if state != "no verdict"]
        flips = sum(one != other for one, other in pairwise(verdicts))
        assert flips <= 1, verdicts
        fired += "decayed" in verdicts
        beyond = [point.bias.estimate > 0.03 for point in points[1:]]
        assert any(beyond)
        assert not all(beyond)  # a bare threshold would have flipped
    assert fired == 10


def test_a_signal_that_falls_well_below_its_limit_is_released() -> None:
    passing = stream(1, 30, bias=lambda week: 0.06 if 10 <= week < 16 else 0.0)
    points = decay_points([champion()], passing, MDAPE, LIMITS)
    assert points[14].state == "decayed"
    assert states(points)[20:] == ["healthy"] * 10


@pytest.mark.parametrize("shift", [-0.05, 0.05])
def test_bias_counts_in_both_directions(shift: float) -> None:
    points = decay_points([champion()], stream(2, 5, bias=lambda _: shift), MDAPE, LIMITS)
    assert points[-1].causes == ("bias",)
    assert points[-1].bias.estimate == pytest.approx(shift, abs=0.015)


def test_the_window_restarts_at_a_promotion() -> None:
    """The second model is as biased as the first one was not."""
    biased = stream(3, 20, bias=lambda week: -0.08 if week < 10 else 0.0, jobs=(0, 9))
    points = decay_points([champion(), champion(2, 9)], biased, MDAPE, LIMITS)
    assert [point.version for point in points] == [1] * 9 + [2] * 11
    assert [point.periods for point in points] == [1, 2, 3, 4, 4, 4, 4, 4, 4, 1, 2, 3, *[4] * 8]
    assert points[8].state == "decayed"
    assert states(points)[9] == "no verdict"  # one week has too few rows
    assert "decayed" not in states(points)[9:]
    assert points[12].rows == 4 * ROWS
    assert {point.training_job for point in points[9:]} == {"job-9"}


def test_a_rollback_restarts_it_too() -> None:
    log = [champion(), champion(2, 9), champion(3, 0, in_force_from=14)]
    points = decay_points(log, stream(4, 18, jobs=(0, 9)), MDAPE, LIMITS)
    assert [point.version for point in points] == [1] * 9 + [2] * 4 + [3] * 5
    assert points[13].periods == 1
    # Its first periods are those after its training, not those after the rollback.
    assert math.isfinite(points[14].excess.estimate)


def test_a_champion_is_compared_with_its_first_periods_after_its_training() -> None:
    """Promoted late, when it had already lost what it had at first."""
    aged = stream(5, 20, spread=lambda week: 0.07 if week < 6 else 0.17)
    points = decay_points([champion(in_force_from=12)], aged, MDAPE, LIMITS)
    assert [point.partition for point in points] == WEEKS[12:21]
    assert points[3].causes == ("error",)
    assert points[3].excess.estimate > 0.2


def test_there_is_no_excess_before_there_is_something_later_than_the_first_periods() -> None:
    points = decay_points([champion()], stream(6, 6), MDAPE, LIMITS)
    assert [math.isnan(point.excess.estimate) for point in points] == [True] * 4 + [False] * 2
    assert states(points) == ["no verdict"] + ["healthy"] * 5  # bias needs no first periods


def test_too_few_rows_give_no_verdict_and_say_so() -> None:
    counts = {9: 132, 10: 1, 11: 1, 12: 0, 13: 0}
    points = decay_points(
        [champion()], stream(7, 13, rows=lambda week: counts.get(week, ROWS)), MDAPE, LIMITS
    )
    assert [point.rows for point in points][-3:] == [520, 134, 2]
    assert states(points)[-3:] == ["healthy", "no verdict", "no verdict"]
    assert points[-1].reason.startswith("2 rows in 4 periods since the promotion, and at least 500")
    assert "no scores" not in points[-1].reason
    assert math.isnan(points[-1].error)


def test_a_period_without_rows_leaves_a_verdict_where_the_window_has_enough() -> None:
    empty = stream(8, 8, rows=lambda week: 0 if week == 7 else ROWS)
    points = decay_points([champion()], empty, MDAPE, LIMITS)
    assert [point.rows for point in points][-3:] == [4 * ROWS, 3 * ROWS, 3 * ROWS]
    assert states(points)[-3:] == ["healthy"] * 3


def test_no_verdict_between_two_does_not_forget_the_decay() -> None:
    gap = stream(9, 12, bias=lambda _: 0.031, rows=lambda week: 10 if 5 <= week < 9 else ROWS)
    points = decay_points([champion()], gap, MDAPE, replace(LIMITS, max_bias=0.025))
    assert points[3].state == "decayed"
    assert points[7].state == "no verdict"
    assert points[7].causes == ("bias",), "it stands until a later verdict"
    assert points[7].reason == (
        "decayed by its bias before, and no verdict since to release it: 40 rows in 4 periods since the "
        "promotion, and at least 500 are needed"
    )
    assert points[-1].state == "decayed"


def test_a_metric_that_is_undefined_gives_no_verdict_and_says_so() -> None:
    undefined = stream(10, 12)
    its = undefined[WEEKS[8]]["job-0"]
    predicted = its.predicted.copy()
    predicted[3] = np.nan
    undefined[WEEKS[8]]["job-0"] = replace(its, predicted=predicted)
    points = decay_points([champion()], undefined, MDAPE, LIMITS)
    assert states(points)[1:] == ["healthy"] * 6 + ["no verdict"] * 4 + ["healthy"]
    assert points[8].reason == (
        "bias is undefined on these rows; relative excess error is undefined on these rows"
    )
    assert math.isnan(points[8].error)


def test_a_reference_without_error_leaves_the_relative_error_undefined() -> None:
    perfect = stream(11, 8)
    for outcomes in perfect.values():
        outcomes[REFERENCE] = replace(
            outcomes[REFERENCE], predicted=outcomes[REFERENCE].actual.copy()
        )
    point = decay_points([champion()], perfect, MDAPE, LIMITS)[-1]
    assert (point.state, point.reference_error) == ("no verdict", 0)
    assert point.reason == "relative excess error is undefined on these rows"


def test_a_champion_that_is_no_longer_scored_is_named() -> None:
    old = stream(12, 10)
    for week in range(5, 11):
        del old[WEEKS[week]]["job-0"]
    point = decay_points([champion()], old, MDAPE, LIMITS)[-1]
    assert point.state == "no verdict"
    assert "has no scores of job-0: it was registered later, is older than max_age" in point.reason


def test_periods_before_the_first_champion_have_no_point() -> None:
    points = decay_points([champion(in_force_from=4)], stream(13, 6), MDAPE, LIMITS)
    assert [point.partition for point in points] == WEEKS[4:7]
    assert decay_points([], stream(13, 2), MDAPE, LIMITS) == []


def test_one_period_more_changes_no_earlier_point() -> None:
    """What is known later isn't read back; a monitor gives what the whole series gives."""
    log = [champion(), champion(2, 9)]
    periods = stream(14, 16, bias=lambda week: -0.005 * week, jobs=(0, 9))
    whole = decay_points(log, periods, MDAPE, LIMITS)
    assert repr(decay_points(log, periods, MDAPE, LIMITS)) == repr(whole)
    monitor = DecayMonitor(MDAPE, LIMITS)
    for week in range(1, 17):
        in_force = log[0] if week < 10 else log[1]
        point = monitor.observe(WEEKS[week], in_force, periods[WEEKS[week]])
        assert repr(point) == repr(whole[week - 1])


def text_stream(seed: int, excess: Callable[[int], float]) -> Stream:
    """Completion losses of reports: the reference's, and the model's by an excess."""
    random = np.random.default_rng(seed)
    periods: Stream = {}
    for week in range(1, 9):
        names = np.array([f"{week}-{n}" for n in range(200)])
        losses = random.gamma(2, 0.6, 200)
        own = losses + random.normal(excess(week), 0.3, 200)
        periods[WEEKS[week]] = {
            name: Outcomes(
                names,
                np.full(200, "test"),
                np.zeros(200),
                np.column_stack([random.random(200) < np.exp(-loss), loss]),
            )
            for name, loss in (("job-0", own), (REFERENCE, losses))
        }
    return periods


@pytest.mark.parametrize("level", [-0.4, 0.4])
def test_an_excess_over_the_reference_is_compared_with_the_first_periods(level: float) -> None:
    limits = DecayLimits(1, 100, 0.15, 10.0, bias_against="start")
    measure = TextMeasure("completion_loss")
    points = decay_points([champion()], text_stream(1, lambda _: level), measure, limits)
    assert states(points) == ["no verdict"] + ["healthy"] * 7
    assert "compared with" in points[0].reason

    worse = text_stream(1, lambda week: level + (0.4 if week >= 5 else 0))
    points = decay_points([champion()], worse, measure, limits)
    assert states(points)[1:] == ["healthy"] * 3 + ["decayed"] * 4
    assert points[4].bias.estimate == pytest.approx(0.4, abs=0.1)

    better = text_stream(1, lambda week: level - (0.4 if week >= 5 else 0))
    assert "decayed" not in states(decay_points([champion()], better, measure, limits))


def commit(storage: LocalStorage, periods: Mapping[str, Mapping[str, Outcomes]], at: int) -> None:
    for partition, outcomes in periods.items():
        write_evaluation(
            storage,
            Evaluation(
                model="prices",
                partition=partition,
                evaluated_at=datetime(2026, 1, at, tzinfo=UTC),
                metric=MDAPE.metric,
                key="",
                rows=len(outcomes[REFERENCE]),
                scores=(),
            ),
            outcomes,
        )


def test_the_series_from_storage_reads_the_newest_evaluations(tmp_path: Path) -> None:
    storage, log = LocalStorage(tmp_path), [champion(), champion(2, 5)]
    periods = stream(15, 10, jobs=(0, 3, 5))
    commit(storage, periods, at=1)

    def series() -> list[DecayPoint]:
        return decay_series(storage, read_evaluations(storage, "prices"), log, MDAPE, LIMITS)

    assert repr(series()) == repr(decay_points(log, periods, MDAPE, LIMITS))
    corrected = stream(16, 10, jobs=(0, 3, 5), bias=lambda _: 0.1)
    commit(storage, {WEEKS[10]: corrected[WEEKS[10]]}, at=2)
    expected = decay_points(log, {**periods, WEEKS[10]: corrected[WEEKS[10]]}, MDAPE, LIMITS)
    assert repr(series()) == repr(expected)
    assert series()[-1].bias.estimate > 0.01


def test_a_reference_of_other_classes_gives_no_verdict_and_says_so() -> None:
    """A rare class that enters or leaves the window changes how many the reference knows."""
    generator = np.random.default_rng(5)

    def week(classes: int) -> dict[str, Outcomes]:
        rows = np.array([str(row) for row in range(ROWS)])
        splits, actual = np.full(ROWS, "train"), generator.integers(0, 3, ROWS).astype(float)

        def shares(count: int) -> np.ndarray:
            return generator.dirichlet(np.ones(count), ROWS)

        return {
            "job-0": Outcomes(rows, splits, actual, shares(3)),
            REFERENCE: Outcomes(rows, splits, actual, shares(classes)),
        }

    periods = {key: week(3 if number < 6 else 4) for number, key in enumerate(WEEKS[1:12])}
    measure = NumericMeasure("classification", "log_loss")
    points = decay_points([champion()], periods, measure, LIMITS)
    mixed = [number for number, point in enumerate(points) if "classes" in point.reason]
    assert mixed == [6, 7, 8]
    assert {points[number].state for number in mixed} == {"no verdict"}


@pytest.mark.slow
def test_memory_does_not_grow_with_rows_times_draws() -> None:
    large = stream(1, 1, rows=lambda week: 300_000)
    tracemalloc.start()
    [point] = decay_points([champion()], large, MDAPE, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert point.rows == 300_000
    assert peak < 400e6  # the numbers of all drawn rows are 480 MB
