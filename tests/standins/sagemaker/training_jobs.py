"""The operations on training jobs: CreateTrainingJob, DescribeTrainingJob, and their kin."""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.faults import Faults
from standins.sagemaker.quotas import Quotas
from standins.sagemaker.requests import ApiError, Operations, Request, ValidationError
from standins.sagemaker.runner import Surroundings, run_job
from standins.sagemaker.training_job import TrainingJob
from standins.sagemaker.training_request import check_training_request

_SORT_KEYS: Mapping[str, Callable[[TrainingJob], Any]] = {
    "Name": lambda job: job.name,
    "CreationTime": lambda job: job.created,
    "Status": lambda job: job.status,
}


class TrainingJobs:
    """All training jobs of an account, by region and name. Names are used once."""

    def __init__(
        self, around: Surroundings, state: AwsState, faults: Faults, quotas: Quotas
    ) -> None:
        self._around = around
        self._state = state
        self._faults = faults
        self._quotas = quotas
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], TrainingJob] = {}
        self._threads: list[threading.Thread] = []

    def operations(self) -> Operations:
        return {
            ("sagemaker", "CreateTrainingJob"): self._create,
            ("sagemaker", "DescribeTrainingJob"): self._describe,
            ("sagemaker", "StopTrainingJob"): self._stop,
            ("sagemaker", "DeleteTrainingJob"): self._delete,
            ("sagemaker", "UpdateTrainingJob"): self._update,
            ("sagemaker", "ListTrainingJobs"): self._list,
        }

    # For tests

    def __getitem__(self, name: str) -> TrainingJob:
        """The job of that name, in whatever region."""
        for job in self.all():
            if job.name == name:
                return job
        raise KeyError(f"no training job {name!r}: {', '.join(job.name for job in self.all())}")

    def __len__(self) -> int:
        return len(self.all())

    def all(self) -> list[TrainingJob]:
        """In the order of their creation."""
        with self._lock:
            return list(self._jobs.values())

    def wait(self, name: str, timeout: float = 60.0) -> TrainingJob:
        """The job once it has ended. Raises TimeoutError."""
        job = self[name]
        if not job.finished.wait(timeout):
            raise TimeoutError(f"{name} is {job.status} ({job.secondary}) after {timeout} s")
        return job

    def interrupt(self, name: str) -> None:
        """Takes the spot instances away from a job that trains."""
        self[name].interruption.set()

    def forget(self, name: str) -> None:
        """Deletes the job and all that the service knows of it, whatever its state."""
        job = self[name]
        job.stop_requested.set()
        with self._lock:
            del self._jobs[job.region, name]

    def remove_artifact(self, name: str) -> None:
        """Deletes the model.tar.gz of a job that has one."""
        artifact = self[name].artifact
        assert artifact is not None, f"{name} has no artifact"
        self._state.remove_object(S3Location.parse(artifact))

    def close(self) -> None:
        """Waits for the threads of jobs, which end because the service is closing."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    # Operations

    def _create(self, request: Request) -> Mapping[str, Any]:
        check_training_request(request, self._state, self._faults)
        job = TrainingJob(dict(request.parameters), request.region, self._state.account)
        if job.spot:
            job.spot_share = self._around.settings.spot_share
        with self._lock:
            if (job.region, job.name) in self._jobs:
                raise ApiError(
                    "ResourceInUse",
                    "Training job names must be unique within an AWS account and region, and a "
                    f"training job with this name already exists ({job.arn})",
                )
            self._quotas.check(job, [j for j in self._jobs.values() if j.region == job.region])
            self._jobs[job.region, job.name] = job
            thread = threading.Thread(
                target=run_job, args=(job, self._around), name=f"job {job.name}", daemon=True
            )
            self._threads = [old for old in self._threads if old.is_alive()] + [thread]
            thread.start()
        return {"TrainingJobArn": job.arn}

    def _describe(self, request: Request) -> Mapping[str, Any]:
        return self._find(request).describe()

    def _stop(self, request: Request) -> Mapping[str, Any]:
        job = self._find(request)
        if not job.stop():
            raise ValidationError(
                f"The request was rejected because the training job is in status {job.status}."
            )
        return {}

    def _delete(self, request: Request) -> Mapping[str, Any]:
        job = self._find(request)
        if job.running or job.holds_warm_pool:
            raise ApiError(
                "ResourceInUse",
                f"The training job {job.arn} is {job.status}, or keeps a warm pool: "
                "it can't be deleted",
            )
        with self._lock:
            del self._jobs[job.region, job.name]
        return {}

    def _update(self, request: Request) -> Mapping[str, Any]:
        """Only the time that a warm pool is kept can be changed here."""
        job = self._find(request)
        keep_alive = request.parameters.get("ResourceConfig", {}).get("KeepAlivePeriodInSeconds")
        if keep_alive is None:
            raise ValidationError("This stand-in updates KeepAlivePeriodInSeconds only")
        if job.warm_until is not None:
            job.warm_until = time.monotonic() + keep_alive
        return {"TrainingJobArn": job.arn}

    def _list(self, request: Request) -> Mapping[str, Any]:
        wanted = request.parameters
        jobs = [job for job in self.all() if job.region == request.region and self._shown(job)]
        jobs = [job for job in jobs if _matches(job, wanted)]
        jobs.sort(
            key=_SORT_KEYS[wanted.get("SortBy", "CreationTime")],
            reverse=wanted.get("SortOrder", "Descending") == "Descending",
        )
        start = int(wanted.get("NextToken") or 0)
        end = start + int(wanted.get("MaxResults") or 10)
        page: dict[str, Any] = {"TrainingJobSummaries": [_summary(job) for job in jobs[start:end]]}
        return page | {"NextToken": str(end)} if end < len(jobs) else page

    def _find(self, request: Request) -> TrainingJob:
        with self._lock:
            job = self._jobs.get((request.region, request.parameters["TrainingJobName"]))
        if job is None or not self._shown(job):
            raise ValidationError("Requested resource not found.")
        return job

    def _shown(self, job: TrainingJob) -> bool:
        return time.monotonic() - job.created_clock >= self._around.settings.hidden_seconds


def _matches(job: TrainingJob, wanted: Mapping[str, Any]) -> bool:
    def time_of(name: str, default: datetime) -> datetime:
        value = wanted.get(name, default)
        return value if value.tzinfo else value.replace(tzinfo=UTC)

    earliest, latest = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    return (
        wanted.get("NameContains", "") in job.name
        and wanted.get("StatusEquals", job.status) == job.status
        and time_of("CreationTimeAfter", earliest) < job.created
        and job.created < time_of("CreationTimeBefore", latest)
        and time_of("LastModifiedTimeAfter", earliest) < job.modified
        and job.modified < time_of("LastModifiedTimeBefore", latest)
    )


def _summary(job: TrainingJob) -> dict[str, Any]:
    summary = {
        "TrainingJobName": job.name,
        "TrainingJobArn": job.arn,
        "CreationTime": job.created,
        "LastModifiedTime": job.modified,
        "TrainingJobStatus": job.status,
        "SecondaryStatus": job.secondary,
    }
    return summary | ({"TrainingEndTime": job.ended} if job.ended else {})
