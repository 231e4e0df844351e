"""The asset `<model>/trained_xgboost_model`: one training job, and what its model is worth."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from sf_sagemaker.components import plots
from sf_sagemaker.components.attributes import Compute
from sf_sagemaker.components.errors import suggest
from sf_sagemaker.containers import program_files
from sf_sagemaker.containers.metrics import METRICS
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.baseline import Baseline, fit_baseline
from sf_sagemaker.lifecycle.evaluation import Scores, score
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.job import Channel, Program, TrainingJob
from sf_sagemaker.training.pipes import JobMessages, PipesTrainingClient
from sf_sagemaker.training.platform import TrainingPlatform
from sf_sagemaker.training.run import TrainingResult
from sf_sagemaker.warehouse.dataset import DatasetSpec, Manifest
from sf_sagemaker.warehouse.export import latest_manifest, read_rows, read_split, verify_files
from sf_sagemaker.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

    from sf_sagemaker.containers.xgboost.model_card import ModelCard

_CHECK = "beats_baseline"


class DatasetMissing(SfSagemakerError):
    """A partition without a committed dataset of the present configuration."""


class BaselineColumnMissing(SfSagemakerError):
    """A dataset without the column whose groups the baseline answers for."""


class TrainedModelConfig(dg.Config):
    """Run configuration of a model."""

    force: bool = Field(
        default=False,
        description="Train anew although a job of the same data, code and hyperparameters completed.",
    )


@dataclass(frozen=True)
class Judgement:
    """How a model is judged: the metric that counts, and the groups that the baseline answers for."""

    metric: str
    baseline_by: str | None


def trained_xgboost_model(
    *,
    spec: DatasetSpec,
    dataset_key: dg.AssetKey,
    hyperparameters: Mapping[str, str],
    compute: Compute,
    judgement: Judgement,
    description: str | None,
    cadence: Cadence,
    partitions_def: dg.PartitionsDefinition,
    automation_condition: dg.AutomationCondition | None,
    group: str,
    owners: Sequence[str],
    tags: Mapping[str, str],
) -> dg.AssetsDefinition:
    """The model asset, with its check `beats_baseline`."""
    key = dg.AssetKey([spec.model, "trained_xgboost_model"])
    program = Program(*program_files("xgboost"))

    @dg.asset(
        key=key,
        description=description
        or f"XGBoost model of `{spec.target}`, trained on the partition's dataset.",
        deps=[dg.AssetDep(dataset_key, partition_mapping=dg.IdentityPartitionMapping())],
        partitions_def=partitions_def,
        automation_condition=automation_condition,
        code_version=program.digest[:12],
        group_name=group,
        owners=owners,
        tags=tags,
        kinds={"xgboost", "sagemaker"},
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK,
                asset=key,
                description=f"On the test split, the model's {judgement.metric} is better than the "
                "baseline's.",
            )
        ],
    )
    def trained_model(
        context: dg.AssetExecutionContext,
        config: TrainedModelConfig,
        warehouse: dg.ResourceParam[Warehouse],
        storage: dg.ResourceParam[Storage],
        training_platform: dg.ResourceParam[TrainingPlatform],
        training_messages: dg.ResourceParam[JobMessages],
    ) -> Iterator[dg.MaterializeResult]:
        from sf_sagemaker.containers.xgboost.model import load_model

        manifest, folder = _dataset(storage, spec, context.partition_key)
        _check_baseline_column(manifest, judgement.baseline_by)
        job = TrainingJob(
            model=spec.model,
            partition=context.partition_key,
            program=program,
            image=training_platform.image("xgboost"),
            dataset_fingerprint=manifest.fingerprint.value,
            channels=(
                Channel("train", f"{folder}/train", "sharded"),
                Channel("validation", f"{folder}/validation"),
                Channel("test", f"{folder}/test"),
                Channel("manifest", f"{folder}/manifest.json"),
            ),
            hyperparameters=hyperparameters,
            seed=spec.seed,
            instance_count=compute.instance_count,
            limits=compute.limits(),
        )
        result = (
            PipesTrainingClient(training_messages)
            .run(context=context, job=job, platform=training_platform, force=config.force)
            .result
        )
        with tempfile.TemporaryDirectory() as scratch:
            model = load_model(training_platform.fetch_artifact(result.name, Path(scratch)))
            scores = {
                name: score(
                    model,
                    baseline,
                    rows,
                    manifest.target.name,
                    classes=manifest.target.classes,
                    positive=manifest.target.kind == "positive",
                )
                for baseline in [_baseline(storage, manifest, folder, judgement.baseline_by)]
                for name, rows in _labelled_rows(
                    warehouse, storage, spec, cadence, manifest, folder
                ).items()
                if rows.num_rows
            }
        yield dg.MaterializeResult(
            metadata=_metadata(result, model.card, scores, judgement.metric),
            data_version=dg.DataVersion(result.name),
            check_results=[_beats_baseline(scores["test"], judgement.metric)],
        )

    return trained_model


def _dataset(storage: Storage, spec: DatasetSpec, partition: str) -> tuple[Manifest, str]:
    """The partition's newest dataset and its folder, with whole files."""
    found = latest_manifest(storage, spec, partition)
    if found is None:
        raise DatasetMissing(
            f"there is no dataset of {spec.model} for {partition} with the present configuration "
            f"(specification {spec.digest}): materialize {spec.model}/sampled_training_dataset for it"
        )
    verify_files(storage, *found)
    return found


