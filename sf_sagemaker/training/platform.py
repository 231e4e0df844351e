"""The role that runs training jobs: SageMaker in production, processes on this machine locally."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.job import ExternalChannel, Limits, TrainingJob

# In a job's environment: who creates it, by which a platform knows a job again whose creation it
# could not answer.
CREATOR = "SF_SAGEMAKER_CREATOR"


class JobStatus(StrEnum):
    """TrainingJobStatus of DescribeTrainingJob, SageMaker API reference."""

    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    FAILED = "Failed"
    STOPPING = "Stopping"
    STOPPED = "Stopped"

    @property
    def ended(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.STOPPED)


class FailureKind(StrEnum):
    """Why a job failed, as far as it decides whether another attempt makes sense."""

    ALGORITHM = "algorithm"
    CONFIGURATION = "configuration"
    CAPACITY = "capacity"
    INTERNAL = "internal"

    @property
    def passing(self) -> bool:
        """Whether the cause is the platform's own, and another attempt may not meet it."""
        return self in (FailureKind.CAPACITY, FailureKind.INTERNAL)


class PlatformUnavailable(SfSagemakerError):
    """A platform that doesn't answer, or not now: the same question may be answered later."""


class JobRefused(SfSagemakerError):
    """A job that the platform won't run as it was asked for: asking again is no use."""

    permanent = True


class JobNameTaken(SfSagemakerError):
    """A job of that name exists: names are never reusable, whatever became of the job."""


class JobNotFound(SfSagemakerError):
    """No job of that name exists."""


class ArtifactMissing(SfSagemakerError):
    """A completed job whose model.tar.gz is gone."""


@dataclass(frozen=True)
class JobDescription:
    """What a platform says of a job. `artifact_uri` is set when the job completed.

    `log` is where a person reads the job's whole log, `page` where the job itself is shown: a path
    or an address. `failure_kind` is None where the cause isn't known. `billable_seconds` are of each
    instance; `training_seconds` exceed them where spot capacity was cheaper. A job that is not `ours`
    has its name from another deployment of the same account, which trains the same.
    """

    name: str
    status: JobStatus
    secondary_status: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failure_reason: str | None = None
    failure_kind: FailureKind | None = None
    instance_type: str | None = None
    instance_count: int = 1
    spot: bool = False
    training_seconds: float | None = None
    billable_seconds: float | None = None
    page: str | None = None
    artifact_uri: str | None = None
    log: str | None = None
    ours: bool = True

    def ran_longer_than(self, duration: timedelta) -> bool:
        """Whether it ran, until its end or until now, for longer than that."""
        if self.started_at is None:
            return False
        return (self.ended_at or datetime.now(UTC)) - self.started_at > duration


@dataclass(frozen=True)
class GivenBaseModel:
    """A base model as a job gets it: the `name` that its program is told, and the channel that brings
    it, where it doesn't find or fetch it itself."""

    name: str
    channel: ExternalChannel | None = None


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log; `host` is the host that wrote it (algo-1, algo-2, …)."""

    host: str
    text: str


@dataclass(frozen=True)
class TaggedJob:
    """A job, the model and the partition that it is of, and the Dagster run that created it.

    `max_runtime` is how long it may run, where its platform doesn't see to that.
    """

    name: str
    model: str
    partition: str
    run_id: str
    max_runtime: timedelta | None = None


@dataclass(frozen=True)
class Pacing:
    """How often a platform wants to be asked; durations in seconds.

    A job is asked for every `poll` seconds, and less often up to `longest_poll` while nothing
    changes. What it logged may arrive for `settle` seconds after its end. An attempt that failed for
    the platform's own reasons is followed by another after `retry` seconds, and twice as many each
    time.
    """

    poll: float = 1.0
    longest_poll: float = 1.0
    settle: float = 0.0
    retry: float = 30.0


_Job = TypeVar("_Job", contravariant=True)


class JobPlatform(Protocol[_Job]):
    """Runs jobs of one kind by name. A job outlives the process that created it.

    Any method may raise PlatformUnavailable.
    """

    @property
    def pacing(self) -> Pacing: ...

    def create(self, job: _Job, name: str, environment: Mapping[str, str]) -> None:
        """Starts a job under a name that was never used.

        An answer that is lost may leave the job behind; one of the same `environment` is then known
        to be this call's. Raises JobNameTaken where another took the name, and JobRefused or
        InvalidTrainingJob, before anything is created, for a job that can't run.
        """
        ...

    def describe(self, name: str) -> JobDescription:
        """The job's state now. Raises JobNotFound."""
        ...

    def stop(self, name: str) -> None:
        """Asks a job to stop; a job that has ended is left as it is. Raises JobNotFound."""
        ...

    def read_log(self, name: str, cursor: str | None) -> tuple[Sequence[LogLine], str | None]:
        """The log lines after a cursor (None: from the start), and the cursor for the next call."""
        ...

    def has_artifact(self, name: str) -> bool:
        """Whether what a completed job left, the model.tar.gz of a training, is still there."""
        ...

    def jobs_of_runs(self, run_ids: Sequence[str]) -> Sequence[TaggedJob]:
        """The jobs that runs created, whatever became of them, by the tags that they carry."""
        ...


class ModelPlatform(JobPlatform[_Job], Protocol[_Job]):
    """Runs jobs that make models. `bills` says that they cost money."""

    @property
    def bills(self) -> bool: ...

    def fetch_artifact(self, name: str, folder: Path) -> Path:
        """Unpacks the job's model.tar.gz under `folder` and gives the folder that holds the model.

        Raises JobNotFound, ArtifactMissing where the artifact is gone, or ArtifactCorrupt.
        """
        ...


class TrainingPlatform(ModelPlatform[TrainingJob], Protocol):
    """Runs training jobs: programs in containers."""

    def image(
        self, framework: str, instance_type: str | None = None, custom: str | None = None
    ) -> str:
        """What a job of a framework ("xgboost", …) runs on: an image by digest, or versions.

        `custom` names an image instead of the framework's own one, which may depend on the type of
        instance. Raises JobRefused.
        """
        ...

    def base_model(self, name: str, limits: Limits, *, accept_eula: bool) -> GivenBaseModel:
        """How a job gets a base model of that name (`BaseModelName`), under its limits.

        Raises JobRefused, before anything is created, for one that no job of this platform can get.
        """
        ...


AnyPlatform = ModelPlatform[Any]  # to whoever asks after jobs, and creates none
