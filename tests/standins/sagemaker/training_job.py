"""A training job as the service knows it: the request, and what became of it so far."""

import math
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

STARTING = ("Starting", "Starting the training job")
DOWNLOADING = ("Downloading", "Downloading input data")
TRAINING = ("Training", "Training image download completed. Training in progress.")
UPLOADING = ("Uploading", "Uploading generated training model")
COMPLETED = ("Completed", "Training job completed")
FAILED = ("Failed", "Training job failed")
STOPPING = ("Stopping", "Stopping the training job")
STOPPED = ("Stopped", "Training job stopped")
INTERRUPTED = ("Interrupted", "Training job interrupted")
RESTARTING = ("Restarting", "Restarting the training job")
MAX_RUNTIME = ("MaxRuntimeExceeded", "Training job runtime exceeded MaxRuntimeInSeconds provided")
MAX_WAIT = ("MaxWaitTimeExceeded", "Training job exceeded MaxWaitTimeInSeconds provided")

# What DescribeTrainingJob answers as it was asked for.
_ECHOED = (
    "HyperParameters",
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "VpcConfig",
    "StoppingCondition",
    "CheckpointConfig",
    "DebugHookConfig",
    "ExperimentConfig",
    "TensorBoardOutputConfig",
    "ProfilerConfig",
    "Environment",
    "RetryStrategy",
    "RemoteDebugConfig",
    "InfraCheckConfig",
)
_FLAGS = (
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class TrainingJob:
    """`stop_requested` and `interruption` are set by whoever wants the hosts to end."""

    request: dict[str, Any]
    region: str
    account: str
    created: datetime = field(default_factory=_now)
    created_clock: float = field(default_factory=time.monotonic)
    status: str = "InProgress"
    secondary: str = ""
    transitions: list[dict[str, Any]] = field(default_factory=list)
    modified: datetime = field(default_factory=_now)
    started: datetime | None = None
    ended: datetime | None = None
    trained_seconds: float = 0.0
    failure_reason: str | None = None
    artifact: str | None = None
    metrics: dict[str, tuple[float, datetime]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    spot_share: float = 1.0
    stop_requested: threading.Event = field(default_factory=threading.Event)
    interruption: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    warm_until: float | None = None
    warm_pool_ended: bool = False
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.tags = {tag["Key"]: tag["Value"] for tag in self.request.get("Tags", [])}
        self.enter(STARTING)

    @property
    def name(self) -> str:
        return self.request["TrainingJobName"]

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{self.region}:{self.account}:training-job/{self.name}"

    @property
    def spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def instance_type(self) -> str:
        return self.request["ResourceConfig"]["InstanceType"]

    @property
    def instance_count(self) -> int:
        return self.request["ResourceConfig"]["InstanceCount"]

    @property
    def hosts(self) -> list[str]:
        return [f"algo-{number}" for number in range(1, self.instance_count + 1)]

    @property
    def running(self) -> bool:
        return self.status in ("InProgress", "Stopping")

    def enter(self, state: tuple[str, str], status: str | None = None) -> None:
        """Moves to a secondary status; once the job is stopping, only its end is shown."""
        secondary, message = state
        with self.changed:
            if self.status == "Stopping" and status not in ("Stopped", "Failed", "Completed"):
                return
            now = _now()
            if self.transitions:
                self.transitions[-1].setdefault("EndTime", now)
            self.secondary = secondary
            entry = {"Status": secondary, "StartTime": now, "StatusMessage": message}
            if status in ("Stopped", "Failed", "Completed"):
                entry["EndTime"] = now
            self.transitions.append(entry)
            self.modified = now
            if status is not None:
                self.status = status
            self.changed.notify_all()

    def stop(self) -> bool:
        """Asks for the end; False where the job is stopping, or has ended."""
        with self.changed:
            if self.status != "InProgress":
                return False
            self.enter(STOPPING, "Stopping")
            self.stop_requested.set()
            return True

    def begin(self) -> None:
        """The instances are there: from now on, time is billed."""
        self._began = time.monotonic()
        with self.changed:
            self.started = self.started or _now()

    def pause(self) -> None:
        """The instances are gone."""
        self.trained_seconds += time.monotonic() - self._began

    def end(self, state: tuple[str, str], status: str, failure_reason: str | None = None) -> None:
        with self.changed:
            if self.started is not None:
                self.ended = _now()
            self.failure_reason = failure_reason
            keep_alive = self.request["ResourceConfig"].get("KeepAlivePeriodInSeconds")
            if keep_alive and status == "Completed":
                self.warm_until = time.monotonic() + keep_alive
            self.enter(state, status)
        self.finished.set()

    def wait_for(self, secondary: str, timeout: float = 30.0) -> None:
        """Waits until the job is or has been in a secondary status. Raises TimeoutError."""
        with self.changed:
            reached = self.changed.wait_for(
                lambda: any(entry["Status"] == secondary for entry in self.transitions), timeout
            )
        if not reached:
            raise TimeoutError(f"{self.name} is {self.secondary} and never was {secondary}")

    def describe(self) -> dict[str, Any]:
        """The answer to DescribeTrainingJob."""
        with self.changed:
            answer: dict[str, Any] = {
                "TrainingJobName": self.name,
                "TrainingJobArn": self.arn,
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self.secondary,
                "SecondaryStatusTransitions": [dict(entry) for entry in self.transitions],
                "CreationTime": self.created,
                "LastModifiedTime": self.modified,
                "TrainingStartTime": self.started,
                "TrainingEndTime": self.ended,
                "FailureReason": self.failure_reason,
                "WarmPoolStatus": self._warm_pool(),
            }
            answer |= {name: self.request.get(name) for name in _ECHOED}
            answer |= {name: bool(self.request.get(name)) for name in _FLAGS}
            if self.artifact is not None:
                answer["ModelArtifacts"] = {"S3ModelArtifacts": self.artifact}
            if self.ended is not None:
                seconds = max(1, math.ceil(self.trained_seconds))
                answer["TrainingTimeInSeconds"] = seconds
                answer["BillableTimeInSeconds"] = max(1, math.ceil(seconds * self.spot_share))
            if self.metrics:
                answer["FinalMetricDataList"] = [
                    {"MetricName": name, "Value": value, "Timestamp": at}
                    for name, (value, at) in sorted(self.metrics.items())
                ]
            return {name: value for name, value in answer.items() if value is not None}

    @property
    def holds_warm_pool(self) -> bool:
        return (
            self.warm_until is not None
            and not self.warm_pool_ended
            and time.monotonic() < self.warm_until
        )

    def _warm_pool(self) -> dict[str, Any] | None:
        if not self.request["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
            return None
        if self.running:
            return {"Status": "InUse"}
        return {"Status": "Available" if self.holds_warm_pool else "Terminated"}
