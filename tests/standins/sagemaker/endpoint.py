"""An endpoint as the service knows it, and how it comes to serve, changes and goes: blue to green.

Statuses, in order: Creating → InService or Failed; InService → Updating → InService with the new
configuration, or → RollingBack → InService with the old one. The new fleet has to get well before it is
asked anything; then it gets its share of the traffic, step by step, and an alarm that rings meanwhile
brings all of it back. Until the end of it, DescribeEndpoint names the old configuration.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from standins.sagemaker.fleet import Fleet
from standins.sagemaker.serving_container import ContainerFailed
from standins.sagemaker.settings import Settings

_POLL_SECONDS = 0.05

# What an alarm's name is asked of, and which of them ring.
Ringing = Callable[[Sequence[str]], list[str]]


@dataclass
class Endpoint:
    """`statuses` are all that it was in, in order. `shares` are the percentages of traffic that green had."""

    request: dict[str, Any]
    arn: str
    config_name: str
    status: str = "Creating"
    statuses: list[str] = field(default_factory=lambda: ["Creating"])
    shares: list[int] = field(default_factory=list)
    failure_reason: str | None = None
    pending: str | None = None
    last_deployment: Mapping[str, Any] | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))
    blue: Fleet | None = None
    green: Fleet | None = None
    share: int = 0
    stale: Mapping[str, Any] = field(default_factory=dict)
    stale_until: float = 0.0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def name(self) -> str:
        return self.request["EndpointName"]

    @property
    def settled(self) -> bool:
        return self.status not in ("Creating", "Updating", "RollingBack", "Deleting")

    def enter(self, status: str, reason: str | None = None) -> None:
        with self.changed:
            self.status = status
            self.statuses.append(status)
            self.failure_reason = reason
            self.modified = datetime.now(UTC)
            self.changed.notify_all()

    def give(self, share: int) -> None:
        """Sends a percentage of the traffic to the new fleet."""
        with self.changed:
            self.share = share
            self.shares.append(share)
            self.changed.notify_all()

    def fleet(self) -> Fleet | None:
        """The fleet that the next request goes to."""
        with self.changed:
            if self.green is not None and random.random() * 100 < self.share:
                return self.green
            return self.blue

    def wait_for(self, condition: Callable[["Endpoint"], bool], timeout: float = 30.0) -> None:
        """Raises TimeoutError."""
        with self.changed:
            if not self.changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"{self.name} is {self.status} after {self.statuses}")

    def describe(self) -> dict[str, Any]:
        """The answer to DescribeEndpoint; for some time after an update, the one before it."""
        with self.changed:
            if time.monotonic() < self.stale_until:
                return dict(self.stale)
            answer: dict[str, Any] = {
                "EndpointName": self.name,
                "EndpointArn": self.arn,
                "EndpointConfigName": self.config_name,
                "EndpointStatus": self.status,
                "CreationTime": self.created,
                "LastModifiedTime": self.modified,
            }
            if self.failure_reason is not None:
                answer["FailureReason"] = self.failure_reason
            if self.pending is not None:
                answer["PendingDeploymentSummary"] = {"EndpointConfigName": self.pending}
            if self.last_deployment is not None:
                answer["LastDeploymentConfig"] = self.last_deployment
            return answer


class _RolledBack(Exception):
    """Why an update is given up."""


@dataclass(frozen=True)
class Pace:
    """How fast things go here. `go_on` is False once the service closes, or the endpoint is deleted."""

    settings: Settings
    go_on: Callable[[], bool]
    ringing: Ringing
    fault: str | None


def create(endpoint: Endpoint, fleet: Fleet, pace: Pace) -> None:
    """From Creating to InService, or to Failed."""
    try:
        _start(fleet, pace)
    except ContainerFailed as error:
        endpoint.enter("Failed", str(error))
        return
    with endpoint.changed:
        endpoint.blue = fleet
    endpoint.enter("InService")


def update(
    endpoint: Endpoint, fleet: Fleet, deployment: Mapping[str, Any] | None, pace: Pace
) -> None:
    """From Updating to InService, with the new fleet or with the old one."""
    policy = (deployment or {}).get("BlueGreenUpdatePolicy", {})
    alarms = [
        alarm["AlarmName"]
        for alarm in (deployment or {}).get("AutoRollbackConfiguration", {}).get("Alarms", [])
    ]
    started = False
    try:
        _start(fleet, pace)
        started = True
        _shift(endpoint, fleet, policy, alarms, pace)
    except (ContainerFailed, _RolledBack) as error:
        endpoint.enter("RollingBack", str(error))
        with endpoint.changed:
            endpoint.green, endpoint.share = None, 0
            endpoint.pending = None
        _pass(pace.settings.endpoint_seconds, pace)
        if started:
            fleet.retire(pace.settings.retire_seconds)
        endpoint.enter("InService", None if pace.settings.forget_failure_reason else str(error))
        return
    with endpoint.changed:
        old, endpoint.blue, endpoint.green = endpoint.blue, fleet, None
        endpoint.share, endpoint.pending = 0, None
        endpoint.config_name = fleet.config_name
    if old is not None:
        old.retire(pace.settings.retire_seconds)
    endpoint.enter("InService")


def _start(fleet: Fleet, pace: Pace) -> None:
    _pass(pace.settings.endpoint_seconds, pace)
    if pace.fault is not None:
        raise ContainerFailed(pace.fault)
    fleet.start(pace.settings.health_seconds, pace.go_on)


def _shift(
    endpoint: Endpoint,
    fleet: Fleet,
    policy: Mapping[str, Any],
    alarms: Sequence[str],
    pace: Pace,
) -> None:
    routing = policy.get("TrafficRoutingConfiguration", {"Type": "ALL_AT_ONCE"})
    with endpoint.changed:
        endpoint.green = fleet
    for share in _steps(routing, fleet.instances):
        endpoint.give(share)
        _pass(routing.get("WaitIntervalInSeconds", 0), pace, alarms)
    _pass(policy.get("TerminationWaitInSeconds", 0), pace, alarms)


def _steps(routing: Mapping[str, Any], instances: int) -> Iterator[int]:
    if routing["Type"] == "CANARY":
        yield _percent(routing["CanarySize"], instances)
    elif routing["Type"] == "LINEAR":
        step = _percent(routing["LinearStepSize"], instances)
        yield from range(step, 100, step)
    yield 100


def _percent(size: Mapping[str, Any], instances: int) -> int:
    if size["Type"] == "CAPACITY_PERCENT":
        return size["Value"]
    return round(100 * size["Value"] / max(1, instances))


def _pass(seconds: float, pace: Pace, alarms: Sequence[str] = ()) -> None:
    """Lets time go by. Raises _RolledBack where an alarm rings meanwhile, or has before."""
    deadline = time.monotonic() + seconds
    while True:
        if alarms and (ringing := pace.ringing(alarms)):
            raise _RolledBack(
                f"One or more configured alarm(s) are in alarm state: {', '.join(ringing)}"
            )
        left = deadline - time.monotonic()
        if left <= 0 or not pace.go_on():
            return
        time.sleep(min(left, _POLL_SECONDS))
