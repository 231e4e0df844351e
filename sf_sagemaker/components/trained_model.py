"""The asset of a trained model: one training job on the partition's dataset, and what came of it.

What differs between kinds of models is a `ModelKind`: how it is trained, by a container program or by
a service's own, and a function that says of the artifact in metadata and a check what it is worth.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, Protocol

import dagster as dg
from pydantic import Field

from sf_sagemaker.components.attributes import AssetAttributes, Compute
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.containers import program_files
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.outcomes import Scorer
from sf_sagemaker.lifecycle.period_evaluation import Predictors
from sf_sagemaker.lifecycle.registry import describe_model, register_model
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.cost import actual_cost, share_of_cost, spot_saving
from sf_sagemaker.training.holding import not_retried
from sf_sagemaker.training.job import (
    ExternalChannel,
    Limits,
    Program,
    TrainingJob,
    dataset_channels,
)
from sf_sagemaker.training.pipes import JobMessages, PipesTrainingClient
from sf_sagemaker.training.platform import AnyPlatform, TrainingPlatform
from sf_sagemaker.training.run import JobResult
from sf_sagemaker.warehouse.dataset import DatasetSpec, Manifest, Split
from sf_sagemaker.warehouse.export import latest_manifest, read_rows, read_split, verify_files
from sf_sagemaker.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

CHECK = "beats_baseline"


class DatasetMissing(SfSagemakerError):
    """A partition without a committed dataset of the present configuration."""


class NoTestRows(SfSagemakerError):
    """A dataset on whose test split no model can be scored."""

    permanent = True


class TrainedModelConfig(dg.Config):
    """Run configuration of a model."""

    force: bool = Field(
        default=False,
        description="Train anew although a job of the same data, code and hyperparameters completed.",
    )


@dataclass(frozen=True)
class PartitionDataset:
    """The committed dataset of a partition, and the rows around it."""

    manifest: Manifest
    folder: str
    storage: Storage
    warehouse: Warehouse
    attributes: AssetAttributes

    def split(self, name: Split, columns: Sequence[str] | None = None) -> "pa.Table":
        """The rows of a split, or some of their columns."""
        return read_split(self.storage, self.manifest, self.folder, name, columns=columns)

    def next_period(self) -> "pa.Table | None":
        """The rows of the period after the dataset's; None where there is none, or no row yet."""
        cadence = self.attributes.cadence
        following = cadence.following(cadence.period(self.manifest.partition))
        if following is None:
            return None
        rows = read_rows(
            self.warehouse,
            self.manifest.spec,
            following.start,
            following.end,
            timezone=cadence.timezone,
        )
        return rows if rows.num_rows else None


@dataclass(frozen=True)
class Report:
    """What a model is worth: metadata for the UI, and the verdict of its check."""

    metadata: Mapping[str, Any]
    check: dg.AssetCheckResult


@dataclass(frozen=True)
class ModelKind:
    """A kind of model. `program` names the container program and its image's framework.

    `check_dataset` raises, before a job is started, where the dataset can't be reported on;
    `report` gets the folder of the unpacked artifact. `scorer` is how its models are evaluated later.

    `platform` is the resource that runs its jobs, and `service` how a kind is trained that isn't by
    the container program. Where its models are scored by other means than what lies in the artifact,
    those are the resources `means`, and `bind` gives the kind that uses them; `scoring_metadata` says
    what its scorer has used of them since it was last called. `accept_eula` says that somebody has
    accepted the terms of use of its base model.
    """

    asset_name: str
    program: Literal["xgboost", "llm"]
    kinds: frozenset[str]
    check_description: str
    check_dataset: Callable[[Manifest], None]
    report: Callable[[Path, PartitionDataset], Report]
    scorer: Scorer
    platform: str = "training_platform"
    service: "Method | None" = None
    means: frozenset[str] = frozenset()
    bind: "Callable[[dg.AssetExecutionContext], ModelKind] | None" = None
    scoring_metadata: Callable[[], Mapping[str, Any]] = dict
    accept_eula: bool = False

    @property
    def resource_keys(self) -> set[str]:
        """The resources that scoring a model needs, with warehouse and storage."""
        return {"warehouse", "storage", self.platform, *self.means}

    def bound(self, context: dg.AssetExecutionContext) -> "ModelKind":
        """The kind in a run with these resources."""
        return self if self.bind is None else self.bind(context)

    def predictors(self, context: dg.AssetExecutionContext) -> Predictors:
        """Loads the models of this kind."""
        platform: AnyPlatform = getattr(context.resources, self.platform)
        return Predictors(platform, self.bound(context).scorer)


