"""Periods, cadences and trailing windows."""

import itertools
from datetime import datetime, timedelta

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.periods import (
    Cadence,
    Every,
    InvalidPeriod,
    Period,
    parse_duration,
    parse_length,
    periods_in,
    trailing_window,
)

STARTS = {
    "day": datetime(2024, 2, 28),
    "week": datetime(2014, 4, 28),
    "month": datetime(2023, 11, 1),
    "quarter": datetime(2023, 4, 1),
    "year": datetime(2020, 1, 1),
}
CADENCES = st.sampled_from([Cadence(every, start) for every, start in STARTS.items()])  # type: ignore[arg-type]
MOMENTS = st.datetimes(datetime(2014, 1, 1), datetime(2030, 1, 1))


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("17 weeks", relativedelta(weeks=17)),
        ("1 hour", relativedelta(hours=1)),
        (" 3months ", relativedelta(months=3)),
        ("2 quarters", relativedelta(months=6)),
        ("1 year", relativedelta(years=1)),
    ],
)
def test_lengths_are_read(text: str, length: relativedelta) -> None:
    assert parse_length(text) == length


@pytest.mark.parametrize(
    "text", ["", "weeks", "0 weeks", "-1 week", "1.5 days", "2 fortnights", "3"]
)
def test_other_lengths_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidPeriod, match="17 weeks"):
        parse_length(text)


def test_durations_are_the_lengths_that_never_vary() -> None:
    assert parse_duration("10 weeks") == timedelta(days=70)
    assert parse_duration("90 minutes") == timedelta(hours=1.5)
    for text in ("1 month", "2 quarters", "1 year"):
        with pytest.raises(InvalidPeriod, match="no fixed duration"):
            parse_duration(text)


@pytest.mark.parametrize(
    ("length", "every", "count"),
    [
        ("26 weeks", "week", 26),
        ("14 days", "week", 2),
        ("1 day", "day", 1),
        ("36 months", "month", 36),
        ("1 year", "month", 12),
        ("2 years", "quarter", 8),
        ("9 months", "quarter", 3),
        ("4 quarters", "year", 1),
        ("48 hours", "day", 2),
    ],
)
def test_a_length_has_a_whole_number_of_periods(length: str, every: Every, count: int) -> None:
    assert periods_in(length, every) == count


@pytest.mark.parametrize(
    ("length", "every"),
    [
        ("10 days", "week"),
        ("3 months", "week"),
        ("1 month", "day"),  # 28 to 31
        ("1 year", "day"),
        ("4 weeks", "month"),
        ("4 months", "quarter"),
        ("12 hours", "day"),
    ],
)
def test_a_length_that_is_no_whole_number_of_periods_is_refused(length: str, every: Every) -> None:
    with pytest.raises(InvalidPeriod, match=f"each of which is a {every}"):
        periods_in(length, every)


def test_a_length_in_periods_is_read_as_any_length() -> None:
    with pytest.raises(InvalidPeriod, match="17 weeks"):
        periods_in("fortnight", "week")


@given(CADENCES, MOMENTS)
def test_a_moment_lies_in_one_period_which_its_key_names(
    cadence: Cadence, moment: datetime
) -> None:
    period = cadence.containing(moment)
    assert (period is None) == (moment < cadence.start)
    if period is not None:
        assert period.start <= moment < period.end
        assert cadence.period(period.key) == period
        assert cadence.containing(period.end - timedelta(microseconds=1)) == period
        following = cadence.following(period)
        assert following is not None
        assert following.start == period.end


@given(CADENCES, MOMENTS, MOMENTS)
def test_periods_between_are_consecutive_and_cover(
    cadence: Cadence, one: datetime, other: datetime
) -> None:
    start, end = min(one, other), max(one, other)
    periods = list(cadence.between(start, end))
    assert all(a.end == b.start for a, b in itertools.pairwise(periods))
    if end > max(start, cadence.start):
        assert periods[0].start <= max(start, cadence.start)
        assert periods[-1].start < end <= periods[-1].end


def test_a_cadence_ends_before_a_period_that_would_not_fit() -> None:
    cadence = Cadence("week", datetime(2014, 4, 28), datetime(2014, 5, 15))
    periods = list(cadence.between(cadence.start, datetime(2015, 1, 1)))
    assert [period.key for period in periods] == ["2014-04-28", "2014-05-05"]
    assert cadence.following(periods[-1]) is None
    assert cadence.containing(datetime(2014, 5, 15)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fortnight", datetime(2024, 1, 1)), "fortnight"),
        (("week", datetime(2024, 1, 1, 6)), "time of day"),
        (("month", datetime(2024, 1, 2)), "first day of a month"),
        (("quarter", datetime(2024, 2, 1)), "first day of a quarter"),
        (("year", datetime(2024, 2, 1)), "first day of a year"),
        (("week", datetime(2024, 1, 1), datetime(2024, 1, 1)), "later than start"),
    ],
)
def test_cadences_that_make_no_sense_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InvalidPeriod, match=message):
        Cadence(*arguments)


@pytest.mark.parametrize("key", ["2014-04-29", "2014-04-21", "2016-01-04", "28.04.2014", ""])
def test_keys_of_no_period_are_refused(key: str) -> None:
    with pytest.raises(InvalidPeriod):
        Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1)).period(key)


def test_a_trailing_window_ends_with_its_period() -> None:
    cadence = Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))
    window = trailing_window(cadence, cadence.period("2014-12-01"), parse_length("17 weeks"))
    assert (window.start, window.end) == (datetime(2014, 8, 11), datetime(2014, 12, 8))
    assert len(window.periods) == 17
    assert window.full
    assert window.periods[-1] == cadence.period("2014-12-01")


def test_warm_up_ends_where_the_window_first_fits() -> None:
    cadence = Cadence("month", datetime(2023, 11, 1))
    lengths = {}
    for key in ("2023-11-01", "2023-12-01", "2024-01-01", "2024-02-01"):
        window = trailing_window(cadence, cadence.period(key), parse_length("3 months"))
        lengths[key] = (len(window.periods), window.full, window.start)
    assert lengths == {
        "2023-11-01": (1, False, cadence.start),
        "2023-12-01": (2, False, cadence.start),
        "2024-01-01": (3, True, cadence.start),
        "2024-02-01": (3, True, datetime(2023, 12, 1)),
    }


def test_a_window_may_begin_inside_a_period() -> None:
    cadence = Cadence("week", datetime(2024, 1, 1))
    window = trailing_window(cadence, cadence.period("2024-01-15"), parse_length("10 days"))
    assert window.start == datetime(2024, 1, 12)
    assert [period.key for period in window.periods] == ["2024-01-08", "2024-01-15"]


def test_a_period_shows_its_half_open_bounds() -> None:
    assert str(Period(datetime(2024, 1, 1), datetime(2024, 1, 8))) == "[2024-01-01, 2024-01-08)"
