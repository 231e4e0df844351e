"""The asset `<model>/evaluation`: what the models of earlier periods are worth on a period's rows."""

from datetime import UTC, datetime
from threading import Event
from typing import Any

import dagster as dg

from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.figures import defined, rounded
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.lifecycle.evaluation import Evaluation, PredictorScores
from sf_sagemaker.lifecycle.outcomes import REFERENCE, Scorer
from sf_sagemaker.lifecycle.period_evaluation import Predictors, evaluate_period
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.platform import TrainingPlatform
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.warehouse import Warehouse


def evaluation(
    *,
    spec: DatasetSpec,
    scorer: Scorer,
    model_key: dg.AssetKey,
    source_key: dg.AssetKey,
    max_age: int,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The evaluation asset; `max_age` is in periods."""
    partitions_def = attributes.partitions_def
    models = dg.TimeWindowPartitionMapping(
        start_offset=-max_age, end_offset=-1, allow_nonexistent_upstream_partitions=True
    )

    @dg.asset(
        key=[spec.model, "evaluation"],
        description=(
            f"The models that are up to {max_age} periods old, and a cheap reference that is fitted "
            "anew, on the rows of the period: error and bias with their intervals. Rows that none of "
            "them was trained on."
        ),
        deps=[
            dg.AssetDep(source_key, partition_mapping=dg.IdentityPartitionMapping()),
            dg.AssetDep(model_key, partition_mapping=models),
        ],
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds={"parquet", "table"},
    )
    def evaluation(
        context: dg.AssetExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        storage: dg.ResourceParam[Storage],
        training_platform: dg.ResourceParam[TrainingPlatform],
    ) -> dg.MaterializeResult:
        predictors = Predictors(training_platform, scorer)

        def evaluate(partition: str, _: Event) -> Materialized:
            evaluated = evaluate_period(
                warehouse,
                storage,
                spec,
                attributes.cadence,
                partition,
                predictors,
                max_age=max_age,
                evaluated_at=datetime.now(UTC),
                run_id=context.run_id,
            )
            for left_out in evaluated.left_out:
                context.log.warning(f"{left_out.predictor} was left out: {left_out.reason}")
            return Materialized(_metadata(evaluated, storage))

        return materialize_each(context, evaluate)

    return evaluation


def _metadata(evaluated: Evaluation, storage: Storage) -> dict[str, Any]:
    """Numbers of the youngest, the oldest and the best model are for the UI's plots over partitions."""
    models = [scores for scores in evaluated.scores if scores.predictor != REFERENCE]
    reference = [scores for scores in evaluated.scores if scores.predictor == REFERENCE]
    metadata: dict[str, Any] = {
        "metric": evaluated.metric,
        "rows": evaluated.rows,
        "models": len(models),
        "evaluated_at": dg.MetadataValue.timestamp(evaluated.evaluated_at),
        "dagster/uri": storage.uri(evaluated.key),
        "latest_view": f"lifecycle.{evaluated.model}_latest_evaluations",
    }
    if models:
        metadata |= _numbers("youngest_model", models[0]) | _numbers("oldest_model", models[-1])
    for scores in reference:
        metadata |= _numbers("reference", scores)
    if evaluated.scores:
        metadata["scores"] = _table(evaluated)
    if evaluated.left_out:
        metadata["left_out"] = dg.MetadataValue.table(
            [
                dg.TableRecord({"predictor": one.predictor, "reason": one.reason})
                for one in evaluated.left_out
            ]
        )
    return metadata


def _numbers(prefix: str, scores: PredictorScores) -> dict[str, float]:
    figures: dict[str, float] = {
        f"{prefix}_error": scores.error.estimate,
        f"{prefix}_bias": scores.bias.estimate,
    }
    if scores.age is not None:
        figures[f"{prefix}_age"] = scores.age
    return defined(figures)


def _table(evaluated: Evaluation) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "model": scores.partition or scores.predictor,
                    "age": scores.age,
                    "error": rounded(scores.error.estimate),
                    "error_low": rounded(scores.error.low),
                    "error_high": rounded(scores.error.high),
                    "bias": rounded(scores.bias.estimate),
                    "bias_low": rounded(scores.bias.low),
                    "bias_high": rounded(scores.bias.high),
                    "rows": scores.rows,
                    "warm_up": scores.warm_up,
                }
            )
            for scores in evaluated.scores
        ]
    )