def _check_baseline_column(manifest: Manifest, by: str | None) -> None:
    columns = [column.name for column in manifest.columns]
    if by is not None and by.lower() not in columns:
        raise BaselineColumnMissing(
            f"evaluation.baseline_by is {by!r}, which is no column of the dataset of {manifest.model} "
            f"for {manifest.partition}. {suggest(by, columns)}"
        )


def _baseline(storage: Storage, manifest: Manifest, folder: str, by: str | None) -> Baseline:
    target, by = manifest.target, by.lower() if by else None
    columns = [target.name] if by is None else [target.name, by]
    train = read_split(storage, manifest, folder, "train", columns=columns)
    return fit_baseline(train, target.name, by=by, classes=target.classes)


def _labelled_rows(
    warehouse: Warehouse,
    storage: Storage,
    spec: DatasetSpec,
    cadence: Cadence,
    manifest: Manifest,
    folder: str,
) -> "dict[str, pa.Table]":
    """The rows to score on: validation and test, and the following period's where it has landed."""
    rows = {
        "validation": read_split(storage, manifest, folder, "validation"),
        "test": read_split(storage, manifest, folder, "test"),
    }
    following = cadence.following(cadence.period(manifest.partition))
    if following is not None:
        rows["next_period"] = read_rows(
            warehouse, spec, following.start, following.end, timezone=cadence.timezone
        )
    return rows


def _beats_baseline(scores: Scores, metric: str) -> dg.AssetCheckResult:
    if metric not in scores.model or metric not in scores.baseline:
        return dg.AssetCheckResult(
            check_name=_CHECK,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"reason": f"{metric} is not defined on these {scores.rows} rows"},
        )
    model, baseline = scores.model[metric], scores.baseline[metric]
    loss = METRICS[metric].loss
    return dg.AssetCheckResult(
        check_name=_CHECK,
        passed=loss(model) < loss(baseline),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"metric": metric, "model": model, "baseline": baseline, "rows": scores.rows},
    )


def _metadata(
    result: TrainingResult, card: "ModelCard", scores: Mapping[str, Scores], metric: str
) -> dict[str, Any]:
    description = result.description
    metadata: dict[str, Any] = {
        "scores": _table(scores, metric),
        "training_job": result.name,
        "adopted": result.adopted,
        "attempt": result.attempt,
        "rounds": card.rounds["best"],
        "artifact": dg.MetadataValue.url(description.artifact_uri or ""),
        "model_card": dg.MetadataValue.json(_summary(card)),
        "learning_curve": plots.learning_curve(card.learning_curve, card.rounds["best"]),
        "feature_importance": plots.feature_importance(card.feature_importance),
    }
    if description.ended_at is not None:
        metadata["trained_at"] = dg.MetadataValue.timestamp(description.ended_at)
        metadata["age_hours"] = (datetime.now(UTC) - description.ended_at).total_seconds() / 3600
        if description.started_at is not None:
            seconds = (description.ended_at - description.started_at).total_seconds()
            metadata["training_seconds"] = seconds
    if description.log is not None:
        metadata["log"] = dg.MetadataValue.path(description.log)
    for rows, figures in scores.items():
        metadata[f"{rows}_rows"] = figures.rows
        for name, value in figures.model.items():
            metadata[f"{rows}_{name}"] = value
        for name, value in figures.baseline.items():
            metadata[f"{rows}_baseline_{name}"] = value
    if "next_period" not in scores:
        metadata["next_period"] = "has not landed"
    return metadata


def _summary(card: "ModelCard") -> dict[str, Any]:
    """The card without what has a place of its own, or is too long to read."""
    content = asdict(card)
    for shown_elsewhere in ("learning_curve", "feature_importance", "golden_rows"):
        del content[shown_elsewhere]
    content["features"] = [feature.name for feature in card.features]
    return content


def _table(scores: Mapping[str, Scores], metric: str) -> dg.MarkdownMetadataValue:
    """The metric that counts on each set of rows; short enough for the UI to show it inline."""
    lines = [f"| {metric.replace('_', ' ')} | model | baseline | rows |", "|---|---|---|---|"]
    for rows, figures in scores.items():
        model, baseline = (f.get(metric, math.nan) for f in (figures.model, figures.baseline))
        lines.append(
            f"| {rows.replace('_', ' ')} | {model:.4g} | {baseline:.4g} | {figures.rows:,} |"
        )
    return dg.MetadataValue.md("\n".join(lines))
