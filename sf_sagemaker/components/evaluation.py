"""The asset `<model>/evaluation`: what the models of earlier periods are worth on a period's rows.

An evaluation is made as of the end of the newest landed period: that is what now is in data time, in a
replay of history as in operation. Earlier periods of which labels have become known, or were corrected,
since their last evaluation are evaluated again beside it.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field, field_validator

from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.figures import defined, rounded
from sf_sagemaker.components.model_state import newest_partition
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.components.trained_model import ModelKind
from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.evaluation import Evaluation, PredictorScores
from sf_sagemaker.lifecycle.labels import periods_to_evaluate_again
from sf_sagemaker.lifecycle.outcomes import REFERENCE
from sf_sagemaker.lifecycle.period_evaluation import evaluate_period
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.warehouse import Warehouse


class EvaluationConfig(dg.Config):
    """Run configuration of an evaluation."""

    known_by: str | None = Field(
        default=None,
        description="Only labels that were known by this date (YYYY-MM-DD) count; by the end of the "
        "newest landed period unless written.",
    )

    @field_validator("known_by")
    @classmethod
    def _is_date(cls, value: str | None) -> str | None:
        if value is not None:
            date.fromisoformat(value)  # as the step reads it
        return value


def evaluation(
    *,
    spec: DatasetSpec,
    kind: ModelKind,
    model_key: dg.AssetKey,
    source_key: dg.AssetKey,
    max_age: int,
    from_predictions: bool,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The evaluation asset; `max_age` is in periods. `from_predictions` is as `evaluate_period` has it."""
    partitions_def = attributes.partitions_def
    cadence = attributes.cadence
    models = dg.TimeWindowPartitionMapping(
        start_offset=-max_age, end_offset=-1, allow_nonexistent_upstream_partitions=True
    )

    @dg.asset(
        key=[spec.model, "evaluation"],
        description=(
            f"The models that are up to {max_age} periods old, and a cheap reference that is fitted "
            "anew, on the rows of the period: error and bias with their intervals. Rows that none of "
            "them was trained on. Earlier periods whose labels have become known or were corrected are "
            "evaluated again."
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
        required_resource_keys=kind.resource_keys,
    )
    def evaluation(
        context: dg.AssetExecutionContext, config: EvaluationConfig
    ) -> dg.MaterializeResult:
        warehouse: Warehouse = context.resources.warehouse
        storage: Storage = context.resources.storage
        bound = kind.bound(context)
        predictors = bound.predictors(context)
        now = _now(context, source_key, cadence)
        known_by = datetime.fromisoformat(config.known_by) if config.known_by else now

        def evaluate(partition: str) -> Materialized:
            evaluated = evaluate_period(
                warehouse,
                storage,
                spec,
                cadence,
                partition,
                predictors,
                max_age=max_age,
                evaluated_at=datetime.now(UTC),
                known_by=known_by,
                from_predictions=from_predictions,
                run_id=context.run_id,
            )
            for left_out in evaluated.left_out:
                context.log.warning(f"{left_out.predictor} was left out: {left_out.reason}")
            metadata = {**_metadata(evaluated, storage), **bound.scoring_metadata()}
            if from_predictions:
                metadata["rows_from_predictions"] = evaluated.from_predictions
            return Materialized(metadata)

        if config.known_by is None:  # which a person says of the run's own periods only
            own = set(context.partition_keys)
            late = periods_to_evaluate_again(warehouse, storage, spec, cadence, now)
            _evaluate_again(
                context, [partition for partition in late if partition not in own], evaluate
            )
        return materialize_each(context, lambda partition, _: evaluate(partition))

    return evaluation


def _now(context: dg.AssetExecutionContext, source_key: dg.AssetKey, cadence: Cadence) -> datetime:
    """The end of the newest period that has landed, or that the run is about.

    Where nothing reports what has landed, the source is taken to hold what there is by the clock.
    """
    landed = newest_partition(context.instance, source_key, cadence)
    if landed is None:
        return datetime.now(ZoneInfo(cadence.timezone)).replace(tzinfo=None)
    return max(cadence.period(key).end for key in (landed, *context.partition_keys))


def _evaluate_again(
    context: dg.AssetExecutionContext,
    partitions: Sequence[str],
    evaluate: Callable[[str], Materialized],
) -> None:
    """Evaluates periods that are not the run's own, and records them.

    One that fails keeps its last evaluation, and is tried again by the next run: what has landed now
    must not wait for it.
    """
    for partition in partitions:
        try:
            evaluated = evaluate(partition)
        except (SfSagemakerError, ContainerError) as error:
            context.log.error(f"{partition} could not be evaluated again: {error}")
            continue
        context.log.info(f"{partition} was evaluated again: other labels of it are known now")
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key, partition=partition, metadata=evaluated.metadata
            )
        )


def _metadata(evaluated: Evaluation, storage: Storage) -> dict[str, Any]:
    """Numbers of the youngest, the oldest and the best model are for the UI's plots over partitions."""
    models = [scores for scores in evaluated.scores if scores.predictor != REFERENCE]
    reference = [scores for scores in evaluated.scores if scores.predictor == REFERENCE]
    metadata: dict[str, Any] = {
        "metric": evaluated.metric,
        "rows": evaluated.rows,
        "unlabelled_rows": evaluated.unlabelled,
        "models": len(models),
        "evaluated_at": dg.MetadataValue.timestamp(evaluated.evaluated_at),
        "labels_known_by": f"{evaluated.known_by:%Y-%m-%d %H:%M}" if evaluated.known_by else "now",
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
                    "of_unknown_class": scores.unknown_class,
                    "warm_up": scores.warm_up,
                }
            )
            for scores in evaluated.scores
        ]
    )