class Trainer(Protocol):
    """Trains models of one kind within a run."""

    def train(
        self, dataset: PartitionDataset, limits: Limits, *, force: bool, interrupted: Event | None
    ) -> JobResult:
        """Trains a model of the dataset, or adopts the job that did or does.

        What a person should know of it beforehand is logged. Raises as `run_job` does.
        """
        ...


class Method(Protocol):
    """How models of a kind are trained, whatever the run."""

    @property
    def deciding(self) -> Sequence[object]:
        """What decides, beside the dataset, what the model will be: as JSON has it."""
        ...

    @property
    def resource_keys(self) -> set[str]:
        """The resources that training needs."""
        ...

    def limits(self) -> Limits:
        """What a job may use."""
        ...

    def trainer(self, context: dg.AssetExecutionContext) -> Trainer: ...


@dataclass(frozen=True)
class ContainerTraining:
    """Training by a container program, in jobs that report while they run."""

    framework: Literal["xgboost", "llm"]
    spec: DatasetSpec
    hyperparameters: Mapping[str, str]
    compute: Compute
    accept_eula: bool = False

    @property
    def program(self) -> Program:
        return Program(*program_files(self.framework))

    @property
    def deciding(self) -> Sequence[object]:
        deciding: list[object] = [
            self.program.digest,
            self.spec.digest,
            self.hyperparameters,
            self.spec.seed,
            self.compute.instance_count,
        ]
        return deciding if self.compute.image is None else [*deciding, self.compute.image]

    @property
    def resource_keys(self) -> set[str]:
        return {"training_platform", "training_messages"}

    def limits(self) -> Limits:
        return self.compute.limits()

    def trainer(self, context: dg.AssetExecutionContext) -> Trainer:
        platform: TrainingPlatform = context.resources.training_platform
        messages: JobMessages = context.resources.training_messages
        return _ContainerTrainer(self, context, platform, PipesTrainingClient(messages))


@dataclass(frozen=True)
class _ContainerTrainer:
    method: ContainerTraining
    context: dg.AssetExecutionContext
    platform: TrainingPlatform
    client: PipesTrainingClient

    def train(
        self, dataset: PartitionDataset, limits: Limits, *, force: bool, interrupted: Event | None
    ) -> JobResult:
        method, compute, manifest = self.method, self.method.compute, dataset.manifest
        hyperparameters, external = self._base_model(limits)
        job = TrainingJob(
            model=manifest.model,
            partition=manifest.partition,
            program=method.program,
            image=self.platform.image(method.framework, compute.instance_type, compute.image),
            dataset_fingerprint=manifest.fingerprint.value,
            channels=dataset_channels(dataset.folder),
            hyperparameters=hyperparameters,
            seed=method.spec.seed,
            instance_count=compute.instance_count,
            limits=limits,
            tags=compute.tags,
            external=external,
        )
        return self.client.run(
            context=self.context,
            job=job,
            platform=self.platform,
            force=force,
            interrupted=interrupted,
        ).result

    def _base_model(self, limits: Limits) -> tuple[Mapping[str, str], tuple[ExternalChannel, ...]]:
        """The hyperparameters of a job and the channel with its base, where it has one."""
        hyperparameters = self.method.hyperparameters
        if "base_model" not in hyperparameters:
            return hyperparameters, ()
        given = self.platform.base_model(
            hyperparameters["base_model"], limits, accept_eula=self.method.accept_eula
        )
        told = {**hyperparameters, "base_model": given.name}
        return told, () if given.channel is None else (given.channel,)


