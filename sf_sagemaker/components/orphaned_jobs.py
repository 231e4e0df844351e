"""A sensor that stops jobs which nobody waits for and whose result nobody can want."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from sf_sagemaker.lifecycle.registry import models_of
from sf_sagemaker.serving.batch_files import jobs_with_output
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.holding import JOB_TAG_PREFIX, job_tag
from sf_sagemaker.training.platform import (
    JobDescription,
    JobNotFound,
    JobPlatform,
    JobStatus,
    PlatformUnavailable,
    TaggedJob,
)

_LOOK_BACK = timedelta(days=7)
_RETRY_WITHIN = timedelta(hours=1)
_TAGGED_WITHIN = timedelta(
    minutes=15
)  # the tagging API learns of a job some time after its creation
_INTERVAL = 300  # seconds
_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_ENDED_EARLY = [dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE]

_AnyPlatform = JobPlatform[Any]


@dataclass(frozen=True)
class _Jobs:
    """Jobs of a platform. Runs hold them by their `noun`. `with_result` names those that left a
    result of a model and a partition, which they have `done` (trained, scored)."""

    platform: _AnyPlatform
    noun: str
    done: str
    with_result: Callable[[str, str], Iterable[str]]


def orphaned_jobs_sensor() -> dg.SensorDefinition:
    """The sensor, running by default."""

    @dg.sensor(
        name="orphaned_jobs",
        minimum_interval_seconds=_INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Stops training and transform jobs that runs of the last seven days left behind, if "
        "all runs that held them were cancelled, if a job that was created later has trained or scored "
        "the same period, or if a transform job runs for longer than its max_runtime. A job that a run "
        "holds, and another one that a run could adopt, goes on.",
    )
    def orphaned_jobs(
        context: dg.SensorEvaluationContext,
        storage: dg.ResourceParam[Storage],
        training_platform: dg.ResourceParam[_AnyPlatform],
        autopilot_platform: dg.ResourceParam[_AnyPlatform],
        transform_platform: dg.ResourceParam[_AnyPlatform],
    ) -> dg.SkipReason:
        def trained(model: str, partition: str) -> Iterable[str]:
            # In the order in which they were trained, not in that of their data.
            return (one.training_job for one in models_of(storage, model, partition))

        kinds = (
            _Jobs(training_platform, "training job", "trained", trained),
            _Jobs(autopilot_platform, "training job", "trained", trained),
            _Jobs(
                transform_platform, "transform job", "scored", partial(jobs_with_output, storage)
            ),
        )
        settled = set(json.loads(context.cursor or "[]"))
        records = list(_ended_early(context.instance))
        open_runs = [
            record.dagster_run.run_id
            for record in records
            if record.dagster_run.run_id not in settled
        ]
        stopped: dict[str, str] = {}
        unsettled: set[str] = set()
        try:
            for kind, job in _jobs(kinds, open_runs):
                description = _description(kind.platform, job)
                # What a job starts itself may carry its tags, and is its own to stop.
                if description is None or description.status.ended or not description.ours:
                    continue
                # Also when it is stopped: that may take a while, or not have been heard.
                unsettled.add(job.run_id)
                reason = _unwanted(context.instance, kind, job, description)
                if reason is not None:
                    with suppress(JobNotFound):
                        kind.platform.stop(job.name)
                    stopped[job.name] = reason
        except PlatformUnavailable as error:
            return dg.SkipReason(f"The platform did not answer: {error}")
        certain = {
            record.dagster_run.run_id
            for record in records
            if datetime.now(UTC) - record.update_timestamp > _TAGGED_WITHIN
        }
        context.update_cursor(json.dumps(sorted(certain - unsettled)))
        if stopped:
            said = "; ".join(f"{name}: {reason}" for name, reason in stopped.items())
            context.log.info(f"stopped {said}")
            return dg.SkipReason(f"Stopped {said}.")
        return dg.SkipReason(
            f"No orphaned job: {len(open_runs)} ended runs were looked at, and {len(unsettled)} of "
            "them have jobs that somebody may still want."
        )

    return orphaned_jobs


def _ended_early(instance: dg.DagsterInstance) -> Iterator[dg.RunRecord]:
    """The runs of late that held jobs and did not succeed."""
    records = instance.get_run_records(
        filters=dg.RunsFilter(statuses=_ENDED_EARLY, updated_after=datetime.now(UTC) - _LOOK_BACK)
    )
    for record in records:
        if any(tag.startswith(JOB_TAG_PREFIX) for tag in record.dagster_run.tags):
            yield record


def _jobs(kinds: Sequence[_Jobs], run_ids: Sequence[str]) -> Iterator[tuple[_Jobs, TaggedJob]]:
    """The jobs that runs created, each with what is known of its kind."""
    for kind in kinds:
        for job in kind.platform.jobs_of_runs(run_ids):
            yield kind, job


def _description(platform: _AnyPlatform, job: TaggedJob) -> JobDescription | None:
    try:
        return platform.describe(job.name)
    except JobNotFound:
        return None


def _unwanted(
    instance: dg.DagsterInstance,
    kind: _Jobs,
    job: TaggedJob,
    description: JobDescription,
) -> str | None:
    """Why nobody can want the job any more; None where somebody may."""
    holders = {
        record.dagster_run.run_id: record
        for filters in (
            dg.RunsFilter(tags=job_tag(job.name, kind.noun)),
            dg.RunsFilter(run_ids=[job.run_id]),
        )
        for record in instance.get_run_records(filters=filters)
    }
    if any(record.dagster_run.status in _ACTIVE for record in holders.values()):
        return None
    # A run that waits for it would see to that, by a limit of its own.
    if job.max_runtime is not None and description.ran_longer_than(job.max_runtime):
        return f"it ran for longer than its max_runtime, {job.max_runtime}"
    if any(_will_be_retried(record) for record in holders.values()):
        return None
    active = instance.get_runs(filters=dg.RunsFilter(statuses=_ACTIVE))
    if any(_builds(run, job.partition) for run in active):
        return None
    statuses = [record.dagster_run.status for record in holders.values()]
    if statuses and all(status is dg.DagsterRunStatus.CANCELED for status in statuses):
        return "its run was cancelled"
    if not job.partition:  # as where models are asked: another job answers other prompts
        return None
    for name in kind.with_result(job.model, job.partition):
        if name != job.name and _has_followed(kind.platform, name, description.created_at):
            return f"{name}, which was created later, has {kind.done} the same period"
    return None


def _will_be_retried(record: dg.RunRecord) -> bool:
    will = record.dagster_run.tags.get("dagster/will_retry") == "true"
    return will and datetime.now(UTC) - record.update_timestamp < _RETRY_WITHIN


def _builds(run: dg.DagsterRun, partition: str) -> bool:
    """Whether a run is of the partition, whichever its assets are."""
    if run.tags.get("dagster/partition") == partition:
        return True
    start = run.tags.get("dagster/asset_partition_range_start")
    end = run.tags.get("dagster/asset_partition_range_end")
    return start is not None and end is not None and start <= partition <= end


def _has_followed(platform: _AnyPlatform, name: str, moment: datetime) -> bool:
    """Whether a job with a result was created after a moment."""
    try:
        description = platform.describe(name)
    except JobNotFound:
        return False
    # A transform job that fails may have left a part of its output.
    failed = description.status in (JobStatus.FAILED, JobStatus.STOPPED)
    return not failed and description.created_at > moment
