"""How an endpoint is hosted on machines that are paid for: which, how an update goes, and what stops it.

Values that a host on this machine has no use for. Limits are those of SageMaker's API reference.
"""

import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from sf_sagemaker.serving.errors import InvalidEndpoint

Traffic = Literal["all_at_once", "canary", "linear"]

_LONGEST_WAIT = timedelta(hours=1)
_SHORTEST_UPDATE, _LONGEST_UPDATE = timedelta(minutes=10), timedelta(hours=8)
_LEAST_LINEAR_STEP, _MOST_STEP = 10, 50  # percent of the instances
_MEMORY_STEP, _LEAST_MEMORY, _MOST_MEMORY = 1024, 1024, 6144
_MOST_CONCURRENCY = 200
_MOST_ALARMS = 10
_LONGEST_PERIOD = timedelta(hours=1)


@dataclass(frozen=True)
class Instances:
    """Instances that are there, and billed, as long as the endpoint is."""

    instance_type: str = "ml.m5.large"
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidEndpoint(f"{self.count} instances: an endpoint needs one at least")


@dataclass(frozen=True)
class Serverless:
    """Machines that come with requests, and are billed by them. `memory` is in MB."""

    memory: int = 2048
    max_concurrency: int = 5

    def __post_init__(self) -> None:
        if self.memory % _MEMORY_STEP or not _LEAST_MEMORY <= self.memory <= _MOST_MEMORY:
            raise InvalidEndpoint(
                f"serverless memory {self.memory} MB: expected 1024, 2048, 3072, 4096, 5120 or 6144"
            )
        if not 1 <= self.max_concurrency <= _MOST_CONCURRENCY:
            raise InvalidEndpoint(
                f"serverless max_concurrency {self.max_concurrency}: expected 1 to "
                f"{_MOST_CONCURRENCY}"
            )


@dataclass(frozen=True)
class Rollout:
    """How traffic goes from the model before to the new one, both of which run meanwhile.

    A `canary` gets `step_percent` of the traffic for the time `wait`, and then all of it; `linear` goes
    on in such steps. After the last step, SageMaker watches the alarms for another `wait`, and for
    `termination_wait`, until the model before is gone. An update that takes longer than `max_duration`
    is rolled back.
    """

    traffic: Traffic = "all_at_once"
    step_percent: int = 10
    wait: timedelta = timedelta(minutes=5)
    termination_wait: timedelta = timedelta(0)
    max_duration: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        for name, value in (("wait", self.wait), ("termination_wait", self.termination_wait)):
            if not timedelta(0) <= value <= _LONGEST_WAIT:
                raise InvalidEndpoint(f"rollout.{name} is {value}: expected up to {_LONGEST_WAIT}")
        if not _SHORTEST_UPDATE <= self.max_duration <= _LONGEST_UPDATE:
            raise InvalidEndpoint(
                f"rollout.max_duration is {self.max_duration}: expected {_SHORTEST_UPDATE} to "
                f"{_LONGEST_UPDATE}"
            )
        least = _LEAST_LINEAR_STEP if self.traffic == "linear" else 1
        if not least <= self.step_percent <= _MOST_STEP:
            raise InvalidEndpoint(
                f"rollout.step is {self.step_percent} percent: expected {least} to {_MOST_STEP}"
            )
        steps = {"all_at_once": 1, "canary": 2}.get(
            self.traffic, math.ceil(100 / self.step_percent)
        )
        if steps * self.wait + self.termination_wait >= self.max_duration:
            raise InvalidEndpoint(
                f"rollout: {steps} waits of {self.wait} and a termination_wait of "
                f"{self.termination_wait} don't fit into a max_duration of {self.max_duration}"
            )


@dataclass(frozen=True)
class AlarmRules:
    """What rings while an endpoint is updated, and rolls the update back.

    `max_error_rate` is the share of requests that are answered with a status of 500 or more,
    `max_latency` the 99th percentile of the time that the model takes; both over `period`, and None for
    no such alarm. `names` are CloudWatch alarms of somebody else's making.
    """

    max_error_rate: float | None = 0.01
    max_latency: timedelta | None = None
    period: timedelta = timedelta(minutes=1)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_error_rate is not None and not 0 <= self.max_error_rate < 1:
            raise InvalidEndpoint(
                f"alarms.max_error_rate is {self.max_error_rate}: expected a share, such as 0.01"
            )
        # SageMaker counts by the minute: an alarm on less never knows enough to ring.
        if not timedelta(minutes=1) <= self.period <= _LONGEST_PERIOD or (
            self.period.total_seconds() % 60
        ):
            raise InvalidEndpoint(
                f"alarms.period is {self.period}: expected whole minutes, up to {_LONGEST_PERIOD}"
            )
        own = (self.max_error_rate is not None) + (self.max_latency is not None)
        if len(set(self.names)) + own > _MOST_ALARMS:
            raise InvalidEndpoint(
                f"alarms: {len(set(self.names)) + own} of them, and an update takes {_MOST_ALARMS}"
            )


@dataclass(frozen=True)
class Hosting:
    """`image` stands in for SageMaker's own inference image. `approval` is that of the Model Registry:
    `manual` has a person approve each model before it is deployed."""

    machines: Instances | Serverless = field(default_factory=Instances)
    image: str | None = None
    approval: Literal["automatic", "manual"] = "automatic"
    rollout: Rollout = field(default_factory=Rollout)
    alarms: AlarmRules = field(default_factory=AlarmRules)

    def __post_init__(self) -> None:
        if isinstance(self.machines, Instances):
            if self.rollout.traffic != "all_at_once" and self.machines.count < 2:
                raise InvalidEndpoint(
                    f"rollout.traffic {self.rollout.traffic} moves an instance at a time, and at most "
                    "half of them: set instance_count to 2 or more, or traffic to all_at_once"
                )
        elif self.rollout.traffic != "all_at_once":
            raise InvalidEndpoint(
                "a serverless endpoint is updated at once, without alarms that roll back: leave "
                "rollout.traffic out, or choose an instance_type"
            )
