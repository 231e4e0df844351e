"""The role that runs training jobs: SageMaker in production, processes on this machine locally."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.job import TrainingJob


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


class JobNameTaken(SfSagemakerError):
    """A job of that name exists: names are never reusable, whatever became of the job."""


class JobNotFound(SfSagemakerError):
    """No job of that name exists."""


class ArtifactMissing(SfSagemakerError):
    """A completed job whose model.tar.gz is gone."""


@dataclass(frozen=True)
class JobDescription:
    """What a platform says of a job. `artifact_uri` is set when the job completed.

    `log` is where a person reads the job's whole log: a path or an address.
    """

    name: str
    status: JobStatus
    secondary_status: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failure_reason: str | None = None
    artifact_uri: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log; `host` is the host that wrote it (algo-1, algo-2, …)."""

    host: str
    text: str


class TrainingPlatform(Protocol):
    """Runs jobs by name. A job outlives the process that created it."""

    def image(self, framework: str) -> str:
        """What a job of a framework ("xgboost", …) runs on: an image by digest, or versions."""
        ...

    def create(self, job: TrainingJob, name: str, environment: Mapping[str, str]) -> None:
        """Starts a job under a name that was never used.

        Raises JobNameTaken where it was, by whoever it was.
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
        """Whether the model.tar.gz of a completed job is still there."""
        ...

    def fetch_artifact(self, name: str, folder: Path) -> Path:
        """Unpacks the job's model.tar.gz under `folder` and gives the folder that holds the model.

        Raises JobNotFound, or ArtifactMissing where the artifact is gone.
        """
        ...
