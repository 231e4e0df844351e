"""The job `<model>_update`, and the schedule that launches it when a period has ended."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from sf_sagemaker.components.attributes import Partitions
from sf_sagemaker.components.model_state import RetrainedModel


def update_job(name: str) -> str:
    """The name of the job."""
    return f"{name}_update"


def update_definitions(
    assets: RetrainedModel,
    evaluation_key: dg.AssetKey,
    *,
    partitions: Partitions,
    tags: dict[str, str],
) -> dg.Definitions:
    """The job and its schedule, which is on."""
    # What the evaluation is built from, but no new model; a table may be maintained elsewhere.
    inputs = dg.AssetSelection.assets(evaluation_key).upstream()
    inputs = inputs - dg.AssetSelection.assets(assets.dataset, assets.model)
    job = dg.define_asset_job(
        update_job(assets.name),
        selection=inputs.materializable() | dg.AssetSelection.assets(assets.champion),
        description="Lands a period, builds and tests its features, evaluates the models of "
        f"{assets.name} on its rows, and looks at the champion.",
        tags=tags,
    )
    cadence = partitions.cadence()

    @dg.schedule(
        name=update_job(assets.name),
        job=job,
        cron_schedule=partitions.cron(),
        execution_timezone=partitions.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Brings {assets.name} up to date when a period has ended.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        local = context.scheduled_execution_time.astimezone(ZoneInfo(partitions.timezone))
        ended = cadence.containing(local.replace(tzinfo=None) - timedelta(seconds=1))
        # Dagster's own schedule of a partitioned job would ask for the last period for ever.
        if ended is None:
            return dg.SkipReason(f"no period ended then: {_extent(partitions)}")
        return dg.RunRequest(run_key=ended.key, partition_key=ended.key)

    return dg.Definitions(jobs=[job], schedules=[schedule])


def _extent(partitions: Partitions) -> str:
    until = f" until {partitions.end}" if partitions.end else ""
    return f"they go from {partitions.start}{until}"
