"""Groups of attributes for what happens to a model after training."""

from datetime import timedelta
from typing import Any

from pydantic import Field, field_validator

from sf_sagemaker.components.attributes import Partitions
from sf_sagemaker.components.component import Attributes, within
from sf_sagemaker.lifecycle.decay import DecayLimits
from sf_sagemaker.lifecycle.drift import LIMIT
from sf_sagemaker.lifecycle.promotion import PromotionRules
from sf_sagemaker.periods import Cadence, InvalidPeriod, parse_duration, parse_length, periods_in

_OLDEST = 26  # periods
_ROLLING = 4  # periods


def length_validator(name: str) -> Any:
    """A validator of an attribute that is a length of time, or not written."""

    def check(value: str | None) -> str | None:
        if value is not None:
            parse_length(value)
        return value

    return field_validator(name)(check)


class Evaluation(Attributes):
    """How the models of earlier periods are judged on the rows of a period."""

    metric: str | None = Field(
        default=None,
        description="The metric that counts. Unless named: median_absolute_percentage_error for a "
        "numeric target, log_loss for classes, and completion_perplexity for text.",
    )
    max_age: str | None = Field(
        default=None,
        description="Age up to which models are evaluated, in whole periods; 26 of them unless written.",
        examples=["26 weeks", "36 months"],
    )
    from_predictions: bool = Field(
        default=False,
        description="Whether the stored predictions of a period count for the model that made them, in "
        "place of new ones.",
    )

    _length = length_validator("max_age")

    def oldest(self, cadence: Cadence) -> int:
        """The greatest age in periods. Raises InvalidPeriod."""
        return periods_in(self.max_age, cadence.every) if self.max_age else _OLDEST


class Update(Attributes):
    """When a period that has ended is landed and evaluated."""

    offset: str = Field(
        default="3 hours",
        description="How long after the period's end; its last rows arrive until then.",
        examples=["90 minutes", "2 days"],
    )
    max_retries: int = Field(default=2, description="Retries of a run that fails.")

    _length = length_validator("offset")
    _retries = within("max_retries", least=0, most=10)

    def delay(self, partitions: Partitions) -> timedelta:
        """The offset. Raises InvalidPeriod for one that is no shorter than any period."""
        offset = parse_duration(self.offset)
        days = {"day": 1, "week": 7}.get(partitions.every, 28)
        if offset >= timedelta(days=days) or offset.seconds % 60:
            raise InvalidPeriod(
                f"{self.offset!r} must be whole minutes and less than {days} days, so that each "
                f"{partitions.every} is updated before the next one ends"
            )
        return offset

    def cron(self, partitions: Partitions) -> str:
        """The ends of the periods with the offset, as a cron expression. Raises InvalidPeriod."""
        offset = self.delay(partitions)
        _, _, day, month, weekday = partitions.cron().split()
        if partitions.every == "week":
            weekday = str((int(weekday) + offset.days) % 7)
        elif partitions.every != "day":
            day = str(int(day) + offset.days)
        hour, minute = divmod(offset.seconds // 60, 60)
        return f"{minute} {hour} {day} {month} {weekday}"


class Decay(Attributes):
    """When the champion counts as decayed."""

    rolling: str | None = Field(
        default=None,
        description="Length of the rolling window over which both signals are measured, in whole "
        "periods; 4 of them unless written.",
        examples=["4 weeks", "12 months"],
    )
    min_rows: int = Field(
        default=500,
        description="Labelled rows in the rolling window, below which there is no verdict.",
    )
    max_bias: float = Field(
        default=0.03,
        description="Bias beyond which the champion has decayed: median log ratio of a positive "
        "target, median residual over its spread of any other number, mean probability less the rate "
        "of classes, log loss in excess of the reference of text.",
    )
    max_relative_excess_error: float = Field(
        default=0.05,
        description="Rise of the error relative to the reference's, since the champion's first "
        "periods; 0.05 is 5 %. Also the tolerance of the decay curve.",
    )

    _rows = within("min_rows", least=1)
    _limits = within("max_bias", "max_relative_excess_error", above=0)

    _length = length_validator("rolling")

    def limits(self, cadence: Cadence, *, text: bool) -> DecayLimits:
        """The same, for the library. Raises InvalidPeriod."""
        return DecayLimits(
            rolling=periods_in(self.rolling, cadence.every) if self.rolling else _ROLLING,
            min_rows=self.min_rows,
            max_bias=self.max_bias,
            max_relative_excess_error=self.max_relative_excess_error,
            bias_against="start" if text else "zero",
        )


class InputDrift(Attributes):
    """When the features of recent rows count as drifted from those of the champion's training."""

    max_effect: float = Field(
        default=LIMIT,
        description="Share of the rows by which a feature's distribution may have moved.",
    )
    ignore: list[str] = Field(
        default=[], description="Features that move by design, such as a price level."
    )

    _bounds = within("max_effect", above=0, below=1)


class Promotion(Attributes):
    """When a challenger takes over from the champion."""

    margin: float = Field(
        default=0.02,
        description="By how much its error may be higher, relative to the champion's, and still count "
        "as no worse.",
    )
    min_rows: int = Field(
        default=200, description="Rows that neither was trained on, which a comparison needs."
    )
    confirm: bool = Field(
        default=False, description="Whether a person must confirm each promotion."
    )

    _margin = within("margin", least=0, most=1)
    _rows = within("min_rows", least=1)

    def rules(self, seed: int, max_age: timedelta | None) -> PromotionRules:
        """The same, for the library; `max_age` is the freshness window."""
        return PromotionRules(self.margin, self.min_rows, self.confirm, seed, max_age)
