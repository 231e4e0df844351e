"""The operations on training jobs: CreateTrainingJob, DescribeTrainingJob, and their kin."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.faults import Faults
from standins.sagemaker.jobs import Jobs
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


class TrainingJobs(Jobs[TrainingJob]):
    """All training jobs of an account, by region and name. Names are used once."""

    def __init__(
        self, around: Surroundings, state: AwsState, faults: Faults, quotas: Quotas
    ) -> None:
        super().__init__("training job")
        self._around = around
        self._state = state
        self._faults = faults
        self._quotas = quotas

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

    def interrupt(self, name: str) -> None:
        """Takes the spot instances away from a job that trains."""
        self[name].interruption.set()

    def forget(self, name: str) -> None:
        """Deletes the job and all that the service knows of it, whatever its state."""
        job = self[name]
        job.stop_requested.set()
        self._remove(job)

    def remove_artifact(self, name: str) -> None:
        """Deletes the model.tar.gz of a job that has one."""
        artifact = self[name].artifact
        assert artifact is not None, f"{name} has no artifact"
        self._state.remove_object(S3Location.parse(artifact))

    # Operations

    def _create(self, request: Request) -> Mapping[str, Any]:
        check_training_request(request, self._state, self._faults)
        job = TrainingJob(dict(request.parameters), request.region, self._state.account)
        if job.spot:
            job.spot_share = self._around.settings.spot_share
        self._start(
            job,
            partial(run_job, job, self._around),
            lambda others: self._quotas.check(job, [j for j in others if j.region == job.region]),
        )
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
        self._remove(job)
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
        job = self._known(request.region, request.parameters["TrainingJobName"])
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
