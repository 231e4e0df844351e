"""Groups of attributes that several components share."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dagster as dg
from dagster_shared.check import CheckError
from pydantic import Field, ValidationInfo, field_validator, model_validator

from sf_sagemaker.components.component import Attributes, within
from sf_sagemaker.periods import Cadence, Every, parse_duration, parse_length
from sf_sagemaker.training.cost import CostAboveMaximum, check_cost
from sf_sagemaker.training.job import Limits
from sf_sagemaker.warehouse.dataset import SplitFractions

_LONGEST_JOB = timedelta(days=28)  # StoppingCondition, SageMaker API reference
_LONGEST_WARM_POOL = timedelta(hours=1)
_MOST_TAGS = 40  # SageMaker takes 50, and some say what the job is
_TAG = re.compile(r"[\w .:/=+@-]*")


def check_instance_type(value: str) -> str:
    """The name of an instance type. Raises ValueError for what can't be one."""
    if not re.fullmatch(r"ml\.[a-z0-9-]+\.[a-z0-9]+", value):
        raise ValueError("not a SageMaker instance type, such as ml.m5.xlarge")
    return value


def timezone_validator() -> Any:
    """A validator of the attribute `timezone`."""

    def check(value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ModuleNotFoundError, ValueError):
            raise ValueError("no such time zone: write one such as Europe/Zurich or UTC") from None
        return value

    return field_validator("timezone")(check)


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

    @field_validator("start", "end", mode="before")
    @classmethod
    def _is_date(cls, value: object) -> object:
        # Without its hyphens, a date in quotes has become a number before it gets here.
        if value is not None:
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", str(value)):
                raise ValueError("write a date as YYYY-MM-DD, in quotes")
            date.fromisoformat(str(value))
        return value

    _timezone = timezone_validator()

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

    def cron(self) -> str:
        """When periods begin and end, as a cron expression."""
        weekday = datetime.fromisoformat(self.start).isoweekday() % 7
        return {
            "day": "0 0 * * *",
            "week": f"0 0 * * {weekday}",
            "month": "0 0 1 * *",
            "quarter": "0 0 1 */3 *",
            "year": "0 0 1 1 *",
        }[self.every]

    def definition(self) -> dg.TimeWindowPartitionsDefinition:
        """The same, for Dagster: one partition key for each period of the cadence."""
        return dg.TimeWindowPartitionsDefinition(
            start=self.start,
            end=self.end,
            fmt="%Y-%m-%d",
            cron_schedule=self.cron(),
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


class JobCost(Attributes):
    """What a job's instances cost, and what it may cost at most, by its `limits`."""

    price_per_hour: float | None = Field(
        default=None,
        description="Price of one instance for an hour, in any currency; with it, metadata says what a "
        "job cost.",
    )
    max_cost: float | None = Field(
        default=None,
        description="What the jobs of a run may cost at most, in the currency of price_per_hour: each "
        "is counted with all of its max_runtime, and has the same share for all of its attempts.",
    )

    _money = within("price_per_hour", "max_cost", above=0)

    @model_validator(mode="after")
    def _is_affordable(self) -> Self:
        if self.max_cost is not None and self.price_per_hour is None:
            raise ValueError("max_cost needs price_per_hour, the price of one instance")
        try:
            check_cost(self.limits(), self.hosts)
        except CostAboveMaximum as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def hosts(self) -> int:
        """How many instances a job has."""
        return 1

    def limits(self) -> Limits:
        """The same, as a job carries it."""
        raise NotImplementedError


class Compute(JobCost):
    """What a training job runs on. Only `instance_count` and `image` can change its result.

    Locally, a job runs on this machine, and only `instance_count`, `max_runtime` and `parallel_jobs`
    have an effect.
    """

    instance_type: str = Field(
        default="ml.m5.xlarge",
        description="SageMaker instance type; local jobs run on this machine.",
    )
    instance_count: int = Field(
        default=1,
        description="Hosts; each trains on its own shard of the rows. Locally, each is a process.",
    )
    max_runtime: str = Field(
        default="1 hour", description="A job that runs longer is stopped.", examples=["90 minutes"]
    )
    spot: bool = Field(
        default=False,
        description="Use SageMaker managed spot training. An interrupted job goes on from its "
        "checkpoint.",
    )
    max_wait: str | None = Field(
        default=None,
        description="With spot: how long a job may wait for capacity and run, together; twice "
        "max_runtime if left out.",
        examples=["3 hours"],
    )
    volume_size: int = Field(default=30, description="Disk of each host, in GB.")
    keep_alive: str | None = Field(
        default=None,
        description="How long the hosts stay for the next job of the same kind (a warm pool), which "
        "is billed; not with spot.",
        examples=["30 minutes"],
    )
    subnets: list[str] = Field(
        default=[],
        description="Subnets of the hosts, with security_groups; those of the deployment if left out.",
        examples=[["subnet-0123456789abcdef0"]],
    )
    security_groups: list[str] = Field(
        default=[],
        description="Security groups of the hosts, with subnets.",
        examples=[["sg-0123456789abcdef0"]],
    )
    default_subnets: bool = Field(
        default=False,
        description="Run in the subnets of the account's default VPC, which are looked up.",
    )
    network_isolation: bool = Field(
        default=False,
        description="Cut the program off from the network, but for the other hosts of its job.",
    )
    kms_key: str | None = Field(
        default=None,
        description="KMS key of the model's artifact and of the disks; the deployment's if left out.",
    )
    tags: dict[str, str] = Field(
        default={},
        description="AWS tags of the jobs, beside those that say what they train.",
        examples=[{"cost-center": "analytics"}],
    )
    image: str | None = Field(
        default=None,
        description="Container image in ECR instead of SageMaker's own; has the same libraries.",
        examples=["123456789012.dkr.ecr.eu-central-1.amazonaws.com/training:1.0"],
    )
    parallel_jobs: int = Field(
        default=2, description="Training jobs of a backfill that run side by side."
    )

    _bounds = within("instance_count", "parallel_jobs", least=1, most=100)
    _volume = within("volume_size", least=1, most=16384)

    @field_validator("instance_type")
    @classmethod
    def _is_instance_type(cls, value: str) -> str:
        return check_instance_type(value)

    @field_validator("kms_key")
    @classmethod
    def _is_key(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-zA-Z0-9:/_-]+", value):
            raise ValueError("not the id, the alias or the ARN of a KMS key")
        return value

    @field_validator("max_runtime", "max_wait", "keep_alive")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        if value is not None and not timedelta(0) < parse_duration(value) <= _LONGEST_JOB:
            raise ValueError(f"must be longer than nothing and at most {_LONGEST_JOB.days} days")
        return value

    @field_validator("subnets", "security_groups")
    @classmethod
    def _are_ids(cls, values: list[str], info: ValidationInfo) -> list[str]:
        kind = "subnet" if info.field_name == "subnets" else "sg"
        for value in values:
            if not re.fullmatch(rf"{kind}-[0-9a-f]{{8,17}}", value):
                raise ValueError(f"{value!r} is not an id such as {kind}-0123456789abcdef0")
        return values

    @field_validator("tags")
    @classmethod
    def _are_tags(cls, values: dict[str, str]) -> dict[str, str]:
        if len(values) > _MOST_TAGS:
            raise ValueError(f"at most {_MOST_TAGS} tags, and there are {len(values)}")
        for key, value in values.items():
            if key.startswith(("aws:", "sf_sagemaker:")):
                raise ValueError(f"{key!r}: tags that begin with aws: or sf_sagemaker: are taken")
            if not (_TAG.fullmatch(key) and 1 <= len(key) <= 128):
                raise ValueError(f"{key!r}: up to 128 letters, digits, spaces and _.:/=+-@")
            if not (_TAG.fullmatch(value) and len(value) <= 256):
                raise ValueError(f"{value!r}: up to 256 letters, digits, spaces and _.:/=+-@")
        return values

    @model_validator(mode="after")
    def _go_together(self) -> "Compute":
        limits = self.limits()
        if limits.max_wait is not None and not self.spot:
            raise ValueError("max_wait belongs to spot: true")
        if limits.max_wait is not None and limits.max_wait < limits.max_runtime:
            raise ValueError(f"max_wait must be at least max_runtime, {self.max_runtime}")
        if limits.keep_alive is not None and self.spot:
            raise ValueError("keep_alive and spot: true exclude each other")
        if limits.keep_alive is not None and limits.keep_alive > _LONGEST_WARM_POOL:
            raise ValueError("keep_alive is at most 1 hour")
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together: write both, or neither")
        if self.subnets and self.default_subnets:
            raise ValueError("write either default_subnets: true, or subnets and security_groups")
        return self

    @property
    def hosts(self) -> int:
        return self.instance_count

    def limits(self) -> Limits:
        return Limits(
            instance_type=self.instance_type,
            max_runtime=parse_duration(self.max_runtime),
            spot=self.spot,
            max_wait=parse_duration(self.max_wait) if self.max_wait else None,
            volume_gb=self.volume_size,
            keep_alive=parse_duration(self.keep_alive) if self.keep_alive else None,
            subnets=tuple(self.subnets),
            security_groups=tuple(self.security_groups),
            default_subnets=self.default_subnets,
            network_isolation=self.network_isolation,
            kms_key=self.kms_key,
            price_per_hour=self.price_per_hour,
            max_cost=self.max_cost,
        )


class Freshness(Attributes):
    """How old an asset may grow before Dagster's health says so: a window, or a deadline."""

    fail_window: str | None = Field(
        default=None,
        description="Age from which on the asset fails its freshness.",
        examples=["84 days"],
    )
    warn_window: str | None = Field(
        default=None, description="Age from which on it is shown as aging.", examples=["70 days"]
    )
    deadline: str | None = Field(
        default=None,
        description="Instead of windows: cron expression of the times by which it must be built.",
        examples=["0 9 * * 1"],
    )
    within: str | None = Field(
        default=None,
        description="How long before its deadline it may be built.",
        examples=["12 hours"],
    )
    timezone: str = Field(default="UTC", description="Time zone of the deadline.")

    _timezone = timezone_validator()

    @model_validator(mode="after")
    def _is_policy(self) -> "Freshness":
        if (self.deadline is None) == (self.fail_window is None):
            raise ValueError("write either fail_window, or deadline and within")
        if self.deadline is None and self.within is not None:
            raise ValueError("within belongs to a deadline, and there is none")
        if self.deadline is not None and (self.within is None or self.warn_window is not None):
            raise ValueError("a deadline needs within, and has no warn_window")
        try:
            self.policy()  # lengths raise InvalidPeriod, a ValueError
        except CheckError as error:
            raise ValueError(str(error)) from None
        return self

    def window(self) -> timedelta | None:
        """The age from which on the asset fails; None where deadlines say so."""
        return parse_duration(self.fail_window) if self.fail_window else None

    def policy(self) -> dg.FreshnessPolicy:
        """The same, for Dagster, whose daemon evaluates it."""
        window = self.window()
        if window is not None:
            warn = parse_duration(self.warn_window) if self.warn_window else None
            return dg.FreshnessPolicy.time_window(fail_window=window, warn_window=warn)
        assert self.deadline is not None
        assert self.within is not None
        return dg.FreshnessPolicy.cron(
            deadline_cron=self.deadline,
            lower_bound_delta=parse_duration(self.within),
            timezone=self.timezone,
        )


class Retraining(Attributes):
    """What starts the training of the newest landed period."""

    mode: Literal["manual", "automatic", "schedule"] = Field(
        default="manual",
        description="manual: a person, a job or a backfill. automatic: a sensor, when the model fails "
        "its freshness or its decay check, or when its code or configuration changed. schedule: the "
        "times of `schedule`, each time that a period has landed since.",
    )
    schedule: str = Field(
        default="0 6 * * *",
        description="Cron expression. In the mode automatic, the times at which a retraining whose "
        "runs all failed is asked for again.",
        examples=["0 6 * * 1"],
    )
    cool_down: int = Field(
        default=2,
        description="Periods that must have landed since the newest model's before a failing decay "
        "check alone asks for another.",
    )
    max_retries: int = Field(default=2, description="Retries of a run that fails.")
    max_requests: int = Field(
        default=3,
        description="Requests for one period whose runs all failed, each with its retries, after "
        "which a person has to act.",
    )

    _cool_down = within("cool_down", least=1)
    _retries = within("max_retries", least=0, most=10)
    _requests = within("max_requests", least=1, most=10)

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        try:
            dg.ScheduleDefinition(name="any", cron_schedule=value, target="*")
        except dg.DagsterInvalidDefinitionError:
            raise ValueError(
                "not a cron expression: write minute, hour, day of the month, month and day of the "
                "week, for example '0 6 * * 1' for Mondays at six"
            ) from None
        return value


@dataclass(frozen=True)
class AssetAttributes:
    """What a model's assets share: periods, what starts them, and how the UI shows them."""

    cadence: Cadence
    partitions_def: dg.PartitionsDefinition
    freshness_policy: dg.FreshnessPolicy | None
    group: str
    owners: Sequence[str]
    tags: Mapping[str, str]
