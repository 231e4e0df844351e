"""The attributes that bound a batch transform job, in time and in money."""

from datetime import timedelta
from typing import ClassVar

from pydantic import Field, field_validator

from sf_sagemaker.components.attributes import JobCost
from sf_sagemaker.periods import parse_duration
from sf_sagemaker.training.job import Limits

# For seven days, the sensor of orphaned jobs looks for what a run left behind.
_LONGEST = timedelta(days=6)


class TransformBounds(JobCost):
    """How long a batch transform job may run, and what it may cost. `settings` is what the group of
    attributes is called."""

    settings: ClassVar[str]

    instance_type: str = Field(description="SageMaker instance type.")
    max_runtime: str = Field(
        default="6 hours", description="A job that runs longer is stopped.", examples=["90 minutes"]
    )
    max_cost: float | None = Field(
        default=None,
        description="What a job may cost at most, in the currency of price_per_hour: it is counted "
        "with all of its max_runtime, and this is for all attempts of a run.",
    )

    @field_validator("max_runtime")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        if not timedelta(seconds=1) <= parse_duration(value) <= _LONGEST:
            raise ValueError(f"must be at least 1 second and at most {_LONGEST.days} days")
        return value

    def limits(self) -> Limits:
        return Limits(
            instance_type=self.instance_type,
            max_runtime=parse_duration(self.max_runtime),
            price_per_hour=self.price_per_hour,
            max_cost=self.max_cost,
            settings=self.settings,
        )
