"""Finding jobs by the tags that they were created with."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sf_sagemaker.aws import translated
from sf_sagemaker.training.job import RUN_TAG
from sf_sagemaker.training.platform import TaggedJob
from sf_sagemaker.training.sagemaker_request import TAG_PREFIX, project_tag

# How long a job may run, in seconds: what the service doesn't know of jobs that it doesn't bound.
MAX_RUNTIME_TAG = f"{TAG_PREFIX}max_runtime"

_VALUES = 20  # of one tag in a filter, Resource Groups Tagging API reference


def jobs_of_runs(
    client: Any, project: str, run_ids: Sequence[str], kind: str = "training-job"
) -> list[TaggedJob]:
    """The jobs of a project that runs created: a call for each twenty runs, and for each page.

    `kind` is SageMaker's type of resource: training-job, automl-job, transform-job.
    """
    return [
        job
        for first in range(0, len(run_ids), _VALUES)
        for job in _find(client, project_tag(project), run_ids[first : first + _VALUES], kind)
    ]


def _find(
    client: Any, tags: Mapping[str, str], run_ids: Sequence[str], kind: str
) -> Iterator[TaggedJob]:
    filters = [{"Key": key, "Values": [value]} for key, value in tags.items()]
    with translated(f"look for {kind}s by their tags"):
        pages = client.get_paginator("get_resources").paginate(
            ResourceTypeFilters=[f"sagemaker:{kind}"],
            TagFilters=[*filters, {"Key": RUN_TAG, "Values": list(run_ids)}],
        )
        for page in pages:
            for resource in page["ResourceTagMappingList"]:
                found: dict[str, str] = {tag["Key"]: tag["Value"] for tag in resource["Tags"]}
                yield TaggedJob(
                    name=resource["ResourceARN"].rpartition("/")[2],
                    model=found.get(f"{TAG_PREFIX}model", ""),
                    partition=found.get(f"{TAG_PREFIX}partition", ""),
                    run_id=found[RUN_TAG],
                    max_runtime=_seconds(found.get(MAX_RUNTIME_TAG)),
                )


def _seconds(text: str | None) -> timedelta | None:
    return None if text is None else timedelta(seconds=float(text))
