"""The job `<model>_update`, and the schedule that launches it when a period has ended."""

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from sf_sagemaker.components.attributes import Partitions
from sf_sagemaker.components.lifecycle_attributes import Update
from sf_sagemaker.components.model_state import MAX_RETRIES_TAG, RetrainedModel
from sf_sagemaker.components.predictions import SKIP_TAG


def update_job(name: str) -> str:
    """The name of the job."""
    return f"{name}_update"


def update_definitions(
    assets: RetrainedModel,
    evaluation_key: dg.AssetKey,
    *,
    partitions: Partitions,
    update: Update,
    predictions_key: dg.AssetKey | None,
    tags: dict[str, str],
) -> dg.Definitions:
    """The job and its schedule, which is on. Raises InvalidPeriod for an offset that is too long.

    `predictions_key` is None where periods aren't scored.
    """
    # What the evaluation is built from, but no new model; a table may be maintained elsewhere.
    inputs = dg.AssetSelection.assets(evaluation_key).upstream()
    inputs = inputs - dg.AssetSelection.assets(assets.dataset, assets.model)
    scored = [] if predictions_key is None else [predictions_key]
    scores = ", scores its rows" if scored else ""
    job = dg.define_asset_job(
        update_job(assets.name),
        selection=inputs.materializable() | dg.AssetSelection.assets(assets.champion, *scored),
        description=f"Lands a period, builds and tests its features{scores}, evaluates the models of "
        f"{assets.name} on its rows, and looks at the champion.",
        # The first periods come before the first champion.
        tags={**tags, SKIP_TAG: "true"} if scored else tags,
    )
    cadence = partitions.cadence()
    delay = timedelta(days=update.delay(partitions).days)

    @dg.schedule(
        name=update_job(assets.name),
        job=job,
        cron_schedule=update.cron(partitions),
        execution_timezone=partitions.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Brings {assets.name} up to date {update.offset} after a period has ended.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        local = context.scheduled_execution_time.astimezone(ZoneInfo(partitions.timezone))
        # By the day: where clocks are put forward, the hour is not the one that was asked for.
        end = datetime.combine(local.date(), time()) - delay
        ended = cadence.containing(end - timedelta(seconds=1))
        # Dagster's own schedule of a partitioned job would ask for the last period for ever.
        if ended is None:
            return dg.SkipReason(f"no period ended then: {_extent(partitions)}")
        return dg.RunRequest(
            run_key=ended.key,
            partition_key=ended.key,
            tags={MAX_RETRIES_TAG: str(update.max_retries)},
        )

    return dg.Definitions(jobs=[job], schedules=[schedule])


def _extent(partitions: Partitions) -> str:
    until = f" until {partitions.end}" if partitions.end else ""
    return f"they go from {partitions.start}{until}"