def trained_model(
    kind: ModelKind,
    *,
    spec: DatasetSpec,
    dataset_key: dg.AssetKey,
    hyperparameters: dict[str, str],
    compute: Compute,
    description: str,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The model asset `<model>/<asset name>`, with its check `beats_baseline`."""
    key = dg.AssetKey([spec.model, kind.asset_name])
    method = kind.service or ContainerTraining(
        kind.program, spec, hyperparameters, compute, kind.accept_eula
    )

    @dg.asset(
        key=key,
        description=description,
        deps=[dg.AssetDep(dataset_key, partition_mapping=dg.IdentityPartitionMapping())],
        partitions_def=attributes.partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=attributes.freshness_policy,
        code_version=model_code_version(method),
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds=set(kind.kinds),
        check_specs=[dg.AssetCheckSpec(CHECK, asset=key, description=kind.check_description)],
        required_resource_keys={*kind.resource_keys, *method.resource_keys},
    )
    def trained_model(
        context: dg.AssetExecutionContext, config: TrainedModelConfig
    ) -> dg.MaterializeResult:
        warehouse: Warehouse = context.resources.warehouse
        storage: Storage = context.resources.storage
        platform: AnyPlatform = getattr(context.resources, kind.platform)
        report_on = kind.bound(context).report
        trainer = method.trainer(context)
        limits = method.limits()

        def train(partition: str, interrupted: Event) -> Materialized:
            manifest, folder = _committed(storage, spec, partition)
            kind.check_dataset(manifest)
            dataset = PartitionDataset(manifest, folder, storage, warehouse, attributes)
            result = trainer.train(
                dataset,
                limits,
                force=config.force,
                interrupted=interrupted if len(context.partition_keys) > 1 else None,
            )
            with tempfile.TemporaryDirectory() as scratch:
                artifact = platform.fetch_artifact(result.name, Path(scratch))
                report = report_on(artifact, dataset)
            description = result.description
            register_model(
                storage,
                describe_model(
                    manifest,
                    folder,
                    training_job=result.name,
                    artifact_uri=description.artifact_uri or "",
                    trained_at=(description.ended_at or datetime.now(UTC)).isoformat(),
                ),
            )
            return Materialized(
                metadata=_in_reading_order(report.metadata, _job_metadata(result, limits)),
                data_version=result.name,
                checks=[report.check],
            )

        with not_retried(context):
            if platform.bills:
                limits = share_of_cost(limits, compute.instance_count, len(context.partition_keys))
            return materialize_each(context, train, parallel=compute.parallel_jobs)

    return trained_model


def check_test_rows(manifest: Manifest) -> None:
    """Raises NoTestRows for a dataset whose test split is empty."""
    if not manifest.rows("test"):
        raise NoTestRows(
            f"the test split of {manifest.model} for {manifest.partition} has none of its "
            f"{manifest.rows():,} rows, so nothing would tell what its model is worth: raise "
            "sample.splits.test, or lengthen sample.window"
        )


def model_code_version(method: Method) -> str:
    """Changes with the code and the configuration that decide what a dataset's model will be."""
    content = json.dumps(method.deciding, sort_keys=True, default=dict)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _committed(storage: Storage, spec: DatasetSpec, partition: str) -> tuple[Manifest, str]:
    """The partition's newest dataset and its folder, with whole files."""
    found = latest_manifest(storage, spec, partition)
    if found is None:
        raise DatasetMissing(
            f"there is no dataset of {spec.model} for {partition} with the present configuration "
            f"(specification {spec.digest}): materialize {spec.model}/sampled_training_dataset for it"
        )
    verify_files(storage, *found)
    return found


def _in_reading_order(report: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Tables and plots, then the job; last the figures that are there to be plotted over partitions."""
    figures = {name for name, value in report.items() if isinstance(value, int | float)}
    read = {name: value for name, value in report.items() if name not in figures}
    return {**read, **job, **{name: report[name] for name in report if name in figures}}


def _job_metadata(result: JobResult, limits: Limits) -> dict[str, Any]:
    description = result.description
    metadata: dict[str, Any] = {
        "training_job": result.name,
        "adopted": result.adopted,
        "attempt": result.attempt,
        "artifact": _link(description.artifact_uri or "none"),
    }
    if description.ended_at is not None:
        metadata["trained_at"] = dg.MetadataValue.timestamp(description.ended_at)
        metadata["age_hours"] = (datetime.now(UTC) - description.ended_at).total_seconds() / 3600
        if description.started_at is not None:
            seconds = (description.ended_at - description.started_at).total_seconds()
            metadata["training_seconds"] = seconds
    if description.log is not None:
        metadata["log"] = _link(description.log)
    if description.page is not None:
        metadata["training_job_page"] = _link(description.page)
    figures = {
        "instance_type": description.instance_type,
        "billable_seconds": description.billable_seconds,
        "cost": actual_cost(description, limits),
        "spot_saving": spot_saving(description),
    }
    return {**metadata, **{name: value for name, value in figures.items() if value is not None}}


def _link(address: str) -> dg.MetadataValue:
    """An address that a browser follows, or else a path: pages don't link to local files."""
    if address.startswith("https://"):
        return dg.MetadataValue.url(address)
    return dg.MetadataValue.path(address.removeprefix("file://"))
