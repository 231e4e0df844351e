"""The asset `<model>/predictions`: each period's rows, scored by the champion in force."""

from datetime import UTC, datetime
from threading import Event

import dagster as dg

from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.endpoint_attributes import Predictions
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.serving.predictions import Program, predict_period
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.platform import TrainingPlatform
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.warehouse import Warehouse


def predictions(
    *,
    spec: DatasetSpec,
    program: Program,
    champion_key: dg.AssetKey,
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
            champion_key,
        ],
        partitions_def=attributes.partitions_def,
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
        training_platform: dg.ResourceParam[TrainingPlatform],
    ) -> dg.MaterializeResult:
        def score(partition: str, _: Event) -> Materialized:
            predicted_at = datetime.now(UTC)
            scored = predict_period(
                warehouse,
                storage,
                training_platform.fetch_artifact,
                spec,
                attributes.cadence,
                partition,
                program=program,
                predicted_at=predicted_at,
                batch_rows=options.batch_rows,
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
                    "predicted_at": dg.MetadataValue.timestamp(predicted_at),
                }
            )

        return materialize_each(context, score)

    return predictions
