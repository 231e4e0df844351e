"""Groups of attributes that several components share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg
from pydantic import Field, field_validator, model_validator

from sf_sagemaker.components.component import Attributes, within
from sf_sagemaker.periods import Cadence, Every, parse_duration, parse_length
from sf_sagemaker.training.job import Limits
from sf_sagemaker.warehouse.dataset import SplitFractions


class Partitions(Attributes):
    """The periods of an asset: each partition is one of them, named by the date on which it starts."""

    every: Every = Field(description="Length of a period. Weeks begin on the weekday of `start`.")
    start: str = Field(
        description="First day of the first period, YYYY-MM-DD.", examples=["2014-04-28"]
    )
    end: str | None = Field(
        default=None,
        description="Day after the last period, YYYY-MM-DD. Without it, periods go on with the calendar.",
        examples=["2015-06-01"],
    )
    timezone: str = Field(
        default="UTC", description="Time zone of the event times and of the period bounds."
    )

    @field_validator("start", "end")
    @classmethod
    def _is_date(cls, value: str | None) -> str | None:
        if value is not None:
            date.fromisoformat(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ModuleNotFoundError, ValueError):
            raise ValueError("no such time zone: write one such as Europe/Zurich or UTC") from None
        return value

    @model_validator(mode="after")
    def _is_cadence(self) -> "Partitions":
        self.cadence()  # raises InvalidPeriod, a ValueError
        return self

    def cadence(self) -> Cadence:
        """The same, for the rooms that don't know Dagster."""
        return Cadence(
            every=self.every,
            start=datetime.fromisoformat(self.start),
            end=datetime.fromisoformat(self.end) if self.end else None,
            timezone=self.timezone,
        )

    def definition(self) -> dg.TimeWindowPartitionsDefinition:
        """The same, for Dagster: one partition key for each period of the cadence."""
        start = datetime.fromisoformat(self.start)
        cron = {
            "day": "0 0 * * *",
            "week": f"0 0 * * {start.isoweekday() % 7}",
            "month": "0 0 1 * *",
            "quarter": "0 0 1 */3 *",
            "year": "0 0 1 1 *",
        }[self.every]
        return dg.TimeWindowPartitionsDefinition(
            start=self.start,
            end=self.end,
            fmt="%Y-%m-%d",
            cron_schedule=cron,
            timezone=self.timezone,
        )


class Splits(Attributes):
    """Shares of the split keys; a key keeps its split in every dataset of the model."""

    train: float = Field(default=0.8, description="Share that the model learns from.")
    validation: float = Field(default=0.1, description="Share that decides when to stop.")
    test: float = Field(default=0.1, description="Share that the model never sees.")

    _bounds = within("train", "validation", "test", above=0, below=1)

    @model_validator(mode="after")
    def _adds_up(self) -> "Splits":
        self.fractions()  # a ValueError unless they add up to 1
        return self

    def fractions(self) -> SplitFractions:
        """The same, as a dataset's specification has it."""
        return SplitFractions(train=self.train, validation=self.validation, test=self.test)


class Sample(Attributes):
    """Which rows of the source make up a training dataset."""

    window: str = Field(
        description="Length of the trailing window that ends with the partition's end.",
        examples=["17 weeks", "3 months"],
    )
    fraction: float = Field(
        default=1.0,
        description="Share of the rows to take, above 0 and up to 1. A smaller fraction is a subset "
        "of a larger one.",
    )
    seed: int = Field(
        default=0, description="Decides which rows a fraction takes, and seeds the training."
    )
    splits: Splits = Field(default=Splits(), description="Shares of train, validation and test.")

    _bounds = within("fraction", above=0, most=1)

    @field_validator("window")
    @classmethod
    def _is_length(cls, value: str) -> str:
        length = parse_length(value)
        if length.hours or length.minutes or length.seconds:
            raise ValueError("a window is a number of days, weeks, months, quarters or years")
        return value


class Compute(Attributes):
    """What a training job runs on. Only `instance_count` can change its result."""

    instance_type: str = Field(
        default="ml.m5.xlarge",
        pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$",
        description="SageMaker instance type; local jobs run on this machine.",
    )
    instance_count: int = Field(
        default=1,
        description="Hosts; each trains on its own shard of the rows. Locally, each is a process.",
    )
    max_runtime: str = Field(
        default="1 hour", description="A job that runs longer is stopped.", examples=["90 minutes"]
    )
    spot: bool = Field(default=False, description="Use SageMaker managed spot training.")

    _bounds = within("instance_count", least=1, most=100)

    @field_validator("max_runtime")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value

    def limits(self) -> Limits:
        """The same, as a training job carries it."""
        return Limits(
            instance_type=self.instance_type,
            max_runtime=parse_duration(self.max_runtime),
            spot=self.spot,
        )


class Retraining(Attributes):
    """What starts the training of a period."""

    mode: Literal["manual", "every_period"] = Field(
        default="manual",
        description="manual: a person, a job or a backfill. every_period: each period whose source "
        "has landed and passed its blocking checks is trained once, by itself.",
    )

    def automation_condition(self) -> dg.AutomationCondition | None:
        """The condition under which Dagster asks for a period of the dataset or of the model.

        A period that failed is not asked for again: whoever mends the cause also launches it.
        """
        if self.mode == "manual":
            return None
        condition = dg.AutomationCondition
        return (
            condition.missing()
            & ~condition.in_progress()
            & ~condition.execution_failed()
            & ~condition.any_deps_missing()
            & ~condition.any_deps_in_progress()
            & condition.all_deps_blocking_checks_passed()
        )


@dataclass(frozen=True)
class AssetAttributes:
    """What a model's assets share: periods, what starts them, and how the UI shows them."""

    cadence: Cadence
    partitions_def: dg.PartitionsDefinition
    automation_condition: dg.AutomationCondition | None
    group: str
    owners: Sequence[str]
    tags: Mapping[str, str]
