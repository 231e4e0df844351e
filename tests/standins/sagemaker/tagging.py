"""Tags of SageMaker's things: its own operations, and the tagging API's GetResources of jobs."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from standins.sagemaker.automl_jobs import AutoMLJob
from standins.sagemaker.requests import Operations, Request, ValidationError
from standins.sagemaker.settings import Settings
from standins.sagemaker.training_job import TrainingJob
from standins.sagemaker.training_jobs import TrainingJobs
from standins.sagemaker.transform_jobs import TransformJob

_SAGEMAKER_ARN = ":training-job/"

AnyJob = TrainingJob | AutoMLJob | TransformJob


class Tagging:
    """Answers for training jobs, and lists the tags of what `others` know by its ARN.

    Other resources are moto's.
    """

    def __init__(
        self,
        jobs: TrainingJobs,
        settings: Settings,
        others: Sequence[Callable[[str], Mapping[str, str] | None]] = (),
        automl_jobs: Callable[[], Sequence[AutoMLJob]] = list,
        transform_jobs: Callable[[], Sequence[TransformJob]] = list,
    ) -> None:
        self._jobs = jobs
        self._by_type: Mapping[str, Callable[[], Sequence[AnyJob]]] = {
            "sagemaker:training-job": jobs.all,
            "sagemaker:automl-job": automl_jobs,
            "sagemaker:transform-job": transform_jobs,
        }
        self._settings = settings
        self._others = others

    def operations(self) -> Operations:
        return {
            ("resourcegroupstaggingapi", "GetResources"): self._get_resources,
            ("sagemaker", "AddTags"): self._add,
            ("sagemaker", "DeleteTags"): self._delete,
            ("sagemaker", "ListTags"): self._list,
        }

    def is_ours(self, request: Request) -> bool:
        """Whether the request is about something that is known here."""
        wanted = request.parameters
        if request.operation == "GetResources":
            types = wanted.get("ResourceTypeFilters") or []
            arns = wanted.get("ResourceARNList") or []
            ours = ("sagemaker", *self._by_type)
            return any(name in ours for name in types) or any(_SAGEMAKER_ARN in a for a in arns)
        arn = wanted.get("ResourceArn", "")
        if request.operation == "ListTags" and self._of_others(arn) is not None:
            return True
        return _SAGEMAKER_ARN in arn

    def _get_resources(self, request: Request) -> Mapping[str, Any]:
        wanted = request.parameters
        now = time.monotonic()
        arns = wanted.get("ResourceARNList")
        types = wanted.get("ResourceTypeFilters") or ["sagemaker"]
        found = [
            job
            for name, jobs in self._by_type.items()
            if name in types or "sagemaker" in types
            for job in jobs()
            if job.region == request.region
            and now - job.created_clock >= self._settings.tagging_delay_seconds
            and job.tags
            and (arns is None or job.arn in arns)
            and all(_has(job, tag) for tag in wanted.get("TagFilters", []))
        ]
        found.sort(key=lambda job: job.arn)
        start = int(wanted.get("PaginationToken") or 0)
        end = start + int(wanted.get("ResourcesPerPage") or 50)
        return {
            "ResourceTagMappingList": [
                {"ResourceARN": job.arn, "Tags": _as_list(job.tags)} for job in found[start:end]
            ],
            "PaginationToken": str(end) if end < len(found) else "",
        }

    def _add(self, request: Request) -> Mapping[str, Any]:
        job = self._find(request)
        job.tags |= {tag["Key"]: tag["Value"] for tag in request.parameters["Tags"]}
        return {"Tags": _as_list(job.tags)}

    def _delete(self, request: Request) -> Mapping[str, Any]:
        job = self._find(request)
        for key in request.parameters["TagKeys"]:
            job.tags.pop(key, None)
        return {}

    def _list(self, request: Request) -> Mapping[str, Any]:
        others = self._of_others(request.parameters["ResourceArn"])
        return {"Tags": _as_list(self._find(request).tags if others is None else others)}

    def _of_others(self, arn: str) -> Mapping[str, str] | None:
        found = (tags(arn) for tags in self._others)
        return next((tags for tags in found if tags is not None), None)

    def _find(self, request: Request) -> TrainingJob:
        arn = request.parameters["ResourceArn"]
        for job in self._jobs.all():
            if job.arn == arn:
                return job
        raise ValidationError(f"Requested resource not found: {arn}")


def _has(job: AnyJob, wanted: Mapping[str, Any]) -> bool:
    if wanted["Key"] not in job.tags:
        return False
    values = wanted.get("Values") or []
    return not values or job.tags[wanted["Key"]] in values


def _as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
