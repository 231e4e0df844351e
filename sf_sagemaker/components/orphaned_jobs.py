"""A sensor that stops training jobs which nobody waits for and whose model nobody can want."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg

from sf_sagemaker.lifecycle.registry import models_of
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.holding import JOB_TAG_PREFIX, job_tag
from sf_sagemaker.training.platform import (
    AnyPlatform,
    JobDescription,
    JobNotFound,
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


def orphaned_jobs_sensor() -> dg.SensorDefinition:
    """The sensor, running by default."""

    @dg.sensor(
        name="orphaned_training_jobs",
        minimum_interval_seconds=_INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Stops training jobs that runs of the last seven days left behind, if all runs "
        "that held them were cancelled, or if a job that was created later has trained the same "
        "period. A job that a run holds, or could adopt, goes on.",
    )
    def orphaned_training_jobs(
        context: dg.SensorEvaluationContext,
        storage: dg.ResourceParam[Storage],
        training_platform: dg.ResourceParam[AnyPlatform],
        autopilot_platform: dg.ResourceParam[AnyPlatform],
    ) -> dg.SkipReason:
        platforms = (training_platform, autopilot_platform)
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
            for platform, job in _jobs(platforms, open_runs):
                description = _description(platform, job)
                # What a job starts itself may carry its tags, and is its own to stop.
                if description is None or description.status.ended or not description.ours:
                    continue
                # Also when it is stopped: that may take a while, or not have been heard.
                unsettled.add(job.run_id)
                reason = _unwanted(context.instance, storage, platform, job, description)
                if reason is not None:
                    with suppress(JobNotFound):
                        platform.stop(job.name)
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

    return orphaned_training_jobs


def _ended_early(instance: dg.DagsterInstance) -> Iterator[dg.RunRecord]:
    """The runs of late that held training jobs and did not succeed."""
    records = instance.get_run_records(
        filters=dg.RunsFilter(statuses=_ENDED_EARLY, updated_after=datetime.now(UTC) - _LOOK_BACK)
    )
    for record in records:
        if any(tag.startswith(JOB_TAG_PREFIX) for tag in record.dagster_run.tags):
            yield record


def _jobs(
    platforms: Sequence[AnyPlatform], run_ids: Sequence[str]
) -> Iterator[tuple[AnyPlatform, TaggedJob]]:
    """The jobs that runs created on platforms, each with its platform."""
    for platform in platforms:
        for job in platform.jobs_of_runs(run_ids):
            yield platform, job


def _description(platform: AnyPlatform, job: TaggedJob) -> JobDescription | None:
    try:
        return platform.describe(job.name)
    except JobNotFound:
        return None


def _unwanted(
    instance: dg.DagsterInstance,
    storage: Storage,
    platform: AnyPlatform,
    job: TaggedJob,
    description: JobDescription,
) -> str | None:
    """Why nobody can want the job any more; None where somebody may."""
    holders = {
        record.dagster_run.run_id: record
        for filters in (dg.RunsFilter(tags=job_tag(job.name)), dg.RunsFilter(run_ids=[job.run_id]))
        for record in instance.get_run_records(filters=filters)
    }
    if any(record.dagster_run.status in _ACTIVE for record in holders.values()):
        return None
    if any(_will_be_retried(record) for record in holders.values()):
        return None
    active = instance.get_runs(filters=dg.RunsFilter(statuses=_ACTIVE))
    if any(_builds(run, job.partition) for run in active):
        return None
    statuses = [record.dagster_run.status for record in holders.values()]
    if statuses and all(status is dg.DagsterRunStatus.CANCELED for status in statuses):
        return "its run was cancelled"
    for model in models_of(storage, job.model, job.partition):
        # Models are registered in the order in which they were trained, not in that of their data.
        if model.training_job != job.name and _created_after(
            platform, model.training_job, description.created_at
        ):
            return f"{model.training_job}, which was created later, has trained the same period"
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


def _created_after(platform: AnyPlatform, name: str, moment: datetime) -> bool:
    try:
        return platform.describe(name).created_at > moment
    except JobNotFound:
        return False
