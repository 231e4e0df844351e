"""Calendar periods: the weeks and months that name partitions, and windows over them.

A period is named by its start and covers the half-open interval [start, end). Everything here is
plain calendar arithmetic on naive datetimes in the model's own time zone; Dagster's partitions
definition is built from a `Cadence` by the components, and SQL literals from its bounds by the
warehouse.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from dateutil.relativedelta import relativedelta

from sf_sagemaker.errors import SfSagemakerError

Every = Literal["day", "week", "month", "quarter", "year"]

_STEP = {
    "day": relativedelta(days=1),
    "week": relativedelta(weeks=1),
    "month": relativedelta(months=1),
    "quarter": relativedelta(months=3),
    "year": relativedelta(years=1),
}
_LENGTH = re.compile(r"^\s*(\d+)\s*(second|minute|hour|day|week|month|quarter|year)s?\s*$")


class InvalidPeriod(SfSagemakerError, ValueError):
    """A length, a start or a partition key that the calendar doesn't have.

    A ValueError too, so that a pydantic validator that calls these functions reports it as its own.
    """


def parse_length(text: str) -> relativedelta:
    """The calendar length that a text such as "17 weeks", "3 months" or "1 hour" names.

    Raises InvalidPeriod for anything else, zero and negative lengths included.
    """
    match = _LENGTH.match(text)
    if match is None or int(match[1]) == 0:
        raise InvalidPeriod(
            f"{text!r} is not a length of time: write a positive whole number and a unit, "
            "for example '17 weeks', '3 months', '70 days' or '1 hour'"
        )
    count, unit = int(match[1]), match[2]
    if unit == "quarter":
        count, unit = 3 * count, "month"
    return relativedelta(**{f"{unit}s": count})  # type: ignore[arg-type]


def parse_duration(text: str) -> timedelta:
    """Like parse_length, for lengths that are the same on every calendar: weeks and shorter.

    Raises InvalidPeriod for months, quarters and years.
    """
    length = parse_length(text)
    if length.months or length.years:
        raise InvalidPeriod(f"{text!r} has no fixed duration: use weeks, days, hours or minutes")
    return timedelta(
        days=length.days, hours=length.hours, minutes=length.minutes, seconds=length.seconds
    )


def periods_in(length: str, every: Every) -> int:
    """How many periods a length such as "26 weeks" has.

    Raises InvalidPeriod unless it is a whole number of them wherever it begins: 3 months are no
    number of weeks, and no number of days.
    """
    wanted = parse_length(length)
    start = datetime(2001, 1, 1)  # a Monday, the first day of a month, of a quarter and of a year
    count, moment = 0, start
    while moment < start + wanted:
        count += 1
        moment = start + count * _STEP[every]
    varies = bool(wanted.months or wanted.years) and every in ("day", "week")
    if varies or moment != start + wanted:
        raise InvalidPeriod(
            f"{length!r} is not a whole number of periods, each of which is a {every}"
        )
    return count


@dataclass(frozen=True, order=True)
class Period:
    """A half-open interval [start, end) of naive datetimes in the model's time zone."""

    start: datetime
    end: datetime

    @property
    def key(self) -> str:
        """The Dagster partition key: the date on which the period starts."""
        return self.start.strftime("%Y-%m-%d")

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%d}, {self.end:%Y-%m-%d})"


@dataclass(frozen=True)
class Cadence:
    """Consecutive periods from `start` on, the last of which ends by `end`.

    Weeks begin on the weekday of `start`: nothing depends on a session's week-start setting.
    `end` is exclusive; None means that periods go on with the calendar.
    """

    every: Every
    start: datetime
    end: datetime | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if self.every not in _STEP:
            raise InvalidPeriod(f"every: {self.every!r} is not one of {', '.join(_STEP)}")
        if self.start != self.start.replace(hour=0, minute=0, second=0, microsecond=0):
            raise InvalidPeriod(f"start {self.start} must be a date without a time of day")
        aligned = {
            "month": self.start.day == 1,
            "quarter": self.start.day == 1 and self.start.month % 3 == 1,
            "year": self.start.day == 1 and self.start.month == 1,
        }.get(self.every, True)
        if not aligned:
            raise InvalidPeriod(
                f"start {self.start:%Y-%m-%d} is not the first day of a {self.every}"
            )
        if self.end is not None and self.end <= self.start:
            raise InvalidPeriod(
                f"end {self.end:%Y-%m-%d} must be later than start {self.start:%Y-%m-%d}"
            )

    def period(self, key: str) -> Period:
        """The period that a partition key names.

        Raises InvalidPeriod when no period starts on that date.
        """
        try:
            start = datetime.strptime(key, "%Y-%m-%d")
        except ValueError:
            raise InvalidPeriod(f"partition {key!r} is not a date written as YYYY-MM-DD") from None
        period = self.containing(start)
        if period is None or period.start != start:
            raise InvalidPeriod(
                f"no {self.every} starts on {key}: periods start on {self.start:%Y-%m-%d} and every "
                f"{self.every} from there" + (f" until {self.end:%Y-%m-%d}" if self.end else "")
            )
        return period

    def containing(self, moment: datetime) -> Period | None:
        """The period that holds `moment`, or None outside the cadence."""
        if moment < self.start or (self.end is not None and moment >= self.end):
            return None
        if self.every in ("day", "week"):
            days = 1 if self.every == "day" else 7
            start = self.start + timedelta(days=(moment - self.start).days // days * days)
        else:
            months = {"month": 1, "quarter": 3, "year": 12}[self.every]
            elapsed = (moment.year - self.start.year) * 12 + moment.month - self.start.month
            start = self.start + relativedelta(months=elapsed // months * months)
        period = Period(start, start + _STEP[self.every])
        return None if self.end is not None and period.end > self.end else period

    def following(self, period: Period) -> Period | None:
        """The period after `period`, or None at the end of the cadence."""
        return self.containing(period.end)

    def between(self, start: datetime, end: datetime) -> Iterator[Period]:
        """The periods of the cadence that overlap [start, end), in order."""
        period = self.containing(max(start, self.start))
        while period is not None and period.start < end:
            yield period
            period = self.following(period)


@dataclass(frozen=True)
class Window:
    """The trailing window of a period: [start, end), where end is the end of the period.

    `full` is False while the window reaches back before the cadence's first period (warm-up):
    datasets of such periods are smaller, and kept out of promotion and of the decay curve.
    """

    start: datetime
    end: datetime
    periods: tuple[Period, ...]
    full: bool


def trailing_window(cadence: Cadence, period: Period, length: relativedelta) -> Window:
    """The window of `length` that ends with the end of `period`, with the periods it overlaps."""
    start = period.end - length
    return Window(
        start=max(start, cadence.start),
        end=period.end,
        periods=tuple(cadence.between(start, period.end)),
        full=start >= cadence.start,
    )
