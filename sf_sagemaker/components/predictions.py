"""The asset `<model>/predictions`: each period's rows, scored by the champion in force.

It depends on trained models, one of which the champion is, and not on the asset `champion`: that one
waits for an evaluation, and predictions are wanted before any label is known, and whatever becomes of the
evaluation.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Event
from typing import Any

import dagster as dg

from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.endpoint_attributes import Predictions
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.serving.batch import BatchScoring, TransformOptions
from sf_sagemaker.serving.errors import NoChampion
from sf_sagemaker.serving.predictions import Program, predict_period
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.cost import actual_cost
from sf_sagemaker.training.holding import RunHold, not_retried
from sf_sagemaker.training.run import JobResult
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.warehouse import Warehouse

# On runs in which a period without a champion in force is left out, with an observation that says so.
SKIP_TAG = "sf_sagemaker/skip_without_champion"


def predictions(
    *,
    spec: DatasetSpec,
    program: Program,
    model_key: dg.AssetKey,
    source_key: dg.AssetKey,
    options: Predictions,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The predictions asset, partitioned as the model is."""

    @dg.asset(
        key=[spec.model, "predictions"],
        description=(
            f"The rows of `{spec.source}` of the period, scored by the champion that was in force when "
            f"it began, as a table of the warehouse, `predictions.{spec.model}`. Rows without a label "
            "are scored too."
        ),
        deps=[
            dg.AssetDep(source_key, partition_mapping=dg.IdentityPartitionMapping()),
            dg.AssetDep(model_key, partition_mapping=dg.AllPartitionMapping()),
        ],
        partitions_def=attributes.partitions_def,
        output_required=False,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds={"table"},
    )
    def predictions(
        context: dg.AssetExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        storage: dg.ResourceParam[Storage],
        batch_scoring: dg.ResourceParam[BatchScoring],
    ) -> Iterator[dg.MaterializeResult]:
        transform = options.transform.options() if options.transform else None

        def score(partition: str, interrupted: Event) -> Materialized:
            several = len(context.partition_keys) > 1
            scored = predict_period(
                warehouse,
                storage,
                batch_scoring,
                spec,
                attributes.cadence,
                partition,
                program=program,
                predicted_at=datetime.now(UTC),
                batch_rows=options.batch_rows,
                transform=transform,
                hold=RunHold(context, "transform job", interrupted if several else None),
            )
            champion = scored.champion
            return Materialized(
                metadata={
                    "dagster/row_count": scored.rows,
                    "previous_rows": scored.previous_rows,
                    "dagster/table_name": scored.table,
                    "model_version": champion.version,
                    "training_job": champion.training_job,
                    "model_partition": champion.partition,
                    "predicted_at": dg.MetadataValue.timestamp(scored.predicted_at),
                    **(_job_metadata(scored.job, transform) if scored.job and transform else {}),
                }
            )

        try:
            with not_retried(context):
                yield materialize_each(context, score)
        except NoChampion as error:
            if not context.has_tag(SKIP_TAG):
                raise
            context.log_event(
                dg.AssetObservation(
                    context.asset_key,
                    partition=context.partition_key,
                    metadata={"skipped": str(error)},
                )
            )

    return predictions


def _job_metadata(job: JobResult, transform: TransformOptions) -> dict[str, Any]:
    """What the transform job of a period was, and what it cost where a price is configured."""
    its = job.description
    figures: dict[str, Any] = {
        "transform_job": job.name,
        "adopted": job.adopted,
        "attempt": job.attempt,
        "instance_type": its.instance_type,
        "instance_count": its.instance_count,
        "transform_seconds": its.billable_seconds,
        "cost": actual_cost(its, transform.limits),
        "transform_job_page": dg.MetadataValue.url(its.page) if its.page else None,
        "log": dg.MetadataValue.url(its.log) if its.log else None,
    }
    return {name: value for name, value in figures.items() if value is not None}
